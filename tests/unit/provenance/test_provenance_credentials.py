"""The certificate and key that sign: kept secret, shared by replicas, checked at the start."""

from __future__ import annotations

import datetime
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from pydantic import ValidationError

from services.core.errors import InvalidParameter
from services.gateway.settings import GatewaySettings, check_provenance
from services.provenance import credentials
from services.provenance.credentials import load_credentials
from services.provenance.inspection import inspect
from services.provenance.settings import ProvenanceSettings
from services.provenance.signing import ManifestSigner
from tests.unit.provenance.conftest import picture, record

DEVELOPMENT = ProvenanceSettings()
MANY = """
import sys
from pathlib import Path
from services.provenance.credentials import load_credentials
from services.provenance.settings import ProvenanceSettings
print(load_credentials(ProvenanceSettings(), Path(sys.argv[1])).chain.hex())
"""


def own_files(folder: Path, key: Any, *, days: int = 30) -> dict[str, Any]:
    """A certificate for a key as an operator would have it, below an authority of its own."""
    authority = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, "Example Studio")])
    leaf_name = x509.Name([*name, x509.NameAttribute(x509.NameOID.COMMON_NAME, "studio signer")])
    now = datetime.datetime.now(datetime.UTC)

    def made(subject: x509.Name, public: Any, *, ca: bool) -> x509.Certificate:
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(name)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=60))
            .not_valid_after(now + datetime.timedelta(days=days))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.public_key()), False
            )
            .add_extension(credentials._usage(signs_certificates=ca), critical=True)
        )
        if not ca:
            purpose = x509.ExtendedKeyUsage([x509.ExtendedKeyUsageOID.EMAIL_PROTECTION])
            builder = builder.add_extension(purpose, critical=False)
        return builder.sign(authority, hashes.SHA256())

    pem = serialization.Encoding.PEM
    chain = [
        made(leaf_name, key.public_key(), ca=False),
        made(name, authority.public_key(), ca=True),
    ]
    (folder / "chain.pem").write_bytes(b"".join(one.public_bytes(pem) for one in chain))
    (folder / "key.pem").write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    (folder / "key.pem").chmod(0o600)
    return {"certificate_file": folder / "chain.pem", "key_file": folder / "key.pem"}


def signer_for(settings: ProvenanceSettings, folder: Path) -> ManifestSigner:
    return ManifestSigner(load_credentials(settings, folder), max_manifest_bytes=1 << 20)


def test_the_development_certificate_is_made_once_and_kept(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "provenance"
    first = load_credentials(DEVELOPMENT, folder)
    assert load_credentials(DEVELOPMENT, folder) == first
    assert first.development
    assert (folder.stat().st_mode & 0o777) == 0o700
    for file in folder.iterdir():
        assert (file.stat().st_mode & 0o777) == 0o600, file


def test_replicas_that_start_together_agree_on_it(tmp_path: Path) -> None:
    command = [sys.executable, "-c", MANY, str(tmp_path / "provenance")]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(4)]
    said = {process.communicate(timeout=120)[0] for process in processes}
    assert [process.returncode for process in processes] == [0] * 4
    assert len(said) == 1
    assert said != {b""}


def test_a_damaged_or_ending_one_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = load_credentials(DEVELOPMENT, tmp_path)
    path = tmp_path / credentials.DEVELOPMENT_FILE
    path.write_bytes(path.read_bytes()[:300])
    second = load_credentials(DEVELOPMENT, tmp_path)
    assert second.chain != first.chain
    monkeypatch.setattr(credentials, "RENEWED_DAYS", credentials.DEVELOPMENT_DAYS)
    assert load_credentials(DEVELOPMENT, tmp_path).chain != second.chain


