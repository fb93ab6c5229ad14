from __future__ import annotations

import io
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import uvicorn
from PIL import Image
from prometheus_client import CollectorRegistry
from typer.testing import CliRunner, Result

from services.cli import app
from services.cli.pictures import destinations
from services.families import discover
from services.gateway.app import create_app
from services.gateway.metrics import GatewayMetrics
from services.gateway.settings import GatewaySettings
from services.serving.in_process import InProcessBackend
from tests.scripted import PATIENCE
from tests.tiny_models import one_of_each

COMMANDS = ("serve", "generate", "edit", "likelihood", "encode", "evaluate", "models", "doctor")
PROMPT = "a red circle"
KEY, KEY_DIGEST = "key", "2c70e12b7a0646f92279f427c7b38e7334d8e5389cff167a1dc30e73f826b683"


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """The models of a command without ``--url`` are the tiny ones."""
    monkeypatch.setattr(
        "services.serving.local.local_backend",
        lambda: InProcessBackend(one_of_each(), discover()),
    )


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A server of the tiny models that asks for a key."""
    backend = InProcessBackend(one_of_each(), discover())
    settings = GatewaySettings(api_keys=(KEY_DIGEST,))
    gateway = create_app(backend, settings, metrics=GatewayMetrics(CollectorRegistry()))
    server = uvicorn.Server(uvicorn.Config(gateway, port=0, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    end = time.monotonic() + PATIENCE
    while not server.started and time.monotonic() < end:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join()
    backend.close()


def atelier(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def refusal(*arguments: object) -> str:
    """The one line on stderr of a command that must fail plainly."""
    result = atelier(*arguments)
    assert result.exit_code == 1, result.output
    assert isinstance(result.exception, SystemExit)
    lines = [line for line in result.stderr.splitlines() if line.strip()]
    assert len(lines) == 1, result.stderr
    return lines[0]


def size(file: Path) -> tuple[int, int]:
    return Image.open(file).size


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str) -> None:
    result = atelier(command, "--help")
    assert result.exit_code == 0
    assert len(result.output) > 300


@pytest.mark.parametrize("command", [name for name in COMMANDS if name not in ("models", "doctor")])
def test_help_shows_examples(command: str) -> None:
    assert f"atelier {command}" in " ".join(atelier(command, "--help").output.split())


def test_help_imports_neither_torch_nor_ray() -> None:
    check = "import sys, services.cli; sys.exit(bool({'torch', 'ray'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0


@pytest.mark.usefixtures("offline")
def test_generate_writes_the_image_where_it_was_told(tmp_path: Path) -> None:
    target = tmp_path / "new folder" / "circle.webp"
    result = atelier("generate", "tiny-diffusion", PROMPT, "--seed", 7, "--out", target)
    assert result.exit_code == 0, result.stderr
    assert str(target) in result.stdout
    assert Image.open(target).format == "WEBP"
    assert size(target) == (8, 8)


@pytest.mark.usefixtures("offline")
def test_several_images_become_numbered_files(tmp_path: Path) -> None:
    result = atelier("generate", "tiny-gan", "--label", "red", "-n", 3, "--seed", 5, "-o", tmp_path)
    assert result.exit_code == 0, result.stderr
    expected = [f"tiny-gan-5-0{index}.png" for index in range(3)]
    assert sorted(file.name for file in tmp_path.iterdir()) == expected
    assert "seed 7" in result.stdout


@pytest.mark.usefixtures("offline")
def test_any_other_parameter_can_be_set(tmp_path: Path) -> None:
    asked = ("generate", "tiny-diffusion", PROMPT, "--seed", 7)
    outs = {}
    for name, more in {
        "option": ("--steps", 5),
        "set": ("--set", "steps=5"),
        "interval": ("--steps", 5, "--set", "guidance_interval=[0.5, 1.0]"),
        "sigmas": ("--steps", 5, "--set", "sigma_schedule=karras"),
    }.items():
        result = atelier(*asked, *more, "-o", tmp_path / f"{name}.png")
        assert result.exit_code == 0, result.stderr
        outs[name] = (tmp_path / f"{name}.png").read_bytes()
    assert outs["set"] == outs["option"]
    assert len(set(outs.values())) == 3


@pytest.mark.usefixtures("offline")
def test_a_dash_sends_nothing_but_the_bytes_to_standard_output() -> None:
    result = atelier("generate", "tiny-gan", "--seed", 5, "--format", "jpeg", "--out", "-")
    assert Image.open(io.BytesIO(result.stdout_bytes)).format == "JPEG"


@pytest.mark.usefixtures("offline")
def test_without_a_seed_one_is_drawn_and_printed(tmp_path: Path) -> None:
    first, second = (atelier("generate", "tiny-gan", "-o", tmp_path / n).stdout for n in "ab")
    assert "seed" in first
    assert first.partition("seed")[2] != second.partition("seed")[2]


def test_the_same_seed_gives_the_same_image_here_and_over_http(
    tmp_path: Path, url: str, offline: None
) -> None:
    here, there = tmp_path / "here.png", tmp_path / "there.png"
    asked = ("generate", "tiny-diffusion", PROMPT, "--seed", 7, "--sampler", "ddpm", "--steps", 5)
    assert atelier(*asked, "-o", here).exit_code == 0
    assert atelier(*asked, "-o", there, "--url", url, "--api-key", KEY).exit_code == 0
    assert here.read_bytes() == there.read_bytes()


def test_edits_take_images_masks_and_seeds(tmp_path: Path, url: str) -> None:
    remote = ("--url", url, "--api-key", KEY)
    image, mask = tmp_path / "image.png", tmp_path / "mask.png"
    Image.new("RGB", (8, 8), (200, 30, 30)).save(image)
    Image.new("L", (8, 8), 255).save(mask)
    inpaint = ("edit", "tiny-diffusion", "inpaint", "--image", image, "--mask", mask)
    assert atelier(*inpaint, "-o", tmp_path / "new.png", *remote).exit_code == 0
    strip = ("edit", "tiny-gan", "interpolate", "--seeds", 1, "--seeds", 2, "-n", 4)
    assert atelier(*strip, "-o", tmp_path / "strip.png", *remote).exit_code == 0
    assert (tmp_path / "new.png").is_file()
    assert len(list(tmp_path.glob("strip-*.png"))) == 4


@pytest.mark.usefixtures("offline")
def test_likelihood_prints_a_table_or_the_json_of_the_interface(tmp_path: Path) -> None:
    image = tmp_path / "digit.png"
    Image.new("L", (4, 4), 90).save(image)
    assert "exact" in atelier("likelihood", "tiny-flow", image).stdout
    found = json.loads(atelier("likelihood", "tiny-flow", image, image, "--json").stdout)
    assert [entry["kind"] for entry in found["data"]] == ["exact", "exact"]
    assert set(found["data"][0]["terms"]) == {"log_prior", "log_det"}


@pytest.mark.usefixtures("offline")
def test_what_encode_writes_generate_reads(tmp_path: Path) -> None:
    image, latents, again = (tmp_path / name for name in ("a.png", "a.json", "b.png"))
    Image.new("L", (4, 4), 90).save(image)
    assert atelier("encode", "tiny-flow", image, "-o", latents).exit_code == 0
    assert atelier("generate", "tiny-flow", "--latents", latents, "-o", again).exit_code == 0
    difference = abs(Image.open(again).getpixel((0, 0)) - 90)
    assert difference <= 1


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["generate", "tiny-ldm", PROMPT], "tiny-ldm"),
        (["generate", "tiny-diffusion", "a red elephant"], "elephant"),
        (["generate", "tiny-vae", PROMPT], "unknown field 'prompt'"),
        (["generate", "tiny-gan", "--out", "image.gif"], ".gif"),
        (["generate", "tiny-gan", "-n", "2", "--out", "-"], "one image"),
        (["generate", "tiny-gan", "--latents", __file__], "no latents"),
        (["likelihood", "tiny-gan", "missing.png"], "missing.png"),
        (["likelihood", "tiny-gan", __file__], "GAN"),
        (["likelihood", "tiny-flow", __file__], "not a PNG"),
        (["edit", "tiny-gan", "sharpen"], "sharpen"),
        (["generate", "tiny-diffusion", PROMPT, "--set", "steps"], "NAME=VALUE"),
        (["generate", "tiny-diffusion", PROMPT, "--steps", "5", "--set", "steps=6"], "twice"),
        (["generate", "tiny-diffusion", PROMPT, "--set", "stepz=6"], "stepz"),
    ],
)
def test_a_refusal_is_one_clear_line(arguments: list[str], words: str) -> None:
    assert words in refusal(*arguments)


def test_a_refusal_of_the_server_is_one_clear_line(url: str) -> None:
    remote = ("--url", url, "--api-key", KEY)
    assert "elephant" in refusal("generate", "tiny-diffusion", "a red elephant", *remote)
    assert "no model" in refusal("generate", "tiny-ldm", *remote)
    assert "API key" in refusal("generate", "tiny-gan", "--url", url)


def test_no_server_is_one_clear_line() -> None:
    line = refusal("generate", "tiny-gan", "--url", "http://127.0.0.1:9")
    assert "atelier serve" in line
    assert "no URL" in refusal("generate", "tiny-gan", "--url", "http://host:port")


class Stranger(BaseHTTPRequestHandler):
    """Some other server."""

    def do_POST(self) -> None:
        self.send_error(404)

    def log_message(self, *_: object) -> None:
        pass


def test_another_server_is_one_clear_line() -> None:
    with HTTPServer(("127.0.0.1", 0), Stranger) as server:
        threading.Thread(target=server.handle_request).start()
        line = refusal("generate", "tiny-gan", "--url", f"http://127.0.0.1:{server.server_port}")
    assert "404" in line
    assert "right URL" in line


@pytest.mark.parametrize(
    ("out", "count", "expected"),
    [
        (None, 1, ["m-7.png"]),
        ("star", 1, ["star.png"]),
        ("folder/", 2, ["folder/m-7-00.png", "folder/m-7-01.png"]),
        ("star.png", 2, ["star-00.png", "star-01.png"]),
    ],
)
def test_where_images_go(out: str | None, count: int, expected: list[str]) -> None:
    assert [str(path) for path in destinations(out, "m-7", "png", count)] == expected
