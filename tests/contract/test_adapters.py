"""A LoRA row and a plain row run or fail beside each other without touching one another's bytes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from services.core.errors import AtelierError
from services.core.job import Answer
from services.families import discover
from services.serving.in_process import InProcessBackend, PoolSettings
from tests.adapter_bench import BASE, Bench
from tests.engines import call

pytestmark = pytest.mark.slow

ASKS: tuple[dict[str, Any], ...] = (
    {"seed": 1, "steps": 5},
    {"seed": 1, "steps": 5, "adapters": [{"name": "style", "scale": 0.8}]},
    {"seed": 2, "steps": 4, "adapters": [{"name": "voice"}], "n": 2},
    {"seed": 3, "steps": 3, "guidance_scale": 1.0},
    {"seed": 4, "steps": 6, "adapters": [{"name": "style"}, {"name": "voice", "scale": 0.4}]},
)


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InProcessBackend]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        bench = Bench(tmp_path_factory.mktemp("bench"))
        bench.put_broken("broken")
        _spoil(bench)
        found = InProcessBackend(
            bench.source(), discover(), settings=PoolSettings(drain_seconds=0.0)
        )
        yield found
        found.close()


def _spoil(bench: Bench) -> None:
    """A LoRA whose file was changed after it was stored."""
    manifest = bench.add("spoiled", {k: v * 2 for k, v in _voice(bench).items()})
    assert manifest.weights is not None
    blob = bench.root / "store" / "adapters" / "blobs" / str(manifest.weights.sha256)
    blob.chmod(0o644)
    blob.write_bytes(blob.read_bytes()[:-1] + b"!")


def _voice(bench: Bench) -> dict[str, Any]:
    from tests import tiny_adapters  # noqa: PLC0415 - beside its only use

    return tiny_adapters.kohya("lora_unet", bench.voice, 1.0)


async def outcomes(
    backend: InProcessBackend, *asks: dict[str, Any]
) -> list[Answer | BaseException]:
    calls = [call("generate", model=BASE, prompt="a red cat", **ask) for ask in asks]
    return await asyncio.gather(*(backend.run(one) for one in calls), return_exceptions=True)


def images(found: list[Answer | BaseException]) -> list[list[bytes | None]]:
    return [[item.image for item in answer.items] for answer in found if isinstance(answer, Answer)]


def test_rows_with_and_without_loras_are_bitwise_what_each_is_alone(
    backend: InProcessBackend,
) -> None:
    alone = [images(asyncio.run(outcomes(backend, ask)))[0] for ask in ASKS]
    together = images(asyncio.run(outcomes(backend, *ASKS)))
    assert together == alone
    pictures = [image for found in alone for image in found]
    assert len(set(pictures)) == len(pictures)


@pytest.mark.parametrize("culprit", ["broken", "spoiled"])
def test_a_row_whose_lora_fails_fails_alone(backend: InProcessBackend, culprit: str) -> None:
    """One fails in its first evaluation, for its layer is not there; one when it is opened."""
    alone = [images(asyncio.run(outcomes(backend, ask)))[0] for ask in ASKS[:3]]
    guilty = {"seed": 9, "steps": 5, "adapters": [{"name": culprit}]}
    found = asyncio.run(outcomes(backend, ASKS[0], guilty, *ASKS[1:3]))
    assert isinstance(found[1], AtelierError)
    assert images(found) == alone


def test_a_model_says_what_hangs_on_it(backend: InProcessBackend) -> None:
    info = asyncio.run(backend.model(BASE))
    assert {(a.name, a.kind) for a in info.adapters} >= {("style", "lora"), ("voice", "lora")}
