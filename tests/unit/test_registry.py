"""The models that a device holds."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Lock
from typing import Any

import pytest

from services.core.errors import InvalidManifest, InvalidNetwork, ModelNotFound
from services.core.network import OpenedModel
from services.families import discover
from services.runtime.registry import Registry
from tests.engines import CPU
from tests.tiny_models import MODELS, Shelf, one_of_each, tiny_gan, tiny_vae


def registry(shelf: Shelf, **settings: Any) -> Registry:
    return Registry(shelf, discover(), CPU, Lock(), **settings)


def gans(count: int) -> Shelf:
    return Shelf({f"gan-{i}": lambda i=i: replace(tiny_gan(), id=f"gan-{i}") for i in range(count)})


def test_every_family_is_discovered_by_its_folder() -> None:
    assert {"gan", "vae", "flow", "diffusion"} <= set(discover())
    assert all(kind.family == family for family, kind in discover().items())


def test_models_are_described_without_being_opened() -> None:
    held = registry(one_of_each())
    assert held.names() == sorted(f"tiny-{family}" for family in MODELS)
    assert held.describe("tiny-gan").family == "gan"
    assert held.loaded() == []


def test_a_model_is_loaded_on_first_use_measured_and_kept() -> None:
    shelf = one_of_each()
    times: list[tuple[str, float]] = []
    held = registry(shelf, on_load=lambda name, seconds: times.append((name, seconds)))
    model = held.load("tiny-gan")
    assert model.ready
    assert held.loaded() == ["tiny-gan"]
    assert model.costs.curve("decode", "generator").points.keys() != {1, 8}
    assert held.load("tiny-gan") is model
    assert shelf.openings == ["tiny-gan"]
    assert [name for name, _ in times] == ["tiny-gan"]


def test_many_that_ask_at_once_load_it_once() -> None:
    shelf, barrier = one_of_each(), threading.Barrier(8)
    loads: list[str] = []
    held = registry(shelf, on_load=lambda name, seconds: loads.append(name))

    def ask(_: int) -> object:
        barrier.wait(10)
        return held.load("tiny-vae")

    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(ask, range(8)))
    assert len(set(map(id, found))) == 1
    assert loads == ["tiny-vae"]


def test_the_least_recently_used_idle_model_makes_room() -> None:
    held = registry(gans(4), max_loaded=2)
    for name in ("gan-0", "gan-1", "gan-0", "gan-2"):
        held.load(name)
    assert held.loaded() == ["gan-0", "gan-2"]
    held.find("gan-0").live = 1
    held.load("gan-2")
    held.load("gan-3")
    assert held.loaded() == ["gan-0", "gan-3"], "a model with work in flight stays"


def test_a_model_that_left_comes_back_when_it_is_asked_for() -> None:
    held = registry(gans(2), max_loaded=1)
    first = held.load("gan-0")
    held.load("gan-1")
    again = held.load("gan-0")
    assert again is not first
    assert again.ready


def test_a_changed_model_is_picked_up_and_the_old_one_left_to_its_work() -> None:
    shelf = one_of_each()
    held = registry(shelf)
    old = held.load("tiny-gan")
    shelf.versions["tiny-gan"] = "2"
    new = held.load("tiny-gan")
    assert new is not old
    assert old.ready, "rows in flight still hold it"


def test_a_removed_model_is_gone() -> None:
    shelf = one_of_each()
    held = registry(shelf)
    held.load("tiny-gan")
    del shelf.models["tiny-gan"]
    with pytest.raises(ModelNotFound):
        held.find("tiny-gan")
    assert held.loaded() == []


def test_only_what_is_on_offer_can_be_had() -> None:
    held = registry(one_of_each(), only=["tiny-gan", "tiny-vae"], without=["tiny-vae"])
    assert held.names() == ["tiny-gan"]
    for name in ("tiny-vae", "tiny-flow"):
        with pytest.raises(ModelNotFound, match="did you mean tiny-gan"):
            held.load(name)


def test_a_megabyte_of_a_name_is_refused_in_few_words() -> None:
    held = registry(one_of_each(), only=["tiny-gan"])
    with pytest.raises(ModelNotFound) as caught:
        held.find("x" * 1_000_000)
    assert len(caught.value.message) < 200


def test_a_family_that_nobody_knows_is_an_invalid_manifest() -> None:
    held = registry(Shelf({"odd": lambda: replace(tiny_gan(), family="quantum")}))
    with pytest.raises(InvalidManifest, match=f"known are {', '.join(sorted(discover()))}"):
        held.load("odd")


def test_a_model_that_failed_to_load_is_tried_again() -> None:
    broken: list[OpenedModel] = [replace(tiny_vae(), networks={}), tiny_vae()]
    shelf = Shelf({"vae": lambda: broken.pop(0)})
    held = registry(shelf)
    with pytest.raises(InvalidNetwork):
        held.load("vae")
    assert held.loaded() == []
    with pytest.raises(InvalidNetwork):
        held.load("vae")
    shelf.versions["vae"] = "mended"
    assert held.load("vae").ready
