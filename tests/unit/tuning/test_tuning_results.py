"""What a tuning writes, and what its load does."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml
from torch import device
from typer.testing import CliRunner

from services.cli import app
from services.cli.tune_order import seconds_of, share_of
from services.core.errors import InvalidParameter
from services.core.job import Answer, Call, Task, Timings
from services.serving.settings import Deployment, Pool
from services.tuning.asked import Asked, Limits, Outcome, Workload
from services.tuning.bench import Bench
from services.tuning.finals import Final
from services.tuning.load import LEAST_REQUESTS, WAVES, latencies, throughput
from services.tuning.order import Order
from services.tuning.plot import draw_front
from services.tuning.precisions import precisions_of
from services.tuning.result import Result, pool_of, write_config
from services.tuning.space import About, configured
from services.tuning.study import Tried
from services.tuning.tune import searched, tune

MODEL = "digits-ddpm"
ABOUT = About(
    id=MODEL,
    digest="0" * 64,
    knees={"step": 8, "decode": 4},
    threads=2,
    precisions=("float32", "bfloat16"),
    stored_twice=True,
    defaults={"steps": 20, "sampler": "euler", "guidance_interval": None},
)
CHANGES = {"step_rows": 16, "threads": 1, "steps": 10, "sampler": "heun", "guidance_end": 0.8}
CHOSEN = Outcome(throughput=20.0, throughput_gain=2.0, fid=10.0)


def config(folder: Path, pools: list[dict[str, object]] | None = None) -> Path:
    file = folder / "config.yaml"
    arguments = {} if pools is None else {"pools": pools}
    application = {"name": "a", "import_path": "services.serving.app:build", "args": arguments}
    file.write_text(yaml.safe_dump({"applications": [application]}))
    return file


def result(chosen: dict[str, object] | None) -> Result:
    final = None
    if chosen is not None:
        final = Final(
            number=1, changes=chosen, rounds=[CHOSEN], median=CHOSEN, beyond=[], better=True
        )
    return Result(
        asked=Asked(
            model=MODEL,
            digest="0" * 64,
            hardware="here",
            objectives=("throughput", "fid"),
            limits=Limits(),
            workload=Workload(),
            knobs=("steps",),
        ),
        measured=datetime(2026, 1, 1, tzinfo=UTC),
        load=(0.1, 0.2),
        interrupted=False,
        base=Outcome(throughput=10.0, throughput_gain=1.0, fid=11.0),
        rate=None,
        trials=[
            Tried(number=0, changes={}, outcome=CHOSEN),
            Tried(number=1, changes={"steps": 3}, outcome=None, reason="died"),
            Tried(number=2, changes={"steps": 2}, outcome=CHOSEN, beyond=("fid_loss",)),
        ],
        finals=[final] if final else [],
        chosen=final,
    )


def written(folder: Path, source: Path) -> Pool:
    write_config(source, folder / "serve.yaml", ABOUT, result(CHANGES))
    found = yaml.safe_load((folder / "serve.yaml").read_text())
    (pool, *_) = Deployment.model_validate(found["applications"][0]["args"]).pools
    return pool


def test_the_config_serves_what_was_chosen_and_says_where_it_was_measured(tmp_path: Path) -> None:
    tuning = written(tmp_path, config(tmp_path)).tuning[MODEL]
    assert tuning.knees == {"step": 16}
    assert tuning.threads == 1
    assert tuning.defaults == {"steps": 10, "sampler": "heun", "guidance_interval": [0.0, 0.8]}
    assert tuning.measured is not None
    assert (tuning.measured.hardware, tuning.measured.model) == ("here", "0" * 64)


def test_other_models_keep_their_tuning_and_this_one_loses_its_old(tmp_path: Path) -> None:
    old = {"digits-dcgan": {"decode_rows": 2}, MODEL: {"decode_rows": 1}}
    source = config(tmp_path, [{"name": "p", "placement": "fused", "tuning": old}])
    assert set(pool_of(source, MODEL).tuning) == {"digits-dcgan"}
    pool = written(tmp_path, source)
    assert pool.tuning["digits-dcgan"].decode_rows == 2
    assert pool.tuning[MODEL].decode_rows is None


def test_a_config_that_does_not_serve_the_model_is_refused(tmp_path: Path) -> None:
    source = config(tmp_path, [{"name": "p", "models": ["shapes-vae"]}])
    with pytest.raises(InvalidParameter, match="no pool"):
        pool_of(source, MODEL)


def test_a_precision_is_of_the_export_that_runs_on_torch() -> None:
    pool = configured(Pool(name="p"), ABOUT, {"precision": "bfloat16"})
    assert pool.tuning[MODEL].export == "safetensors"
    assert pool.torch[MODEL].dtype == "bfloat16"
    assert configured(Pool(name="p"), ABOUT, {}) == Pool(name="p")


def test_buckets_are_batch_sizes() -> None:
    pool = configured(Pool(name="p"), ABOUT, {"buckets": "1,4,16"})
    assert pool.torch[MODEL].batch_buckets == [1, 4, 16]


def test_where_nothing_was_found_there_is_no_config(tmp_path: Path) -> None:
    with pytest.raises(InvalidParameter, match="beats the defaults"):
        write_config(config(tmp_path), tmp_path / "serve.yaml", ABOUT, result(None))


@pytest.mark.parametrize("chosen", [None, {"steps": 10}])
def test_the_front_is_a_picture(tmp_path: Path, chosen: dict[str, object] | None) -> None:
    draw_front(result(chosen), tmp_path / "front.png")
    assert (tmp_path / "front.png").read_bytes().startswith(b"\x89PNG")


def test_a_precision_is_searched_where_the_processor_is_quick_at_it(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text("flags : avx2 amx_bf16\n")
    assert precisions_of(device("cpu"), tmp_path / "cpuinfo") == ("float32", "bfloat16")
    (tmp_path / "cpuinfo").write_text("flags : avx2\n")
    assert precisions_of(device("cpu"), tmp_path / "cpuinfo") == ("float32",)


class Instant:
    """A backend that answers at once."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def run(self, call: Call) -> Answer:
        self.asked.append(call.id)
        return Answer(call.model, (), Timings())


