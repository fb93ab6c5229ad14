"""``atelier keys`` as an operator uses it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from services.cli import app
from services.gateway.keys import KeyRing
from services.gateway.quotas import Quota


def keys(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["keys", *arguments])


def ring() -> KeyRing:
    return KeyRing(Path(os.environ["ATELIER_KEY_FILE"]))


def test_a_key_is_shown_once_and_alone_on_standard_output() -> None:
    made = keys(
        "create", "shop", "--scope", "generate", "--model", "shapes-ldm", "--rate", "60/min"
    )
    assert made.exit_code == 0
    key = made.stdout.strip()
    caller = ring().caller(key)
    assert (caller.scopes, caller.models) == ({"generate"}, {"shapes-ldm"})
    assert caller.rate == Quota(60, 60)
    listed = keys("list", "--json")
    assert key.rpartition("_")[2] not in keys("list").stdout + listed.stdout
    (row,) = json.loads(listed.stdout)
    assert (row["name"], row["state"], row["rate"]) == ("shop", "active", "60/min")


def test_rotating_and_revoking() -> None:
    old = keys("create", "shop", "--expires", "90d", "--priority", "9").stdout.strip()
    new = keys("rotate", "shop", "--grace", "1h").stdout.strip()
    assert ring().caller(old) == ring().caller(new)
    assert ring().caller(new).priority == 9
    assert keys("revoke", "shop").exit_code == 0
    rows = json.loads(keys("list", "--json").stdout)
    assert [row["state"] for row in rows] == ["revoked", "revoked"]


@pytest.mark.parametrize(
    "wrong",
    [
        ("create", "shop", "--scope", "paint"),
        ("create", "shop", "--expires", "soon"),
        ("create", "shop", "--rate", "many"),
        ("create", "shop", "--device-seconds", "600"),
        ("create", "../shop"),
        ("revoke", "nobody"),
        ("rotate", "nobody"),
    ],
)
def test_a_mistake_is_one_sentence(wrong: tuple[str, ...]) -> None:
    done = keys(*wrong)
    assert done.exit_code == 1
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.output


def test_a_public_service_needs_a_key_and_says_how_to_make_one() -> None:
    refused = CliRunner().invoke(app, ["serve", "--public"])
    assert refused.exit_code == 1
    assert "atelier keys create" in refused.stderr
    both = CliRunner().invoke(app, ["serve", "--public", "--host", "127.0.0.1"])
    assert both.exit_code == 1
    assert "leave --host out" in both.stderr
