"""The gateway over a scripted backend, with policies on words and on images."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from services.gateway.app import create_app
from services.gateway.key_store import KeyStore
from services.gateway.metrics import GatewayMetrics
from services.gateway.settings import GatewaySettings
from services.policies.interface import ALLOWED, Action, Asked, Decision, ImagePolicy
from services.policies.loading import BUILT_IN

REFUSED, HELD = "volcano", "comet"


class Bright(ImagePolicy):
    """Holds or refuses images that are brighter than a threshold."""

    def __init__(self, *, action: str, above: float = 80.0) -> None:
        self._action, self._above = Action(action), above

    def judge(self, image: Any, _asked: Asked) -> Decision:
        return Decision(self._action, "it is bright") if image.mean() > self._above else ALLOWED


def rules_of(tmp_path: Path, *images: Mapping[str, Any]) -> dict[str, Any]:
    refused, held = tmp_path / "refused.txt", tmp_path / "held.txt"
    refused.write_text(f"{REFUSED}\n")
    held.write_text(f"{HELD}\n")
    words = [
        {"name": "words", "use": "block_list", "settings": {"file": str(refused)}},
        {
            "name": "careful",
            "use": "block_list",
            "settings": {"file": str(held), "action": "hold"},
        },
    ]
    return {"rules": [*words, *images]}


@pytest.fixture
def keys(tmp_path: Path) -> KeyStore:
    return KeyStore(tmp_path / "keys.json")


@pytest.fixture
def connected(backend: Any, registry: Any, tmp_path: Path) -> Any:
    def connect(*images: Mapping[str, Any], **settings: Any) -> TestClient:
        return TestClient(guarded_app(backend, registry, tmp_path, *images, **settings))

    return connect


def guarded_app(backend: Any, registry: Any, tmp_path: Path, *images: Any, **settings: Any) -> Any:
    return create_app(
        backend,
        GatewaySettings(
            key_file=tmp_path / "keys.json", policies=rules_of(tmp_path, *images), **settings
        ),
        metrics=GatewayMetrics(registry),
        policies={**BUILT_IN, "bright": Bright},
    )


@pytest.fixture
def bearers(keys: KeyStore) -> dict[str, dict[str, str]]:
    grants: dict[str, dict[str, Any]] = {
        "alice": {},
        "bob": {"scopes": ("generate", "edit")},
        "rita": {"scopes": ("review",)},
        "vera": {"scopes": ("review",), "models": ("digits-realnvp",)},
    }
    return {
        name: {"authorization": f"Bearer {keys.create(name, **grant).text}"}
        for name, grant in grants.items()
    }


def shade(value: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.full((8, 8, 3), value, np.uint8)).save(stream, "PNG")
    return stream.getvalue()
