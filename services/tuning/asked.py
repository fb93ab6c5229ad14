"""What is asked of a tuning: what to improve, what may not be lost, and for how long."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Objective = Literal["throughput", "p99", "fid"]
OBJECTIVES: tuple[Objective, ...] = ("throughput", "p99", "fid")
KnobName = Literal[
    "step_rows",
    "decode_rows",
    "threads",
    "precision",
    "buckets",
    "steps",
    "sampler",
    "guidance_interval",
]
KNOBS: tuple[KnobName, ...] = (
    "step_rows",
    "decode_rows",
    "threads",
    "precision",
    "buckets",
    "steps",
    "sampler",
    "guidance_interval",
)
QUALITY_KNOBS: frozenset[KnobName] = frozenset(
    ("precision", "steps", "sampler", "guidance_interval")
)
"""Those that change images."""


class Strict(BaseModel):
    """Base of what is written to files and read again."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Limits(Strict):
    """What a configuration may not do, whatever it gains.

    Attributes:
        p99: seconds of the 99th percentile of latency.
        fid_loss: by what share FID may be above that of the defaults.
        agreement_loss: by what share of it agreement with prompts or labels may be below that of
            the defaults. FID alone does not see that an image shows something else than was asked.
    """

    p99: Annotated[float, Field(gt=0)] | None = None
    fid_loss: Annotated[float, Field(ge=0, le=10)] = 0.05
    agreement_loss: Annotated[float, Field(ge=0, le=1)] = 0.02


class Workload(Strict):
    """How the model is used while it is measured.

    Attributes:
        concurrency: callers that ask again as soon as they are answered, where throughput is
            measured.
        seconds: of one measurement, at least; a slow model is measured for longer.
        rate: requests per second where latency is measured; `RATE_SHARE` of what the defaults can
            answer if ``None``.
        samples: images that quality is measured on.
        against: held-out images: a built-in set or a folder; what the model's card names if
            ``None``.
        features: a network to compare images by, in place of the domain's classifier.
        seed: of requests, arrivals and the search.
    """

    concurrency: Annotated[int, Field(ge=1, le=256)] = 32
    seconds: Annotated[float, Field(gt=0, le=600)] = 5.0
    rate: Annotated[float, Field(gt=0, le=100_000)] | None = None
    samples: Annotated[int, Field(ge=16, le=50_000)] = 256
    against: str | None = None
    features: str | None = None
    seed: Annotated[int, Field(ge=0, le=2**31)] = 0


RATE_SHARE = 0.7


class Asked(Strict):
    """A tuning that can be resumed: another one of these is another study.

    Attributes:
        model: its name.
        digest: of the model, which changes whenever one of its files does.
        hardware: what it runs on.
        objectives: what to improve; the first decides between configurations that are all good.
        limits: what may not be lost.
        workload: how the model is used meanwhile.
        knobs: what may be changed.
    """

    model: str
    digest: str
    hardware: str
    objectives: tuple[Objective, ...]
    limits: Limits
    workload: Workload
    knobs: tuple[KnobName, ...]


class Outcome(Strict):
    """What was measured of one configuration; what was not asked for is ``None``.

    Attributes:
        throughput: images per second.
        throughput_gain: the same over that of the defaults, measured beside it.
        p99: seconds.
        p99_share: the same over that of the defaults, measured beside it.
        fid: distance of feature vectors to those of held-out images.
        agreement: share of prompts' factors, or of labels, that images are read to show.
    """

    throughput: float | None = None
    throughput_gain: float | None = None
    p99: float | None = None
    p99_share: float | None = None
    fid: float | None = None
    agreement: float | None = None


def excesses(outcome: Outcome, base: Outcome, limits: Limits) -> dict[str, float]:
    """By limit, how far a configuration is beyond it, as a share of it; at most 0 is within."""
    found: dict[str, float] = {}
    if limits.p99 is not None and outcome.p99 is not None:
        found["p99"] = outcome.p99 / limits.p99 - 1
    if outcome.fid is not None and base.fid is not None:
        found["fid_loss"] = outcome.fid / (base.fid * (1 + limits.fid_loss)) - 1
    if outcome.agreement is not None and base.agreement:
        found["agreement_loss"] = (1 - limits.agreement_loss) - outcome.agreement / base.agreement
    return found


def value_of(objective: Objective, outcome: Outcome) -> float:
    """What is optimised: a gain to raise, or a share or a distance to lower."""
    values = {
        "throughput": outcome.throughput_gain,
        "p99": outcome.p99_share,
        "fid": outcome.fid,
    }
    found = values[objective]
    if found is None:
        raise RuntimeError(f"{objective} was asked for and not measured; this is a bug")
    return found
