"""Small real models for tests: networks of a few numbers, and an engine that does as it is told."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from services.core.engine import REHEARSED_STEPS, Engine
from services.core.errors import ModelNotFound
from services.core.images import ImageLimits, Pixels, encode
from services.core.job import Call, Encoding, Job, Task
from services.core.model import ModelInfo
from services.core.network import Network, OpenedModel, TensorSpec
from services.core.parameters import Parameters
from services.core.trajectory import Result, Trajectory, Workload
from services.families import discover
from services.runtime.cost import CostCurve, Costs
from services.runtime.registry import LoadedModel
from services.sampling.denoiser import PredictionType
from services.sampling.schedule import Flow, Schedule, VariancePreserving

CPU = torch.device("cpu")
PATIENCE = 20.0
"""Seconds after which a test gives up on something that should have happened at once."""

Function = Callable[..., Mapping[str, Tensor]]


class RowByRow:
    """A function on tensors as a `Network`: rows are evaluated one by one, so they are independent.

    ``batches`` holds the number of rows of every evaluation.
    """

    def __init__(
        self, function: Function, inputs: Mapping[str, TensorSpec], outputs: Sequence[str]
    ) -> None:
        self.inputs = dict(inputs)
        self.outputs = {name: TensorSpec((), torch.float32) for name in outputs}
        self.batches: list[int] = []
        self._function = function

    def __call__(self, **inputs: Tensor) -> dict[str, Tensor]:
        rows = len(next(iter(inputs.values())))
        self.batches.append(rows)
        with torch.no_grad():
            parts = [
                self._function(**{name: value[i : i + 1] for name, value in inputs.items()})
                for i in range(rows)
            ]
        return {name: torch.cat([part[name] for part in parts]) for name in self.outputs}


def floats(*shape: int | None) -> TensorSpec:
    """The specification of a float32 tensor."""
    return TensorSpec(shape, torch.float32)


def integers(*shape: int | None) -> TensorSpec:
    """The specification of an int64 tensor."""
    return TensorSpec(shape, torch.int64)


def opened(
    family: str,
    networks: Mapping[str, Network],
    *,
    resolution: tuple[int, int],
    channels: int = 1,
    pixel_range: tuple[float, float] = (-1.0, 1.0),
    options: Mapping[str, Any] | None = None,
    name: str | None = None,
) -> OpenedModel:
    """A model as a store would open it."""
    return OpenedModel(
        id=name or f"tiny-{family}",
        family=family,
        description=f"a tiny {family}",
        owned_by="tests",
        created=1,
        resolution=resolution,
        channels=channels,
        pixel_range=pixel_range,
        networks=networks,
        options=options or {},
        card={},
    )


def ready(model: OpenedModel) -> Engine:
    """The engine of a model, set up on the CPU; what its networks count begins after that."""
    engine = discover()[model.family](model, CPU, ImageLimits())
    engine.setup()
    for network in model.networks.values():
        if isinstance(network, RowByRow):
            network.batches.clear()
    return engine


def carry(engine: Engine, jobs: Sequence[Job[Any]]) -> list[Result]:
    """Run jobs to their results in one batch, without a loop."""
    batch = engine.prepare(jobs)
    while unfinished := [t for t in batch if not t.finished]:
        engine.step(unfinished)
    results = []
    for trajectory in batch:
        results += engine.decode([trajectory])
    return results


def call(
    name: str,
    *,
    model: str = "",
    images: Sequence[Pixels] = (),
    mask: Pixels | None = None,
    deadline: float | None = None,
    **parameters: Any,
) -> Call:
    """A call by the name of its task or operation; images are given as pixels."""
    is_task = name in list(Task)
    return Call(
        id=name,
        model=model,
        task=Task(name) if is_task else Task.EDIT,
        operation=None if is_task else name,
        parameters=parameters,
        images=tuple(encode(pixels, Encoding()) for pixels in images),
        mask=None if mask is None else encode(mask, Encoding()),
        deadline=deadline,
    )


def ask(engine: Engine, name: str, **what: Any) -> list[Result]:
    """The results of a call (see `call`) from an engine that has nothing else to do."""
    return carry(engine, engine.jobs(call(name, **what)))


def pixels_of(results: Sequence[Result]) -> list[Pixels]:
    """The images of results that are images."""
    found = [result.pixels for result in results if result.pixels is not None]
    if len(found) != len(results):
        raise ValueError("a result has no image")
    return found


def some_pixels(*shape: int, seed: int = 0) -> Pixels:
    """Random 8-bit pixels."""
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


def seeded(build: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    """A module whose first weights are those of a seed; the global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build().eval()


