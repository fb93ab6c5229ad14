"""Our own client and the command line over it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.client import Client, Done, ImageReady, Progress, Queued
from tests.e2e.asks import png, raw
from tests.e2e.running import ROOT, Server, until

PROMPT = "a large red star on black"


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    with Client(server.url) as made:
        yield made


def test_everything_it_offers(client: Client):
    assert client.ready()
    assert client.model("shapes-ldm").family == "diffusion"
    asked = {"prompt": PROMPT, "seed": 7, "steps": 4}
    images = client.generate("shapes-ldm", n=2, **asked).images
    with client.stream("shapes-ldm", n=2, **asked) as events:
        told = list(events)
    ready = sorted((e for e in told if isinstance(e, ImageReady)), key=lambda e: e.index)
    assert [raw(event.image.data) for event in ready] == [raw(image.data) for image in images]
    assert isinstance(told[0], Queued)
    assert isinstance(told[-1], Done)
    edited = client.edit("shapes-ldm", "variation", images=[png(1, 32)], strength=0.5, **asked)
    assert edited.images[0].pil().size == (32, 32)
    (judged,) = client.likelihood("digits-realnvp", [png(1, 8)]).entries
    assert judged.kind == "exact"
    encoded = client.encode("shapes-vae", [png(1, 32)])
    assert client.generate("shapes-vae", latents=encoded.entries[0].latents).images


def test_leaving_a_stream_frees_its_rows(server: Server, client: Client):
    with client.stream("shapes-ldm", prompt=PROMPT, steps=900, n=4) as events:
        assert any(isinstance(event, Progress) for event in events)
    until(lambda: server.trajectories() == 0, "the rows are free", seconds=10.0)


def test_the_command_line_speaks_through_it(server: Server, client: Client, tmp_path: Path):
    out = tmp_path / "star.png"
    command = [sys.executable, "-m", "services.cli", "generate", "shapes-ldm", PROMPT]
    command += ["--seed", "7", "--steps", "4", "--out", str(out), "--url", server.url]
    subprocess.run(command, check=True, cwd=ROOT, capture_output=True)
    (image,) = client.generate("shapes-ldm", prompt=PROMPT, seed=7, steps=4).images
    assert raw(out.read_bytes()) == raw(image.data)
