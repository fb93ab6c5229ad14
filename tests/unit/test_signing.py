"""A service that knows whom to trust serves nothing of the store that they have not signed."""

from __future__ import annotations

import json
import shutil
import stat
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from typer.testing import CliRunner

from model_store.addition import add_model
from model_store.signing import (
    TrustedKeys,
    TrustSettings,
    read_private_key,
    read_public_key,
    sign,
    signature_path,
    trusted_keys,
)
from model_store.store import CATALOG, Store
from services.cli import app
from services.core.errors import InvalidParameter, UntrustedModel, from_json
from tests.unit.tiny_networks import write_model

PEM = serialization.Encoding.PEM
PKCS8 = serialization.PrivateFormat.PKCS8
SPKI = serialization.PublicFormat.SubjectPublicKeyInfo
PLAIN = serialization.NoEncryption()


def write_private(path: Path, key: Any, mode: int = 0o600) -> Path:
    path.write_bytes(key.private_bytes(PEM, PKCS8, PLAIN))
    path.chmod(mode)
    return path


def write_public(path: Path, key: Any) -> Path:
    path.write_bytes(key.public_key().public_bytes(PEM, SPKI))
    return path


@pytest.fixture
def key() -> Ed25519PrivateKey:
    return Ed25519PrivateKey.generate()


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a model: adding one tries its networks in a process of their own."""
    folder = tmp_path_factory.mktemp("shelf")
    add_model(Store(folder / "store", catalogs=()), write_model(folder / "gan"))
    return folder / "store"


@pytest.fixture
def added(shelf: Path, tmp_path: Path) -> Store:
    return Store(shutil.copytree(shelf, tmp_path / "store"), catalogs=())


def trusting(store: Store, *keys: Ed25519PrivateKey) -> Store:
    trust = TrustedKeys([key.public_key() for key in keys])
    return Store(store.user.root, catalogs=(), trust=trust)


def test_without_keys_nobody_is_asked(added: Store) -> None:
    assert trusted_keys(TrustSettings(public_keys=())) is None
    assert added.get("my-gan").id == "my-gan"


def test_a_signed_model_is_served(added: Store, key: Ed25519PrivateKey) -> None:
    sign(added.get("my-gan"), added.user.root, key)
    served = trusting(added, Ed25519PrivateKey.generate(), key)
    assert served.read("my-gan", "generator.onnx")
    assert [manifest.id for manifest in served.list()] == ["my-gan"]


def test_an_unsigned_model_is_not_opened(added: Store, key: Ed25519PrivateKey) -> None:
    served = trusting(added, key)
    for use in (served.get, served.entry, lambda name: served.read(name, "generator.onnx")):
        with pytest.raises(UntrustedModel, match=r"'my-gan' is not signed; .*atelier models sign"):
            use("my-gan")
    assert list(served.list()) == []


def test_a_signature_of_somebody_else_does_not_count(added: Store, key: Ed25519PrivateKey) -> None:
    sign(added.get("my-gan"), added.user.root, Ed25519PrivateKey.generate())
    with pytest.raises(UntrustedModel, match="not among ATELIER_MODELS__PUBLIC_KEYS"):
        trusting(added, key).get("my-gan")


@pytest.mark.parametrize("field", ["description", "sha256"])
def test_a_manifest_that_was_changed_is_noticed(
    added: Store, key: Ed25519PrivateKey, field: str
) -> None:
    sign(added.get("my-gan"), added.user.root, key)
    served = trusting(added, key)
    served.get("my-gan")
    path = added.user.root / "models" / "my-gan.json"
    manifest = json.loads(path.read_text())
    if field == "description":
        manifest["description"] = "somebody else's"
    else:
        manifest["networks"]["generator"]["onnx"]["sha256"] = "0" * 64
    path.write_text(json.dumps(manifest))
    with pytest.raises(UntrustedModel, match="changed since"):
        served.get("my-gan")


def test_a_signature_is_good_for_one_name(added: Store, key: Ed25519PrivateKey) -> None:
    sign(added.get("my-gan"), added.user.root, key)
    models = added.user.root / "models"
    text = (models / "my-gan.json").read_text()
    (models / "other.json").write_text(text.replace('"my-gan"', '"other"'))
    copy = signature_path(added.user.root, "other")
    copy.write_bytes(signature_path(added.user.root, "my-gan").read_bytes())
    with pytest.raises(UntrustedModel, match="'other' is not one over its manifest"):
        trusting(added, key).get("other")


def test_a_models_signature_is_not_one_of_an_adapter(added: Store, key: Ed25519PrivateKey) -> None:
    manifest = added.get("my-gan")
    sign(manifest, added.user.root, key, noun="adapter")
    with pytest.raises(UntrustedModel, match="not one over its manifest"):
        trusting(added, key).get("my-gan")


@pytest.mark.parametrize("content", [b"", b"{}", b'{"version": 2}', b"[" * 3000, b"\xff"])
def test_a_signature_that_cannot_be_read_is_none(
    added: Store, key: Ed25519PrivateKey, content: bytes
) -> None:
    sign(added.get("my-gan"), added.user.root, key)
    signature_path(added.user.root, "my-gan").write_bytes(content)
    with pytest.raises(UntrustedModel, match="cannot be read"):
        trusting(added, key).get("my-gan")


def test_a_field_that_a_later_release_adds_breaks_no_signature(
    added: Store, key: Ed25519PrivateKey
) -> None:
    path = added.user.root / "models" / "my-gan.json"
    manifest = json.loads(path.read_text())
    sign(added.get("my-gan"), added.user.root, key)
    # As the release before wrote it, which did not know the field.
    assert manifest.pop("metrics") == {}
    path.write_text(json.dumps(manifest))
    assert trusting(added, key).get("my-gan")


def test_removing_a_model_removes_its_signature(added: Store, key: Ed25519PrivateKey) -> None:
    sign(added.get("my-gan"), added.user.root, key)
    added.remove("my-gan")
    assert not signature_path(added.user.root, "my-gan").exists()


def test_the_catalog_comes_with_the_code(tmp_path: Path, key: Ed25519PrivateKey) -> None:
    served = Store(tmp_path, catalogs=(CATALOG,), trust=TrustedKeys([key.public_key()]))
    assert served.get("shapes-cgan").id == "shapes-cgan"


def test_it_crosses_processes_as_itself() -> None:
    error = UntrustedModel("the model 'm' is not signed")
    assert isinstance(from_json(error.to_json()), UntrustedModel)


def test_keys_are_read_from_files(
    tmp_path: Path, key: Ed25519PrivateKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    private, public = write_private(tmp_path / "k", key), write_public(tmp_path / "p", key)
    assert read_private_key(private).private_bytes_raw() == key.private_bytes_raw()
    assert read_public_key(public) == key.public_key()
    monkeypatch.setenv("ATELIER_MODELS__PUBLIC_KEYS", json.dumps([str(public)]))
    assert trusted_keys() is not None


def test_what_is_no_key_is_refused(tmp_path: Path, key: Ed25519PrivateKey) -> None:
    other = ec.generate_private_key(ec.SECP256R1())
    for path in (write_public(tmp_path / "ec", other), write_private(tmp_path / "k", key)):
        with pytest.raises(InvalidParameter, match="no Ed25519 public key"):
            read_public_key(path)
    for path in (write_private(tmp_path / "eck", other), write_public(tmp_path / "p", key)):
        path.chmod(stat.S_IRUSR)
        with pytest.raises(InvalidParameter, match="no unencrypted Ed25519 private key"):
            read_private_key(path)
    with pytest.raises(InvalidParameter, match="chmod 600"):
        read_private_key(write_private(tmp_path / "open", key, 0o644))
    with pytest.raises(InvalidParameter, match="cannot be read"):
        trusted_keys(TrustSettings(public_keys=(tmp_path / "absent",)))


def test_the_command_signs_what_is_whole(
    added: Store, key: Ed25519PrivateKey, tmp_path: Path
) -> None:
    private = write_private(tmp_path / "k", key)
    command = ["models", "sign", "--store", str(added.user.root), "--key", str(private)]
    run = CliRunner().invoke(app, [*command, "my-gan"])
    assert run.exit_code == 0, run.output
    assert trusting(added, key).get("my-gan")
    refused = CliRunner().invoke(app, [*command, "shapes-cgan"])
    assert refused.exit_code != 0
    (blob,) = (added.user.root / "blobs").iterdir()
    blob.chmod(0o600)
    blob.write_bytes(b"changed")
    broken = CliRunner().invoke(app, [*command, "my-gan"])
    assert broken.exit_code != 0
    assert "is not signed" in broken.output
