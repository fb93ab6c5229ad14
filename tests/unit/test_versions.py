"""Several versions of a model in one store, and one of them served."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from model_store.addition import add_model, add_version
from model_store.plans import Plan
from model_store.signing import TrustedKeys, sign
from model_store.store import CATALOG, Store
from model_store.versions import digest_of
from services.core.errors import (
    IntegrityFailure,
    InvalidParameter,
    ModelError,
    ModelNotFound,
    UntrustedModel,
)
from services.core.versions import of_version, split_version
from tests.stores import blobs
from tests.unit.tiny_networks import Generator, write_model

NAME = "my-gan"


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a model of two versions, the first of which is served."""
    folder = tmp_path_factory.mktemp("shelf")
    store = Store(folder / "store", catalogs=())
    add_model(store, write_model(folder / "one"))
    sigmoid = Generator(activation="Sigmoid")
    add_version(store, write_model(folder / "two", sigmoid, pixel_range=[0, 1]), name=NAME)
    return folder / "store"


@pytest.fixture
def kept(shelf: Path, tmp_path: Path) -> Store:
    return Store(shutil.copytree(shelf, tmp_path / "kept"), catalogs=())


def test_a_version_is_there_and_not_served_before_it_is_said_so(kept: Store) -> None:
    served, other = kept.versions(NAME)
    assert digest_of(kept.get(NAME)) == served
    assert kept.get(of_version(NAME, other)).pixel_range == (0, 1)
    assert kept.get(of_version(NAME, other[:8])) is kept.get(of_version(NAME, other))
    kept.serve(NAME, other)
    assert digest_of(kept.get(NAME)) == other
    assert kept.versions(NAME) == [other, served]
    assert kept.get(of_version(NAME, served)).pixel_range == (-1, 1), "what was served stays"
    kept.serve(NAME, served)
    assert kept.versions(NAME) == [served, other]
    assert not kept.verify(NAME)
    assert not kept.verify(of_version(NAME, other))


def test_each_version_reads_its_own_files(kept: Store) -> None:
    served, other = kept.versions(NAME)
    files = [kept.read(of_version(NAME, d), "generator.onnx") for d in (served, other)]
    assert files[0] != files[1]
    assert kept.read(NAME, "generator.onnx") == files[0]


def test_a_version_goes_with_its_files_but_never_the_one_that_is_served(kept: Store) -> None:
    served, other = kept.versions(NAME)
    with pytest.raises(ModelError, match="is the one that is served"):
        kept.remove(of_version(NAME, served))
    assert len(blobs(kept)) == 2
    kept.remove(of_version(NAME, other))
    assert kept.versions(NAME) == [served]
    assert len(blobs(kept)) == 1
    with pytest.raises(ModelNotFound, match=served[:12]):
        kept.get(of_version(NAME, other))


def test_a_removed_model_leaves_nothing(kept: Store) -> None:
    kept.change_plan(NAME, lambda plan: plan.model_copy(update={"warm": ("",)}))
    kept.remove(NAME)
    assert not blobs(kept)
    assert not list(kept.user.root.rglob("*.json"))


def test_versions_are_of_one_family_and_of_the_users_own_models(
    kept: Store, tmp_path: Path
) -> None:
    folder = write_model(tmp_path / "gan", Generator(activation="Relu"))
    with pytest.raises(ModelNotFound, match=NAME):
        add_version(kept, folder, name="my-gam")
    with pytest.raises(ModelError, match="so are all its versions"):
        kept.check_version(NAME, "flow")
    built_in = Store(tmp_path / "kept", catalogs=(CATALOG,))
    with pytest.raises(ModelError, match="built-in"):
        built_in.serve("digits-nice", "0" * 64)
    (digest,) = built_in.versions("digits-nice")
    assert built_in.get(of_version("digits-nice", digest[:8])).id == "digits-nice"


@pytest.mark.parametrize("reference", [f"{NAME}@", f"{NAME}@12", f"{NAME}@{'x' * 8}", "a@b@c"])
def test_what_is_no_digest_is_no_version(kept: Store, reference: str) -> None:
    with pytest.raises(ModelNotFound, match="8 to 64"):
        kept.get(reference)


def test_an_exchanged_version_is_found_out(kept: Store) -> None:
    other = kept.versions(NAME)[1]
    path = kept.user.root / "versions" / NAME / f"{other}.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "description": "another"}))
    with pytest.raises(IntegrityFailure, match="not the manifest that was stored"):
        kept.get(of_version(NAME, other))


def test_digits_that_begin_two_versions_are_not_enough(kept: Store) -> None:
    first = kept.versions(NAME)[0]
    twin = kept.user.root / "versions" / NAME / f"{first[:8]}{'0' * 56}.json"
    twin.write_bytes(b"{}")
    with pytest.raises(InvalidParameter, match="more digits"):
        kept.get(of_version(NAME, first[:8]))


def test_each_version_has_its_own_signature(kept: Store) -> None:
    key = Ed25519PrivateKey.generate()
    trusting = Store(kept.user.root, catalogs=(), trust=TrustedKeys([key.public_key()]))
    served, other = kept.versions(NAME)
    sign(kept.get(NAME), kept.user.root, key)
    assert trusting.get(NAME).id == NAME
    with pytest.raises(UntrustedModel):
        trusting.get(of_version(NAME, other))
    sign(kept.get(of_version(NAME, other)), kept.user.root, key, version=other)
    kept.serve(NAME, other)
    assert digest_of(trusting.get(NAME)) == other
    assert digest_of(trusting.get(of_version(NAME, served))) == served, "it keeps its signature"


def test_a_digest_does_not_depend_on_what_is_left_out(kept: Store) -> None:
    manifest = kept.get(NAME)
    sparse = type(manifest).model_validate(manifest.model_dump(exclude_defaults=True))
    assert digest_of(sparse) == digest_of(manifest)
    assert split_version(of_version(NAME, digest_of(manifest))) == (NAME, digest_of(manifest))


def test_a_plan_says_what_is_to_be_warm(kept: Store) -> None:
    served, other = kept.versions(NAME)
    kept.change_plan(NAME, lambda plan: plan.model_copy(update={"warm": ("", other)}))
    assert kept.plans.get(NAME).wanted() == [NAME, of_version(NAME, other)]
    assert kept.plans.get("nothing") == Plan(id="nothing")
    with pytest.raises(ModelNotFound):
        kept.change_plan("nothing", lambda plan: plan)
    assert served
