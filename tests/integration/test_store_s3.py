"""Models in a bucket: the same store, against a server that speaks S3."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from model_store.addition import add_model, add_version
from model_store.remote import RemoteFiles
from model_store.store import Store
from services.cli import app
from services.core.errors import (
    IntegrityFailure,
    InvalidParameter,
    ModelNotFound,
    TooLarge,
    Unavailable,
)
from services.core.versions import of_version
from tests.unit.tiny_networks import Generator, write_model

moto = pytest.importorskip("moto.server", reason="moto[server] is not installed")
s3fs = pytest.importorskip("s3fs", reason="s3fs is not installed")
boto3 = pytest.importorskip("boto3", reason="it comes with moto[server]")

pytestmark = pytest.mark.slow

URL = "s3://models/shop"
NAME = "my-gan"
Elsewhere = Callable[[str], Store]


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(endpoint: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """A client of an empty bucket, and an environment in which `Store` finds it."""
    s3fs.S3FileSystem.clear_instance_cache()  # one of another server, from another file's tests
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("ATELIER_MODELS__REFRESH_SECONDS", "0")
    monkeypatch.setenv("ATELIER_MODELS__CACHE_FOLDER", str(tmp_path / "here"))
    client = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1")
    client.create_bucket(Bucket="models")
    client.put_object(Bucket="models", Key="shop/notes.txt", Body=b"somebody else's")
    client.put_object(Bucket="models", Key="shop/models/../../out.json", Body=b"{}")
    yield client
    for entry in client.list_objects_v2(Bucket="models").get("Contents", ()):
        client.delete_object(Bucket="models", Key=entry["Key"])
    client.delete_bucket(Bucket="models")


@pytest.fixture
def elsewhere(
    bucket: Any,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> Elsewhere:
    """Opens the store as another machine does, which has a cache of its own."""

    def opened(machine: str) -> Store:
        monkeypatch.setenv("ATELIER_MODELS__CACHE_FOLDER", str(tmp_path / machine))
        return Store(URL, catalogs=())

    return opened


def keys(bucket: Any) -> list[str]:
    found = bucket.list_objects_v2(Bucket="models").get("Contents", ())
    return [entry["Key"].removeprefix("shop/") for entry in found]


def test_what_one_machine_adds_another_serves(
    bucket: Any, elsewhere: Elsewhere, tmp_path: Path
) -> None:
    here, there = elsewhere("here"), elsewhere("there")
    assert not there.ids()
    add_model(here, write_model(tmp_path / "one"))
    there.refresh()
    assert there.ids() == [NAME]
    assert not list((there.user.root).glob("blobs/*")), "fetched when it is read, not before"
    assert there.entry(NAME).size > 0
    data = (tmp_path / "one" / "generator.onnx").read_bytes()
    assert there.read(NAME, "generator.onnx") == data
    assert not there.verify(NAME)
    later = write_model(tmp_path / "two", Generator(activation="Sigmoid"), pixel_range=[0, 1])
    add_version(there, later)
    here.refresh()
    served, other = here.versions(NAME)
    here.serve(NAME, other)
    there.refresh()
    assert there.get(NAME).pixel_range == (0, 1)
    assert there.get(of_version(NAME, served)).pixel_range == (-1, 1)
    there.remove(NAME)
    here.refresh()
    with pytest.raises(ModelNotFound):
        here.get(NAME)
    left = [key for key in keys(bucket) if key.endswith(".json")]
    assert left == ["models/../../out.json"], "what is not of the store is left alone"
    assert not (tmp_path / "out.json").exists()
    assert "notes.txt" in keys(bucket)


def test_what_is_cached_is_served_while_the_remote_is_down(
    elsewhere: Elsewhere, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = elsewhere("here")
    add_model(here, write_model(tmp_path / "one"))
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    import s3fs  # noqa: PLC0415 - only where it is installed

    s3fs.S3FileSystem.clear_instance_cache()
    again = elsewhere("here")
    again.refresh()
    assert again.read(NAME, "generator.onnx") == here.read(NAME, "generator.onnx")
    with pytest.raises(Unavailable, match="cannot be reached"):
        again.remove(NAME)
    assert again.ids() == [NAME], "nothing was changed"
    with pytest.raises(Unavailable, match="s3://models/shop cannot be reached"):
        elsewhere("never-seen")
    s3fs.S3FileSystem.clear_instance_cache()


def test_another_file_than_the_one_that_was_stored_is_never_opened(
    bucket: Any, elsewhere: Elsewhere, tmp_path: Path
) -> None:
    add_model(elsewhere("here"), write_model(tmp_path / "one"))
    (blob,) = (key for key in keys(bucket) if key.startswith("blobs/"))
    bucket.put_object(Bucket="models", Key=f"shop/{blob}", Body=b"exchanged")
    there = elsewhere("there")
    with pytest.raises(IntegrityFailure, match="was not opened"):
        there.read(NAME, "generator.onnx")
    assert not list(there.user.root.glob("blobs/*"))


def test_a_write_that_the_remote_does_not_take_is_undone_here_too(
    elsewhere: Elsewhere, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = elsewhere("here")
    add_model(here, write_model(tmp_path / "one"))
    (served,) = here.versions(NAME)
    later = write_model(tmp_path / "two", Generator(activation="Sigmoid"), pixel_range=[0, 1])
    add_version(here, later)
    other = here.versions(NAME)[1]

    def full(remote: RemoteFiles, name: str, source: Path) -> None:
        del remote, name, source
        raise Unavailable("the disk is full")

    with monkeypatch.context() as broken:
        broken.setattr(RemoteFiles, "write", full)
        with pytest.raises(Unavailable, match="full"):
            here.serve(NAME, other)
        assert here.versions(NAME) == [served, other]
    here.serve(NAME, other)
    assert elsewhere("there").versions(NAME) == [other, served]


def test_the_cache_keeps_to_its_size_and_lets_the_oldest_go(
    elsewhere: Elsewhere, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = elsewhere("here")
    for name in ("a", "b", "c"):
        generator = Generator(height=300, width=300)  # three quarters of a megabyte of weights
        folder = write_model(tmp_path / name, generator, id=name)
        path = folder / "generator.onnx"
        path.write_bytes(path.read_bytes() + b"\x32\x01" + name.encode())  # its doc_string
        add_model(here, folder)
    shutil.rmtree(here.user.root)
    size = path.stat().st_size
    monkeypatch.setenv("ATELIER_MODELS__CACHE_BYTES", str(2 * size + 1000))
    there = elsewhere("there")
    for name in ("a", "b", "a", "c"):
        there.read(name, "generator.onnx")
    kept = {path.name for path in there.user.root.glob("blobs/*")}
    assert kept == {there.get(name).stored_files()[0].sha256 for name in ("a", "c")}
    there.read("b", "generator.onnx")
    monkeypatch.setenv("ATELIER_MODELS__CACHE_BYTES", str(1 << 20))
    with pytest.raises(TooLarge, match="CACHE_BYTES"):
        elsewhere("small").read("a", "generator.onnx")


def test_the_command_line_takes_a_url(bucket: Any, tmp_path: Path) -> None:
    folder, run = write_model(tmp_path / "one"), CliRunner().invoke
    added = run(app, ["models", "add", str(folder), "--store", URL])
    assert added.exit_code == 0, added.output
    assert f"models/{NAME}.json" in keys(bucket)
    assert NAME in run(app, ["models", "list", "--store", URL, "--json"]).output
    assert run(app, ["models", "remove", NAME, "--store", URL]).exit_code == 0
    assert f"models/{NAME}.json" not in keys(bucket)


def test_urls_that_nothing_opens_are_refused() -> None:
    with pytest.raises(InvalidParameter, match="nonsense://bucket"):
        Store("nonsense://user:secret@bucket", catalogs=())
