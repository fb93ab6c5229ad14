"""``atelier inspect``, and what the command line's own images say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import Result
from cryptography.hazmat.primitives.asymmetric import ec
from typer.testing import CliRunner

from services.cli import app, checks
from services.cli.checks import Surroundings
from services.families import discover
from services.provenance.credentials import load_credentials
from services.provenance.settings import ProvenanceSettings
from services.provenance.signing import ManifestSigner
from services.serving.in_process import InProcessBackend
from tests.tiny_models import one_of_each
from tests.unit.provenance.conftest import picture, record
from tests.unit.provenance.test_provenance_credentials import own_files


def atelier(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def star(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An image that the command line has made, with the settings' defaults."""
    monkeypatch.delenv("ATELIER_PROVENANCE__ENABLED")
    monkeypatch.setattr(
        "services.serving.local.local_backend",
        lambda: InProcessBackend(one_of_each(), discover()),
    )
    path = tmp_path / "star.png"
    made = atelier("generate", "tiny-gan", "--label", "1", "--seed", 7, "--out", path)
    assert made.exit_code == 0, made.output
    return path


def test_what_the_command_line_makes_it_can_inspect(star: Path) -> None:
    shown = atelier("inspect", star)
    assert shown.exit_code == 0, shown.output
    for word in ("valid", "Atelier development signer", "c2pa.created", "tiny-gan", '"seed": 7'):
        assert word in shown.stdout, word
    told = json.loads(atelier("inspect", star, "--json").stdout)
    assert told["manifest"]["verdict"] == "trusted"
    assert told["parameters"]["request"] == {"model": "tiny-gan", "label": 1, "seed": 7}
    path = star.with_name("bare.png")
    request = ("generate", "tiny-gan", "--label", "1", "--seed", 7, "--out", path)
    assert atelier(*request, "--no-metadata").exit_code == 0
    assert json.loads(atelier("inspect", path, "--json").stdout)["parameters"] is None


def test_a_changed_image_is_called_invalid_and_ends_with_1(star: Path) -> None:
    data = star.read_bytes()
    place = data.index(b"IDAT") + 20
    star.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
    shown = atelier("inspect", star)
    assert shown.exit_code == 1
    assert "INVALID" in shown.stdout
    assert "assertion.dataHash.mismatch" in shown.stdout


def test_a_stranger_is_trusted_when_asked_to(tmp_path: Path) -> None:
    settings = ProvenanceSettings(**own_files(tmp_path, ec.generate_private_key(ec.SECP256R1())))
    credentials = load_credentials(settings, tmp_path)
    signer = ManifestSigner(credentials, max_manifest_bytes=1 << 20)
    path, anchor = tmp_path / "image.jpg", tmp_path / "anchor.pem"
    path.write_bytes(signer.signed(picture("JPEG"), "jpeg", record()))
    anchor.write_bytes(credentials.anchor)
    verdicts = [
        json.loads(atelier("inspect", path, "--json", *more).stdout)["manifest"]["verdict"]
        for more in ((), ("--trust", anchor))
    ]
    assert verdicts == ["untrusted", "trusted"]


def test_what_is_no_signed_image_is_said_plainly(tmp_path: Path) -> None:
    plain, text = tmp_path / "plain.png", tmp_path / "text.png"
    plain.write_bytes(picture())
    text.write_text("no image")
    shown = atelier("inspect", plain)
    assert shown.exit_code == 0
    assert "nobody vouches" in shown.stdout
    refused = atelier("inspect", text)
    assert refused.exit_code == 1
    assert "no PNG, JPEG or WebP" in refused.stderr


def test_words_in_a_file_cannot_style_or_steer_the_terminal(tmp_path: Path) -> None:
    forged = record(values={"seed": 1}, parameters={"prompt": "[red]\x1b[2Jx[/red]"})
    settings = ProvenanceSettings()
    signer = ManifestSigner(
        load_credentials(settings, tmp_path), max_manifest_bytes=1 << 20, prompts=True
    )
    path = tmp_path / "image.png"
    path.write_bytes(signer.signed(picture(), "png", forged))
    shown = atelier("inspect", path)
    assert shown.exit_code == 0, shown.output
    assert "\x1b[2J" not in shown.stdout
    assert "[red]" in shown.stdout


def test_doctor_tells_whose_certificate_signs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def found() -> tuple[str, str]:
        (finding,) = checks.check_provenance(Surroundings())
        return finding.level, finding.found

    assert found() == ("note", "off")
    monkeypatch.setenv("ATELIER_PROVENANCE__ENABLED", "true")
    assert found()[0] == "note"
    assert "untrusted" in found()[1]
    assert not (tmp_path / "provenance").exists()
    for days, level in ((90, "ok"), (10, "warning"), (-1, "broken")):
        files = own_files(tmp_path, ec.generate_private_key(ec.SECP256R1()), days=days)
        monkeypatch.setenv("ATELIER_PROVENANCE__CERTIFICATE_FILE", str(files["certificate_file"]))
        monkeypatch.setenv("ATELIER_PROVENANCE__KEY_FILE", str(files["key_file"]))
        assert found()[0] == level
