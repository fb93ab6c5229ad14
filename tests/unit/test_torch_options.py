"""How networks on torch are run: precision, layout, buckets; the promises hold in each."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from model_store.addition import add_model
from model_store.draft import Draft
from model_store.importers.pipelines import import_pipeline
from model_store.limits import StoreLimits
from model_store.manifest import TorchOptions
from model_store.networks.batch_buckets import BatchBuckets
from model_store.networks.component_opening import prompt_encoder_of
from model_store.networks.export_choice import open_export
from model_store.networks.exported_network import ExportedNetwork
from model_store.networks.graph import GraphTensor
from model_store.networks.hardware import Hardware
from model_store.networks.measurements import Measurements
from model_store.networks.opening import open_model, torch_options
from model_store.networks.torch_graph import TorchGraph, bucket_sizes
from model_store.networks.upload import placed, upload
from model_store.reading import DraftedFiles
from model_store.store import Store
from services.serving.settings import Pool
from tests import tiny_pipelines
from tests.engines import CPU
from tests.tiny_models import seeded

NEAR = {"bfloat16": 0.05, "float16": 0.01}
"""Largest difference seen of a tiny network's outputs, over their own largest value, rounded up."""


# --- buckets --------------------------------------------------------------------------------


class Recorder:
    """Doubles what it is given, and remembers the shapes and places of it."""

    def __init__(self) -> None:
        self.rows: list[int] = []
        self.places: set[int] = set()

    def __call__(self, feeds: Mapping[str, Tensor]) -> Sequence[Tensor]:
        self.rows.append(len(feeds["x"]))
        self.places.add(feeds["x"].data_ptr())
        return [2 * feeds["x"], feeds["t"] + 1]


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 9])
def test_any_number_of_rows_goes_through_the_buckets(rows: int) -> None:
    function = Recorder()
    buckets = BatchBuckets(function, CPU, (4, 2), capture=True)  # without CUDA: the same but this
    x, t = torch.randn(rows, 3), torch.arange(rows).float()
    doubled, later = buckets.run({"x": x, "t": t})
    assert torch.equal(doubled, 2 * x)
    assert torch.equal(later, t + 1)
    assert set(function.rows) <= {2, 4}
    whole, rest = divmod(rows, 4)
    assert function.rows == [4] * whole + ([2 if rest <= 2 else 4] if rest else [])


def test_buffers_stay_where_they_are_and_results_are_the_callers_own() -> None:
    function = Recorder()
    buckets = BatchBuckets(function, CPU, (4,), capture=False)
    first = buckets.run({"x": torch.ones(3, 2), "t": torch.zeros(3)})
    kept = [value.clone() for value in first]
    buckets.run({"x": torch.full((4, 2), 7.0), "t": torch.ones(4)})
    assert len(function.places) == 1
    assert all(torch.equal(*pair) for pair in zip(first, kept, strict=True))


def test_nothing_of_an_earlier_batch_is_seen_by_a_later_one() -> None:
    seen: list[Tensor] = []

    def function(feeds: Mapping[str, Tensor]) -> Sequence[Tensor]:
        seen.append(feeds["x"].clone())
        return [feeds["x"]]

    buckets = BatchBuckets(function, CPU, (3,), capture=False)
    buckets.run({"x": torch.full((3, 1), float("nan"))})
    buckets.run({"x": torch.tensor([[5.0]])})
    assert torch.equal(seen[-1], torch.full((3, 1), 5.0))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, ()),
        ({"deterministic": False}, ()),
        ({"compile": True}, (8,)),
        ({"cuda_graphs": True, "deterministic": False}, (1, 2, 4, 8, 16)),
        ({"batch_buckets": [3]}, (3,)),
    ],
)
def test_which_buckets_there_are(options: dict[str, Any], expected: tuple[int, ...]) -> None:
    assert bucket_sizes(TorchOptions(**options)) == expected


# --- placing weights ------------------------------------------------------------------------