class CouplingFlow(nn.Module):
    """RealNVP (Dinh et al., 2017): affine couplings on alternating halves of a vector."""

    masks: Tensor

    def __init__(self, shape: Sequence[int], *, couplings: int = 4, width: int = 16) -> None:
        super().__init__()
        self.shape = tuple(shape)
        dims = int(np.prod(self.shape))
        self.register_buffer(
            "masks", torch.stack([(torch.arange(dims) + i) % 2 for i in range(couplings)]).float()
        )
        self.networks = nn.ModuleList(
            nn.Sequential(nn.Linear(dims, width), nn.Tanh(), nn.Linear(width, 2 * dims))
            for _ in range(couplings)
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``z`` and ``log |det dz/dx|``."""
        y = x.flatten(1)
        log_det = torch.zeros(len(y), dtype=y.dtype)
        for mask, network in zip(self.masks, self.networks, strict=True):
            scale, shift = self._coefficients(network, y, mask)
            y = y * torch.exp(scale) + shift
            log_det = log_det + scale.sum(1)
        return y.view(-1, *self.shape), log_det

    def inverse(self, z: Tensor) -> Tensor:
        """``x`` with ``forward(x) = z``."""
        y = z.flatten(1)
        for mask, network in zip(self.masks.flip(0), reversed(self.networks), strict=True):
            scale, shift = self._coefficients(network, y, mask)
            y = (y - shift) * torch.exp(-scale)
        return y.view(-1, *self.shape)

    def _coefficients(self, network: nn.Module, y: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        scale, shift = network(y * mask).chunk(2, 1)
        return torch.tanh(scale) * (1 - mask), shift * (1 - mask)


class Denoiser(nn.Module):
    """A convolution that hears the time and the tokens."""

    def __init__(self, channels: int, slots: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, 6, 3, padding=1)
        self.told = nn.Linear(1 + slots, 6)
        self.last = nn.Conv2d(6, channels, 3, padding=1)

    def forward(self, x: Tensor, t: Tensor, tokens: Tensor | None = None) -> Tensor:
        """The prediction for a state at a time."""
        told = [torch.log1p(t[:, None].float()) / 7]
        if tokens is not None:
            told.append(tokens.float())
        hidden = torch.tanh(self.first(x) + self.told(torch.cat(told, 1))[:, :, None, None])
        predicted: Tensor = self.last(hidden)
        return predicted


VOCABULARY: Mapping[str, Any] = {
    "slots": {
        "color": {"values": ["red", "green", "blue"], "synonyms": {"crimson": "red"}},
        "shape": {"values": ["circle", "square"]},
    },
    "ignored": ["a", "the", "on"],
}


def tiny_gan() -> OpenedModel:
    """A conditional generator of three labels, in colour."""
    labels = ["red", "green", "blue"]
    net = seeded(lambda: nn.Linear(4 + len(labels), 3 * 8 * 8), 1)

    def generate(z: Tensor, label: Tensor) -> Mapping[str, Tensor]:
        told = nn.functional.one_hot(label, len(labels)).float()
        return {"image": torch.tanh(net(torch.cat([z, told], 1))).view(-1, 3, 8, 8)}

    network = RowByRow(generate, {"z": floats(4), "label": integers()}, ["image"])
    return opened(
        "gan",
        {"generator": network},
        resolution=(8, 8),
        channels=3,
        options={"labels": labels},
    )


def tiny_vae() -> OpenedModel:
    """An encoder and a decoder of 4 x 4 grey images with three latents."""
    encoder = seeded(lambda: nn.Linear(16, 6), 2)
    decoder = seeded(lambda: nn.Linear(3, 16), 3)

    def encode(image: Tensor) -> Mapping[str, Tensor]:
        mean, log_variance = encoder(image.flatten(1)).chunk(2, 1)
        return {"mean": mean, "log_variance": log_variance - 1}

    def decode(z: Tensor) -> Mapping[str, Tensor]:
        return {"image": torch.tanh(decoder(z)).view(-1, 1, 4, 4)}

    return opened(
        "vae",
        {
            "encoder": RowByRow(encode, {"image": floats(1, 4, 4)}, ["mean", "log_variance"]),
            "decoder": RowByRow(decode, {"z": floats(3)}, ["image"]),
        },
        resolution=(4, 4),
        options={"observation": {"scale": 8.0}},
    )


def tiny_flow() -> OpenedModel:
    """A coupling flow of 4 x 4 grey images."""
    return flow_model(seeded(lambda: CouplingFlow((1, 4, 4)), 4), (1, 4, 4), (0.0, 1.0))


def flow_model(
    flow: nn.Module, shape: tuple[int, int, int], pixel_range: tuple[float, float]
) -> OpenedModel:
    """A module with ``forward(x) -> z, log_det`` and ``inverse(z)`` as a model."""

    def forward(x: Tensor) -> Mapping[str, Tensor]:
        z, log_det = flow(x)
        return {"z": z, "log_det": log_det}

    def inverse(z: Tensor) -> Mapping[str, Tensor]:
        return {"x": flow.inverse(z)}

    return opened(
        "flow",
        {
            "forward": RowByRow(forward, {"x": floats(*shape)}, ["z", "log_det"]),
            "inverse": RowByRow(inverse, {"z": floats(*shape)}, ["x"]),
        },
        resolution=shape[1:],
        channels=shape[0],
        pixel_range=pixel_range,
    )


def tiny_diffusion() -> OpenedModel:
    """A text-to-image latent diffusion: 2 x 4 x 4 latents of 3 x 8 x 8 images."""
    denoiser = seeded(lambda: Denoiser(2, len(VOCABULARY["slots"])), 5)
    encoder = seeded(lambda: nn.Conv2d(3, 4, 2, stride=2), 6)
    decoder = seeded(lambda: nn.ConvTranspose2d(2, 3, 2, stride=2), 7)

    def denoise(x: Tensor, t: Tensor, tokens: Tensor) -> Mapping[str, Tensor]:
        return {"output": denoiser(x, t, tokens)}

    def encode(image: Tensor) -> Mapping[str, Tensor]:
        mean, log_variance = encoder(image).chunk(2, 1)
        return {"mean": mean, "log_variance": log_variance - 3}

    def decode(z: Tensor) -> Mapping[str, Tensor]:
        return {"image": torch.tanh(decoder(z))}

    inputs = {"x": floats(2, 4, 4), "t": floats(), "tokens": integers(2)}
    return opened(
        "diffusion",
        {
            "denoiser": RowByRow(denoise, inputs, ["output"]),
            "encoder": RowByRow(encode, {"image": floats(3, 8, 8)}, ["mean", "log_variance"]),
            "decoder": RowByRow(decode, {"z": floats(2, 4, 4)}, ["image"]),
        },
        resolution=(8, 8),
        channels=3,
        options={
            "schedule": {"type": "variance_preserving"},
            "latent": {"shape": [2, 4, 4], "shift": [0.1, -0.2], "scale": [0.7, 1.3]},
            "observation": {"scale": 6.0},
            "tokenizer": VOCABULARY,
            "defaults": {"sampler": "dpmpp_2m", "steps": 4, "guidance_scale": 3.0},
        },
    )


MODELS: Mapping[str, Callable[[], OpenedModel]] = {
    "gan": tiny_gan,
    "vae": tiny_vae,
    "flow": tiny_flow,
    "diffusion": tiny_diffusion,
}
"""A model of every family, as small as its kind allows; a new family needs one line here."""


class Shelf:
    """A `ModelSource` of models that are built when they are opened."""

    def __init__(self, models: Mapping[str, Callable[[], OpenedModel]]) -> None:
        self.models = dict(models)
        self.versions = dict.fromkeys(models, "1")
        self.openings: list[str] = []

    def names(self) -> Sequence[str]:
        return sorted(self.models)

    def fingerprint(self, name: str) -> str:
        if name not in self.models:
            raise ModelNotFound(f"there is no model '{name}'", param="model")
        return self.versions[name]

    def open(self, name: str, device: torch.device) -> OpenedModel:  # noqa: ARG002 - on the CPU
        self.openings.append(name)
        return self.models[name]()


def one_of_each() -> Shelf:
    """A source with the tiny model of every family, by its id."""
    return Shelf({f"tiny-{family}": build for family, build in MODELS.items()})


@lru_cache
def _signal(schedule: VariancePreserving) -> Tensor:
    return torch.from_numpy(schedule.signal())


@dataclass(frozen=True)
class GaussianData:
    """Data ``x_0 ~ N(0, std^2 I)`` under a schedule: everything about it has a closed form."""

    std: float
    schedule: Schedule

    def levels(self, times: Tensor) -> tuple[Tensor, Tensor]:
        """Signal and noise of the times that a network is told."""
        if isinstance(self.schedule, Flow):
            sigmas = times.double() / self.schedule.time_scale
            return 1 - sigmas, sigmas
        signal = _signal(self.schedule)
        low = times.double().floor().long()
        high = (low + 1).clamp(max=len(signal) - 1)
        ratios = torch.sqrt((1 - signal) / signal)
        ratio = torch.lerp(ratios[low], ratios[high], times.double() - low)
        alphas = 1 / torch.sqrt(1 + ratio.square())
        return alphas, ratio * alphas

    def denoise(self, x: Tensor, alpha: float, sigma: float) -> Tensor:
        """``E[x_0 | x]``."""
        gain = alpha * self.std**2 / (alpha**2 * self.std**2 + sigma**2)
        return gain * x

    def network(self, shape: tuple[int, int, int], prediction: PredictionType) -> RowByRow:
        """The optimal network of a parameterisation."""

        def predict(x: Tensor, t: Tensor) -> Mapping[str, Tensor]:
            alphas, sigmas = self.levels(t)
            alpha, sigma = float(alphas), float(sigmas)
            clean = self.denoise(x.double(), alpha, sigma)
            noise = (x.double() - alpha * clean) / sigma
            output = {
                "epsilon": noise,
                "v_prediction": alpha * noise - sigma * clean,
                "sample": clean,
                "flow": noise - clean,
            }[prediction]
            return {"output": output.float()}

        return RowByRow(predict, {"x": floats(*shape), "t": floats()}, ["output"])

    def expected_terms(self, x_0: Tensor, steps: int) -> list[float]:
        """Expected nats of each step of the bound of ``x_0``, by the denoiser's mean squared error.

        With gain g, ``x_0 - g (alpha x_0 + sigma noise)`` has mean ``(1 - g alpha) x_0`` and
        variance ``(g sigma)^2`` in every dimension.
        """
        grid = self.schedule.bound_grid(steps)
        signal_to_noise = (grid.alphas / grid.sigmas) ** 2
        dims, square = x_0.numel(), float(x_0.double().square().sum())
        terms = []
        for i in range(steps):
            alpha, sigma = grid.alphas[i], grid.sigmas[i]
            gain = alpha * self.std**2 / (alpha**2 * self.std**2 + sigma**2)
            error = (1 - gain * alpha) ** 2 * square + dims * (gain * sigma) ** 2
            terms.append(0.5 * (signal_to_noise[i + 1] - signal_to_noise[i]) * error)
        return terms


SCHEDULES: Mapping[str, tuple[Schedule, PredictionType]] = {
    "variance_preserving": (VariancePreserving(), "epsilon"),
    "velocity": (VariancePreserving(beta_schedule="scaled_linear"), "v_prediction"),
    "flow": (Flow(), "flow"),
}


class Work(Parameters):
    """What a scripted job asks for: steps of one row each, and a name by which to fail it."""

    steps: Annotated[int, Field(ge=0)] = 1
    rows_each: int = 1
    noisy: bool = True
    key: str = "shared"

    def rows(self, images: int) -> int:  # noqa: ARG002 - takes no images
        """One."""
        return 1


Stage = str
Hook = Callable[[Stage, tuple[str, ...]], None]


def _do_nothing(stage: Stage, ids: tuple[str, ...]) -> None:
    pass


class ScriptedEngine(Engine):
    """Real arithmetic with a hook before every evaluation, where a test waits or raises.

    A step is ``x <- 0.9 x + noise``; the result's pixels are the bits of the state. ``batches``
    holds the stage and the jobs of every evaluation that was begun.
    """

    family: ClassVar[str] = "scripted"

    def __init__(self, hook: Hook = _do_nothing, *, name: str = "scripted") -> None:
        super().__init__(opened("scripted", {}, resolution=(4, 4), name=name), CPU, ImageLimits())
        self.hook = hook
        self.batches: list[tuple[Stage, tuple[str, ...]]] = []

    def read_options(self) -> None:
        """None."""

    def setup(self) -> None:
        """Nothing to open."""

    def describe(self) -> ModelInfo:
        """See `Engine.describe`."""
        return self.model_info(conditioning=("none",), likelihood="none")

    def operations(self) -> Mapping[str, type[Parameters]]:
        """See `Engine.operations`."""
        return {"generate": Work}

    def refusal(self, name: str) -> str:
        """See `Engine.refusal`."""
        return f"a script cannot {name}"

    def workload(self, job: Job[Any]) -> Workload:
        """As the job says."""
        work = job.parameters
        return Workload("image", work.key, work.steps, work.rows_each)

    def rehearsal(self) -> Sequence[Job[Any]]:
        """One job."""
        return [Job("rehearsal", self.model.id, "generate", Work(steps=REHEARSED_STEPS))]

    def prepare(self, jobs: Sequence[Job[Any]]) -> list[Trajectory]:
        """First states from the jobs' seeds."""
        self._begin("prepare", [job.id for job in jobs])
        sources = [torch.Generator().manual_seed(job.seed) for job in jobs]
        return [
            Trajectory(
                job=job,
                workload=self.workload(job),
                x=torch.randn(4, generator=source),
                generator=source,
            )
            for job, source in zip(jobs, sources, strict=True)
        ]

    def step(self, batch: Sequence[Trajectory]) -> None:
        """Draw every row's noise, perhaps fail, and only then move on."""
        moved = [0.9 * t.x + (t.noise() if t.job.parameters.noisy else 0) for t in batch]
        self._begin("step", [t.job.id for t in batch])
        for trajectory, x in zip(batch, moved, strict=True):
            trajectory.commit(x)

    def decode(self, batch: Sequence[Trajectory]) -> list[Result]:
        """The bits of each state."""
        self._begin("decode", [t.job.id for t in batch])
        return [Result(t.x.numpy().view(np.uint8).reshape(1, 4, 4)) for t in batch]

    def stages(self, stage: Stage) -> list[tuple[str, ...]]:
        """The jobs of every evaluation of a stage."""
        return [ids for name, ids in self.batches if name == stage]

    def _begin(self, stage: Stage, ids: Sequence[str]) -> None:
        self.batches.append((stage, tuple(ids)))
        self.hook(stage, tuple(ids))


def scripted(
    engine: ScriptedEngine,
    *,
    seconds: float = 0.001,
    knee: int = 8,
    keys: Sequence[str] = ("shared",),
) -> LoadedModel:
    """A scripted engine whose evaluations cost ``seconds`` for any number of rows up to a knee."""
    points = {1: seconds, knee: seconds} if knee > 1 else {1: seconds, 2: 2 * seconds}
    curves: dict[tuple[str, Hashable], CostCurve] = {
        ("step", key): CostCurve(points) for key in keys
    }
    curves["decode", "image"] = CostCurve(points)
    return LoadedModel(engine, "1", costs=Costs(curves), ready=True)


def work(
    name: str, *, deadline: float | None = None, seed: int | None = None, **what: Any
) -> Job[Any]:
    """A scripted job; its seed follows from its name unless it is given."""
    if seed is None:
        seed = int(hashlib.sha256(name.encode()).hexdigest()[:8], 16)
    return Job(name, "scripted", "generate", Work(**what), seed=seed, deadline=deadline)


class Gate:
    """A hook that holds evaluations of one stage until the test lets them go, one at a time."""

    def __init__(self, stage: Stage = "step") -> None:
        self._stage = stage
        self._arrived = threading.Semaphore(0)
        self._go = threading.Semaphore(0)
        self._opened = threading.Event()

    def __call__(self, stage: Stage, ids: tuple[str, ...]) -> None:  # noqa: ARG002 - a hook
        """Wait at the gate."""
        if stage != self._stage or self._opened.is_set():
            return
        self._arrived.release()
        if not self._go.acquire(timeout=PATIENCE):
            raise TimeoutError("the test never let this evaluation go")

    def wait(self) -> None:
        """Until an evaluation stands at the gate."""
        if not self._arrived.acquire(timeout=PATIENCE):
            raise TimeoutError("no evaluation came to the gate")

    def release(self) -> None:
        """Let the evaluation that stands there go on."""
        self._go.release()

    def advance(self) -> None:
        """Let one evaluation go on and wait for the next."""
        self.release()
        self.wait()

    def open(self) -> None:
        """Let everything through from now on."""
        self._opened.set()
        self._go.release()


def until(condition: Callable[[], bool], what: str = "the condition") -> None:
    """Wait for something that should happen at once."""
    end = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"{what} did not come about")
        time.sleep(0.001)
