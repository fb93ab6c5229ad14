"""Blocks of a transformer are left out row by row; no row sees what another leaves out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.hooks import FirstBlockCacheConfig, apply_first_block_cache
from diffusers.models.cache_utils import CacheMixin
from torch import Tensor, nn

from model_store.importers.pipelines import import_pipeline
from model_store.limits import StoreLimits
from model_store.manifest import TorchOptions
from model_store.networks.export_choice import open_export
from model_store.networks.exported_network import ExportedNetwork
from model_store.networks.first_block import FirstBlockCache, Recollection, offers_first_block
from model_store.networks.hardware import Hardware
from model_store.networks.measurements import Measurements
from model_store.networks.opening import open_model
from model_store.reading import DraftedFiles
from model_store.store import CATALOG, Store
from services.core.engine import Engine
from services.core.errors import InvalidParameter
from services.core.images import ImageLimits
from services.core.job import Job
from services.families import discover
from services.families.diffusion import engine as module
from tests import tiny_pipelines
from tests.engines import CPU, call, carry, pixels_of, ready
from tests.tiny_models import tiny_diffusion

KINDS = {
    "dit": tiny_pipelines.dit,
    "pixart": tiny_pipelines.pixart,
    "sd3": tiny_pipelines.stable_diffusion_3,
    "flux": tiny_pipelines.flux,
}
NEVER, ALWAYS = 1e-12, 1.0


class Drafts:
    """The denoisers of tiny pipelines, imported when first asked for."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def network(self, kind: str, **options: Any) -> ExportedNetwork:
        folder = self.root / kind
        if not folder.exists():
            KINDS[kind](folder)
        draft = import_pipeline(folder, StoreLimits(), name=kind)
        measured = Measurements(None, CPU, 1)
        chosen = TorchOptions(**options)
        hardware = Hardware(CPU, 1, measured, StoreLimits(), options=chosen)
        digests = {file: draft.digest(file) for file in draft.weights}
        read = DraftedFiles(draft.contents, draft.weights, digests)
        return open_export(draft.manifest, "denoiser", read, hardware, "diffusers")


@pytest.fixture(scope="module")
def drafts(tmp_path_factory: pytest.TempPathFactory) -> Drafts:
    return Drafts(tmp_path_factory.mktemp("pipelines"))


def inputs_of(network: ExportedNetwork, rows: int, seed: int, time: float) -> dict[str, Tensor]:
    """Rows at a time; those of two near times are near to each other."""
    found = network.random_rows(rows, seed)
    found["x"] = found["x"] * (1 + time / 1e5)
    found["t"] = torch.full((rows,), time)
    return found


def some(rows: Mapping[str, Tensor], which: Sequence[int]) -> dict[str, Tensor]:
    return {name: value[list(which)] for name, value in rows.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_what_changed_too_much_is_evaluated_as_ever(drafts: Drafts, kind: str) -> None:
    network = drafts.network(kind, deterministic=False)
    memories: list[Any] = [None] * 2
    for time in (900.0, 880.0):
        rows = inputs_of(network, 2, 0, time)
        found, memories, reused = network.recall(rows, memories, [NEVER] * 2)
        assert reused == [False, False]
        for name, value in network(**rows).items():
            assert torch.equal(found[name], value)


# Diffusers' own cache fails on SD 3, whose last block returns no words.
@pytest.mark.parametrize("kind", sorted(KINDS.keys() - {"sd3"}))
def test_what_hardly_changed_is_what_diffusers_makes_of_it(drafts: Drafts, kind: str) -> None:
    """Diffusers decides for a whole batch, so one row is held against one row."""
    ours, theirs = (drafts.network(kind, deterministic=False) for _ in range(2))
    graph: Any = theirs._graph
    apply_first_block_cache(graph.module.component, FirstBlockCacheConfig(threshold=0.3))
    memories: list[Any] = [None]
    decisions = []
    with CacheMixin.cache_context(graph.module.component, "test"):  # not every transformer has it
        for time in (900.0, 890.0, 400.0, 395.0):
            rows = inputs_of(ours, 1, 3, time)
            found, memories, reused = ours.recall(rows, memories, [0.3])
            decisions += reused
            for name, value in theirs(**rows).items():
                torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-5)
    assert decisions[0] is False
    assert True in decisions


def test_a_row_decides_by_itself_whatever_its_company(drafts: Drafts) -> None:
    """Rows of different histories and thresholds: bitwise what each is alone."""
    network = drafts.network("flux")
    thresholds = [NEVER, ALWAYS, 0.3, ALWAYS, NEVER]
    times = (900.0, 880.0, 300.0)
    together: list[Any] = [None] * 5
    alone: list[Any] = [None] * 5
    pattern = []
    for step, time in enumerate(times):
        rows = inputs_of(network, 5, step if step == 2 else 0, time)
        found, together, reused = network.recall(rows, together, thresholds)
        pattern.append(reused)
        for i in range(5):
            single, kept, one = network.recall(some(rows, [i]), [alone[i]], [thresholds[i]])
            alone[i] = kept[0]
            assert one == [reused[i]]
            assert torch.equal(single["prediction"][0], found["prediction"][i])
    assert pattern[1][0] is False
    assert pattern[1][1] is True