@pytest.mark.parametrize("staging", [64, 100, 1 << 20])
def test_weights_arrive_whole_through_the_staging_buffers(staging: int) -> None:
    module = seeded(lambda: nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.Linear(7, 11)))
    before = {name: value.clone() for name, value in module.state_dict().items()}
    held = [parameter.data for parameter in module.parameters()]  # so that no address is reused
    places = {data.data_ptr() for data in held}
    upload(module, CPU, staging_bytes=staging)
    assert places.isdisjoint(parameter.data_ptr() for parameter in module.parameters())
    after = module.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_parameters_are_cast_and_buffers_are_not() -> None:
    module = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5))
    module = placed(module, CPU, torch.bfloat16, channels_last=True)
    assert {p.dtype for p in module.parameters()} == {torch.bfloat16}
    assert {b.dtype for b in module.buffers()} == {torch.float32, torch.int64}
    weight = next(module.parameters())
    assert weight.is_contiguous(memory_format=torch.channels_last)


# --- pipelines ------------------------------------------------------------------------------

KINDS = {
    "sd": tiny_pipelines.stable_diffusion,
    "sdxl": tiny_pipelines.stable_diffusion_xl,
    "dit": tiny_pipelines.dit,
    "pixart": tiny_pipelines.pixart,
    "sd3": tiny_pipelines.stable_diffusion_3,
    "flux": tiny_pipelines.flux,
}


