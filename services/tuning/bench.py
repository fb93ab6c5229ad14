"""The other end of `services.tuning.worker`: configurations, measured in turn with the defaults."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import IO, Any

from services.core.errors import EngineFailure, from_json
from services.serving.settings import Pool
from services.tuning.asked import RATE_SHARE, Limits, Objective, Outcome, Workload
from services.tuning.space import About, Value, configured

DEFAULT, CANDIDATE = "default", "candidate"
WORKER = "services.tuning.worker"
CLOSING_SECONDS = 10.0


class Bench:
    """Measures settings of a model's dials.

    Args:
        model: its name.
        store: folder of the user's models.
        pool: with everything as it is without a tuning of the model.
        workload: how the model is used meanwhile.
        objectives: say what has to be measured.
        limits: say what else.
    """

    def __init__(
        self,
        model: str,
        store: str | None,
        pool: Pool,
        workload: Workload,
        objectives: Sequence[Objective],
        limits: Limits,
    ) -> None:
        self._model, self._store, self._pool = model, store, pool
        self._workload = workload
        self._timed = "throughput" in objectives
        self._delayed = "p99" in objectives or limits.p99 is not None
        self._process: subprocess.Popen[str] | None = None
        self._qualities: dict[tuple[str, int], tuple[float, float]] = {}
        self.judging = False
        """Whether quality is measured; set once it is known which dials there are."""
        self.rate = workload.rate or 0.0
        self.why_not = ""
        """Why images cannot be judged, where they cannot."""

    def open(self, *, judge: bool) -> About:
        """Start the process, with the defaults open in it.

        Args:
            judge: whether quality may have to be measured, which takes held-out images.

        Raises:
            AtelierError: the model cannot be opened or measured.
        """
        self._start()
        found = self._ask("about", DEFAULT, pool=self._pool.model_dump(mode="json"), judge=judge)
        self.why_not = found["why_not"]
        return About.model_validate(found["about"])

    def base(self) -> Outcome:
        """What the defaults do; also fixes the rate at which latency is measured."""
        rate = statistics.median(self._images_per_second(DEFAULT) for _ in range(2))
        if not self.rate:
            self.rate = RATE_SHARE * rate
        fid, agreement = self._quality(DEFAULT, {}, self._workload.seed)
        return Outcome(
            throughput=rate,
            throughput_gain=1.0,
            p99=self._p99(DEFAULT) if self._delayed else None,
            p99_share=1.0 if self._delayed else None,
            fid=fid,
            agreement=agreement,
        )

    def resume(self, base: Outcome) -> None:
        """Go on at the rate that belongs to what the defaults were measured to do before."""
        if not self.rate and base.throughput is not None:
            self.rate = RATE_SHARE * base.throughput

    def outcome(
        self, about: About, values: Mapping[str, Value], quality: Mapping[str, Value], seed: int
    ) -> Outcome:
        """Measure a setting beside the defaults.

        Args:
            about: the model.
            values: of the dials that are not at their defaults.
            quality: those among them that change images; equal ones are not judged twice.
            seed: of the samples that are judged.

        Raises:
            EngineFailure: the process died of it; the next call has a new one.
            AtelierError: the setting cannot be used.
        """
        if self._process is None:
            self._start()
        pool = configured(self._pool, about, values)
        self._ask("open", CANDIDATE, pool=pool.model_dump(mode="json"))
        speed = gain = p99 = share = None
        if self._timed:
            before = self._images_per_second(DEFAULT)
            speed = self._images_per_second(CANDIDATE)
            gain = speed / before
        if self._delayed:
            before = self._p99(DEFAULT)
            p99 = self._p99(CANDIDATE)
            share = p99 / before
        fid, agreement = self._quality(CANDIDATE, quality, seed)
        return Outcome(
            throughput=speed,
            throughput_gain=gain,
            p99=p99,
            p99_share=share,
            fid=fid,
            agreement=agreement,
        )

    def default_quality(self, seed: int) -> tuple[float | None, float | None]:
        """FID and agreement of the defaults by other samples."""
        return self._quality(DEFAULT, {}, seed)

    def close(self) -> None:
        """End the process; safe at any moment, and twice."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()
        process.wait(CLOSING_SECONDS)

    def _start(self) -> None:
        # In a session of its own: Ctrl-C is for us, who end it when the results are safe.
        self._process = subprocess.Popen(  # noqa: S603 - our own module, no shell
            [sys.executable, "-m", WORKER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            start_new_session=True,
        )
        self._tell(
            {
                "model": self._model,
                "store": self._store,
                "workload": self._workload.model_dump(),
            }
        )
        self._ask("open", DEFAULT, pool=self._pool.model_dump(mode="json"))
        if self.judging:
            self._ask("about", DEFAULT, pool=self._pool.model_dump(mode="json"), judge=True)

    def _images_per_second(self, slot: str) -> float:
        return float(self._ask("throughput", slot)["images_per_second"])

    def _p99(self, slot: str) -> float:
        return float(self._ask("latency", slot, rate=self.rate)["p99"])

    def _quality(
        self, slot: str, values: Mapping[str, Value], seed: int
    ) -> tuple[float | None, float | None]:
        if not self.judging:
            return None, None
        key = json.dumps(values, sort_keys=True), seed
        if key not in self._qualities:
            found = self._ask("quality", slot, seed=seed)
            self._qualities[key] = found["fid"], found["agreement"]
        return self._qualities[key]

    def _ask(self, what: str, slot: str, **details: Any) -> dict[str, Any]:
        return self._tell({"do": what, "slot": slot, **details})

    def _tell(self, command: dict[str, Any]) -> dict[str, Any]:
        process = self._process
        if process is None:
            raise EngineFailure("nothing is open to be measured; this is a bug")
        line = ""
        with suppress(BrokenPipeError):
            print(json.dumps(command), file=_pipe(process.stdin), flush=True)
            line = _pipe(process.stdout).readline()
        if not line:
            with suppress(subprocess.TimeoutExpired):
                process.wait(CLOSING_SECONDS)  # for its own exit code, before it is killed
            self.close()
            raise EngineFailure(
                f"the process that measured died (exit code {process.returncode}); "
                "-9 is usually a lack of memory"
            )
        found: dict[str, Any] = json.loads(line)
        if "error" in found:
            raise from_json(found["error"])
        return found


def _pipe(pipe: IO[str] | None) -> IO[str]:
    if pipe is None:
        raise EngineFailure("a process was started without its pipes; this is a bug")
    return pipe