class Counted(nn.Module):
    """A transformer of three blocks that count the rows that they are given."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(CountedBlock(i + 1) for i in range(3))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x


class CountedBlock(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor, self.rows = factor, []

    def forward(self, x: Tensor) -> Tensor:
        self.rows.append(len(x))
        return x + self.factor * torch.tanh(x)


def test_blocks_are_given_the_rows_that_go_on_and_no_others() -> None:
    network = Counted()
    cache = FirstBlockCache(network)
    x = torch.tensor([[0.5], [1.5], [2.5]])
    first = Recollection([None] * 3, [0.05] * 3)
    with cache.recalling(first):
        whole = network(x)
    assert torch.equal(whole, Counted()(x))
    moved = x + torch.tensor([[0.0], [0.4], [0.0]])
    second = Recollection(first.memories, [0.05] * 3)
    with cache.recalling(second):
        found = network(moved)
    assert second.reused == [True, False, True]
    assert [block.rows for block in network.blocks] == [[3, 3], [3, 1], [3, 1]]
    assert torch.equal(found[1], Counted()(moved)[1])
    torch.testing.assert_close(found[[0, 2]], whole[[0, 2]])
    third = Recollection(second.memories, [0.05] * 3)
    with cache.recalling(third):
        network(moved)
    assert third.reused == [True] * 3
    assert [block.rows[2:] for block in network.blocks] == [[3], [], []]


def test_the_rows_that_go_on_are_filled_up_to_what_the_plan_asks() -> None:
    network = Counted()
    cache = FirstBlockCache(network)
    x = torch.ones(4, 1)
    first = Recollection([None] * 4, [0.05] * 4, least=4)
    with cache.recalling(first):
        network(x)
    second = Recollection(first.memories, [0.05] * 4, least=4)
    with cache.recalling(second):
        network(torch.tensor([[1.0], [1.0], [3.0], [1.0]]))
    assert second.active == [2]
    assert network.blocks[1].rows == [4, 4]


def test_what_has_no_blocks_has_no_cache(drafts: Drafts) -> None:
    assert not offers_first_block(nn.Linear(2, 2))
    assert not drafts.network("dit", batch_buckets=[2]).remembers


# --- requests -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def engine() -> Engine:
    """The built-in transformer in torch, where its blocks are at hand."""
    store = Store(Path("nowhere"), catalogs=(CATALOG,))
    measured = Measurements(None, CPU, 1)
    model = open_model(
        store, "shapes-ldm", CPU, threads=1, prefer="safetensors", measurements=measured
    )
    found = discover()[model.family](model, CPU, ImageLimits())
    found.setup()
    return found


def job(engine: Engine, **changes: Any) -> Job[Any]:
    asked = {"prompt": "a red star", "steps": 16, "sampler": "euler", "seed": 4, **changes}
    return engine.jobs(call("generate", **asked))[0]


def test_a_cached_row_is_near_and_its_neighbour_bitwise_the_same(engine: Engine) -> None:
    plain = carry(engine, [job(engine)])
    cached = carry(engine, [job(engine, step_cache=0.2)])
    both = carry(engine, [job(engine), job(engine, step_cache=0.2)])
    assert np.array_equal(*pixels_of([plain[0], both[0]]))
    assert np.array_equal(*pixels_of([cached[0], both[1]]))
    assert "reused_evaluations" not in plain[0].values
    assert 0 < cached[0].values["reused_evaluations"] < 2 * 16
    one, other = (image.astype(float) for image in pixels_of([plain[0], cached[0]]))
    error = np.square(one - other).mean()
    assert error > 0
    assert 10 * np.log10(255**2 / error) > 20


def test_an_evaluation_that_is_retried_sees_what_it_saw_before(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step that fails after the network was asked leaves the cache as it was."""
    expected = carry(engine, [job(engine, step_cache=0.2)])
    (flight,) = engine.prepare([job(engine, step_cache=0.2)])
    advanced = module.advanced
    for fail in [True, False] * 16:

        def sometimes(*given: Any, failing: bool = fail) -> Any:
            if failing:
                raise RuntimeError("a neighbour's fault")
            return advanced(*given)

        monkeypatch.setattr(module, "advanced", sometimes)
        with pytest.raises(RuntimeError) if fail else nullcontext():
            engine.step([flight])
    assert flight.finished
    assert np.array_equal(*pixels_of([expected[0], *engine.decode([flight])]))


def test_a_model_without_such_blocks_refuses() -> None:
    plain = ready(tiny_diffusion())
    with pytest.raises(InvalidParameter, match="step_cache") as caught:
        plain.prepare([plain.jobs(call("generate", step_cache=0.1))[0]])
    assert caught.value.param == "step_cache"