class Drafts:
    """Tiny pipelines by kind, imported when first asked for, and networks opened from them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._known: dict[str, Draft] = {}

    def get(self, kind: str) -> Draft:
        if kind not in self._known:
            KINDS[kind](self.root / kind)
            self._known[kind] = import_pipeline(self.root / kind, StoreLimits(), name=kind)
        return self._known[kind]

    def files(self, kind: str) -> DraftedFiles:
        draft = self.get(kind)
        digests = {file: draft.digest(file) for file in draft.weights}
        return DraftedFiles(draft.contents, draft.weights, digests)

    def network(self, kind: str, name: str = "denoiser", **options: Any) -> ExportedNetwork:
        draft = self.get(kind)
        measured = Measurements(None, CPU, 1)
        hardware = Hardware(CPU, 1, measured, StoreLimits(), options=TorchOptions(**options))
        return open_export(draft.manifest, name, self.files(kind), hardware, "diffusers")

    def prompt(self, kind: str, prompt: str, **options: Any) -> Mapping[str, Tensor]:
        draft = self.get(kind)
        opening = prompt_encoder_of(
            draft.manifest,
            self.files(kind),
            StoreLimits(),
            CPU,
            TorchOptions(**options),
        )
        assert opening is not None
        return opening()(prompt)


@pytest.fixture(scope="module")
def drafts(tmp_path_factory: pytest.TempPathFactory) -> Drafts:
    return Drafts(tmp_path_factory.mktemp("pipelines"))


def parted(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> float:
    """The largest difference over the largest value."""
    return max(
        float((value - other[key]).abs().max() / value.abs().max()) for key, value in one.items()
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_near_to_full(drafts: Drafts, kind: str, dtype: str) -> None:
    full = drafts.network(kind, deterministic=False)
    half = drafts.network(kind, dtype=dtype, deterministic=False)
    rows = full.random_rows(2)
    rows["t"] = torch.tensor([999.0, 3.0])  # bfloat16 would make 1000 of the first
    expected, found = full(**rows), half(**rows)
    assert all(value.dtype == torch.float32 for value in found.values())
    assert 0 < parted(expected, found) <= NEAR[dtype]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_decoder_in_half_precision_is_near_or_kept_in_full(drafts: Drafts, dtype: str) -> None:
    full = drafts.network("sd", "decoder", deterministic=False)
    half = drafts.network("sd", "decoder", deterministic=False, dtype=dtype)
    rows = full.random_rows(2)
    difference = parted(full(**rows), half(**rows))
    # Its configuration says `force_upcast`: float16 would overflow on trained weights.
    assert difference == 0 if dtype == "float16" else 0 < difference <= NEAR[dtype]


def test_prompts_are_read_in_half_precision_too(drafts: Drafts) -> None:
    full = drafts.prompt("pixart", "a red cat")
    assert parted(full, drafts.prompt("pixart", "a red cat", dtype="bfloat16")) > 0
    assert parted(full, drafts.prompt("pixart", "a red cat", dtype="bfloat16")) <= NEAR["bfloat16"]
    # T5 overflows in float16.
    assert parted(full, drafts.prompt("pixart", "a red cat", dtype="float16")) == 0


@pytest.mark.parametrize("kind", ["sd", "sdxl"])
def test_channels_last_changes_the_layout_and_not_the_image(drafts: Drafts, kind: str) -> None:
    plain = drafts.network(kind, deterministic=False)
    laid = drafts.network(kind, deterministic=False, channels_last=True)
    rows = plain.random_rows(3)
    assert parted(plain(**rows), laid(**rows)) < 1e-5


@pytest.mark.parametrize(
    "options",
    [
        {"batch_buckets": [4]},
        {"cuda_graphs": True},
        {"dtype": "bfloat16", "batch_buckets": [2, 4]},
    ],
)
def test_a_row_never_shows_its_company_whatever_the_options(
    drafts: Drafts, options: dict[str, Any]
) -> None:
    found = drafts.network("sd", **options)
    rows = found.random_rows(5)
    together = found(**rows)["prediction"]
    for i in range(5):
        alone = found(**{name: value[i : i + 1] for name, value in rows.items()})["prediction"]
        assert torch.equal(alone[0], together[i])


def test_without_determinism_rows_are_taken_as_they_come(drafts: Drafts) -> None:
    found = drafts.network("sd", deterministic=False)
    assert (found.plan.least, found.plan.most) == (1, 64)
    rows = found.random_rows(3)
    assert parted(drafts.network("sd")(**rows), found(**rows)) < 1e-4


def test_plans_of_other_options_are_remembered_apart(tmp_path: Path) -> None:
    store, path = Store(tmp_path / "store", catalogs=()), tmp_path / "measurements.json"
    tiny_pipelines.ddpm(tmp_path / "ddpm")
    add_model(store, tmp_path / "ddpm", threads=1)
    for options in (None, TorchOptions(dtype="bfloat16")):
        measured = Measurements(path, CPU, 1)
        open_model(store, "ddpm", CPU, threads=1, measurements=measured, overrides=options)
    entries = json.loads(path.read_text())["entries"].values()
    assert {e["where"]["what"] for e in entries} == {"rows", 'rows {"dtype":"bfloat16"}'}


def test_attention_is_torchs_own(drafts: Drafts) -> None:
    """PyTorch chooses the kernel (flash, memory-efficient, cuDNN) behind this one function."""

    class Counter(TorchFunctionMode):
        calls = 0

        def __torch_function__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            self.calls += func is nn.functional.scaled_dot_product_attention
            return func(*args, **(kwargs or {}))

    for kind in KINDS:
        found = drafts.network(kind, deterministic=False)
        with Counter() as counter:
            found(**found.random_rows(1))
        assert counter.calls > 0, kind


class Small(nn.Module):
    """Little to compile."""

    outputs = ("prediction",)

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.layer(x))


@pytest.mark.slow  # a compiler is started
def test_compiled_code_gives_the_same_numbers() -> None:
    module = seeded(Small)
    inputs = [GraphTensor("x", (None, 4), torch.float32)]
    options = TorchOptions(compile=True, batch_buckets=[2])
    graph = TorchGraph(
        module, name="denoiser", inputs=inputs, device=CPU, threads=1, options=options
    )
    x = torch.randn(3, 4)
    torch.testing.assert_close(graph.run({"x": x})[0], module(x))


# --- where options come from ----------------------------------------------------------------


def test_what_an_operator_sets_takes_the_manifests_place(drafts: Drafts) -> None:
    manifest = drafts.get("sd").manifest.model_copy(
        update={"torch": TorchOptions(dtype="bfloat16", channels_last=True)}
    )
    assert torch_options(manifest, None) == manifest.torch
    found = torch_options(manifest, TorchOptions(dtype="float32"))
    assert (found.dtype, found.channels_last) == ("float32", True)


def test_a_pools_options_travel_as_they_were_set() -> None:
    pool = Pool.model_validate({"name": "a", "torch": {"*": {"dtype": "float32"}}})
    there = Pool.model_validate(pool.model_dump())
    assert there.torch["*"].model_fields_set == {"dtype"}