def numbered(number: int) -> Call:
    return Call(str(number), MODEL, Task.GENERATE, {})


async def test_callers_that_never_pause_ask_for_every_number_once() -> None:
    backend = Instant()
    rate = await throughput(backend, numbered, concurrency=4, seconds=0.0)
    assert rate > 0
    assert len(backend.asked) >= (WAVES + 1) * 4
    assert backend.asked == [str(number) for number in range(len(backend.asked))]


async def test_callers_at_a_rate_are_enough_for_a_99th_percentile() -> None:
    backend = Instant()
    found = await latencies(backend, numbered, rate=1e6, seconds=0.0, seed=1)
    assert len(found) == len(backend.asked) == LEAST_REQUESTS
    assert all(seconds >= 0 for seconds in found)


@pytest.mark.parametrize(("text", "seconds"), [("200ms", 0.2), ("1.5s", 1.5), (" 3 s", 3.0)])
def test_times_are_read_with_their_unit(text: str, seconds: float) -> None:
    assert math.isclose(seconds_of(text, param="p99"), seconds)


@pytest.mark.parametrize("text", ["200", "0ms", "-1s", "fast", ""])
def test_a_time_without_a_unit_is_refused(text: str) -> None:
    with pytest.raises(InvalidParameter, match="such as 200ms"):
        seconds_of(text, param="p99")


def test_shares_are_read_in_percent() -> None:
    assert math.isclose(share_of("5%", param="max-fid-loss"), 0.05)
    with pytest.raises(InvalidParameter, match="such as 5%"):
        share_of("0.05", param="max-fid-loss")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([MODEL], "say what to improve"),
        ([MODEL, "--objective", "speed"], "throughput, p99, fid"),
        ([MODEL, "--objective", "fid", "--knobs", "colour"], "step_rows"),
        (["no-such-model", "--objective", "throughput"], "no model 'no-such-model'"),
        ([MODEL, "--objective", "throughput", "--p99", "fast"], "such as 200ms"),
    ],
)
def test_bad_input_is_one_sentence(arguments: list[str], said: str, tmp_path: Path) -> None:
    told = CliRunner().invoke(app, ["tune", *arguments, "--out", str(tmp_path / "out")])
    assert told.exit_code == 1
    assert said in " ".join(told.output.split())
    assert not (tmp_path / "out").exists()


def order(folder: Path, **changes: object) -> Order:
    known: dict[str, object] = {
        "model": MODEL,
        "objectives": ("throughput",),
        "limits": Limits(),
        "workload": Workload(),
        "knobs": ("step_rows", "steps"),
        "trials": 2,
        "minutes": None,
        "rounds": 1,
        "config": config(folder),
        "store": None,
        "out": folder / "out",
    }
    return Order(**{**known, **changes})


def test_what_changes_images_is_left_alone_where_nobody_can_judge_it(tmp_path: Path) -> None:
    unjudged = ABOUT.model_copy(update={"max_steps": 1000, "samplers": ("euler",)})
    assert [d.name for d in searched(order(tmp_path), unjudged, "no images")] == ["step_rows"]
    with pytest.raises(InvalidParameter, match="FID cannot be measured: no images"):
        searched(order(tmp_path, objectives=("fid",)), unjudged, "no images")
    with pytest.raises(InvalidParameter, match="has none of the knobs steps"):
        searched(order(tmp_path, knobs=("steps",)), unjudged, "no images")


def test_a_bench_can_be_closed_before_it_was_opened() -> None:
    bench = Bench(MODEL, None, Pool(name="p"), Workload(), ("throughput",), Limits())
    bench.close()
    bench.close()


@pytest.mark.slow
def test_a_model_is_tuned_in_a_process_of_its_own_and_gone_on_with(tmp_path: Path) -> None:
    known = {
        "model": "digits-dcgan",
        "knobs": ("decode_rows",),
        "workload": Workload(concurrency=2, seconds=0.01),
    }
    with pytest.raises(InvalidParameter, match="not enough"):
        tune(order(tmp_path, **known, minutes=0.0001))
    found = tune(order(tmp_path, **known))
    assert [trial.number for trial in found.trials] == [0, 1]
    assert all(trial.outcome.throughput > 0 for trial in found.trials)
    assert (tmp_path / "out" / "result.json").read_text().startswith("{")
    assert (tmp_path / "out" / "serve.yaml").exists() == (found.chosen is not None)
    again = tune(order(tmp_path, **known, trials=3))
    assert [t.changes for t in again.trials[:2]] == [t.changes for t in found.trials]
    assert len(again.trials) == 3
