"""What goodput is measured of: peers take part once they are installed, with the same requests."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from PIL import Image

from loadtests.peers import environment, servers
from loadtests.peers.whole_batches import WholeBatches
from loadtests.traffic import mixed


@pytest.mark.parametrize("installed", [(), ("litserve",), environment.NAMES])
def test_peers_take_part_once_they_are_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, installed: tuple[str, ...]
) -> None:
    monkeypatch.setattr(environment, "ROOT", tmp_path)
    for name in environment.NAMES:
        environment.folder_of(name).mkdir(parents=True)  # begun, perhaps not finished
    for name in installed:
        (environment.folder_of(name) / "made").touch()
    found = servers.servers()
    assert list(found) == ["atelier", "serve.batch", "diffusers", *installed]


def test_every_server_is_sent_the_same_fields() -> None:
    body = {"model": "shapes-ldm", **mixed(1, 1)[0].body()}
    assert servers.Server(lambda: pytest.fail("started"), "/generate").body(body) == body
    assert servers._in_a_list(body) == {"requests": [body]}
    (tensor,) = servers._in_a_tensor(body)["inputs"]
    assert [json.loads(one) for one in tensor["data"]] == [body]


@pytest.mark.parametrize("name", environment.NAMES)
def test_what_peers_need_is_pinned_and_brings_no_other_torch(name: str) -> None:
    folder = Path(environment.__file__).parent
    lines = (folder / f"{name}.txt").read_text().splitlines()
    packages = [line for line in lines if not line.startswith("#")]
    assert packages
    assert all("==" in line for line in packages)
    ours = {"torch", "onnxruntime", "diffusers", "ray", "numpy"}
    assert ours.isdisjoint(line.partition("==")[0] for line in packages)


@pytest.mark.slow  # opens the built-in model
def test_a_whole_batch_answers_every_request_with_an_image() -> None:
    requests = [
        {"model": "shapes-ldm", **request.body(), "steps": 2 + i}
        for i, request in enumerate(mixed(3, 1))
    ]
    images = WholeBatches().generate(requests)
    assert [Image.open(io.BytesIO(image)).format for image in images] == ["PNG"] * 3