@pytest.mark.parametrize(
    ("algorithm", "key"),
    [
        ("es256", ec.generate_private_key(ec.SECP256R1())),
        ("es384", ec.generate_private_key(ec.SECP384R1())),
        ("ps256", rsa.generate_private_key(public_exponent=65537, key_size=2048)),
        ("ed25519", ed25519.Ed25519PrivateKey.generate()),
    ],
    ids=["es256", "es384", "ps256", "ed25519"],
)
def test_an_operators_certificate_signs(tmp_path: Path, algorithm: Any, key: Any) -> None:
    settings = ProvenanceSettings(algorithm=algorithm, **own_files(tmp_path, key))
    loaded = load_credentials(settings, tmp_path / "unused")
    assert not loaded.development
    assert not (tmp_path / "unused").exists()
    signed = signer_for(settings, tmp_path).signed(picture(), "png", record())
    manifest = inspect(signed, [loaded.anchor]).manifest
    assert (manifest.verdict, manifest.signer) == ("trusted", "studio signer")
    assert inspect(signed).manifest.verdict == "untrusted"


def test_what_cannot_sign_is_refused_at_the_start_and_no_key_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files = own_files(tmp_path, ec.generate_private_key(ec.SECP256R1()))
    secret = files["key_file"].read_text().splitlines()[1]
    other = tmp_path / "other"
    other.mkdir()
    stranger = own_files(other, ec.generate_private_key(ec.SECP256R1()))
    expired = tmp_path / "expired"
    expired.mkdir()
    old = own_files(expired, ec.generate_private_key(ec.SECP256R1()), days=-1)
    broken = tmp_path / "broken.pem"
    broken.write_text("-----BEGIN PRIVATE KEY-----\n" + secret + "\n")
    broken.chmod(0o600)
    wrong: list[tuple[dict[str, Any], str]] = [
        ({**files, "algorithm": "ps256"}, "ps256"),
        ({**files, "key_file": stranger["key_file"]}, "not that of the first"),
        ({**files, "key_file": broken}, "no unencrypted PEM"),
        ({**files, "key_file": tmp_path / "none.pem"}, "cannot be read"),
        ({**files, "certificate_file": files["key_file"]}, "no PEM certificates"),
        (old, "validity"),
    ]
    for fields, said in wrong:
        with pytest.raises(InvalidParameter, match=said) as refusal:
            signer_for(ProvenanceSettings(**fields), tmp_path)
        told = f"{refusal.value.message} {refusal.getrepr(chain=True)} {caplog.text}"
        assert secret not in told.replace(str(files), "")


def test_a_key_that_everybody_can_read_is_refused(tmp_path: Path) -> None:
    files = own_files(tmp_path, ec.generate_private_key(ec.SECP256R1()))
    files["key_file"].chmod(0o644)
    with pytest.raises(InvalidParameter, match="chmod"):
        load_credentials(ProvenanceSettings(**files), tmp_path)
    files["key_file"].chmod(0o640)  # a group's, as orchestrators mount secrets
    load_credentials(ProvenanceSettings(**files), tmp_path)


def test_the_key_is_in_no_words_about_the_credentials(tmp_path: Path) -> None:
    loaded = load_credentials(DEVELOPMENT, tmp_path)
    body = loaded.key.decode().splitlines()[1]
    assert body not in f"{loaded!r} {loaded} {ProvenanceSettings()!r}"


def test_a_certificate_without_its_key_is_no_setting() -> None:
    with pytest.raises(ValidationError, match="together"):
        ProvenanceSettings(certificate_file=Path("chain.pem"))


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidParameter, match="CERTIFICATE_FILE"):
        load_credentials(DEVELOPMENT, tmp_path / "file" / "provenance")


def test_the_service_does_not_begin_to_start_without_them(tmp_path: Path) -> None:
    files = own_files(tmp_path, ec.generate_private_key(ec.SECP256R1()))
    files["key_file"].chmod(0o644)
    with pytest.raises(InvalidParameter, match="chmod"):
        check_provenance(GatewaySettings(provenance={"enabled": True, **files}))
    check_provenance(GatewaySettings(provenance={"enabled": False, **files}))
