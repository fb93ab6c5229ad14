"""What was measured on this hardware, kept in the user's cache so that it is measured once."""

from __future__ import annotations

import copy
import hashlib
import json
import logging
import platform
from collections.abc import Mapping
from pathlib import Path

import onnxruntime
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from model_store.atomic_files import write_atomic
from model_store.networks.row_plan import RowPlan

MAX_ENTRIES = 4096
MAX_CACHE_BYTES = 16 << 20

_logger = logging.getLogger(__name__)


class Measurement(BaseModel):
    """An outcome: the rows that go in at once, or seconds of a batch by export or by threads."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    where: dict[str, str | list[str]] = Field(default_factory=dict)
    least: int | None = Field(default=None, ge=1, le=4096)
    most: int | None = Field(default=None, ge=1, le=4096)
    seconds: dict[str, float] | None = None

    def plan(self) -> RowPlan | None:
        """The row plan, where one was measured."""
        if self.least is None or self.most is None:
            return None
        return RowPlan(self.least, self.most)


class _Cache(BaseModel):
    entries: dict[str, Measurement] = Field(default_factory=dict)


def default_path(environment: Mapping[str, str]) -> Path:
    """``$XDG_CACHE_HOME/atelier/measurements.json``, else the same below ``~/.cache``."""
    cache = environment.get("XDG_CACHE_HOME", "")
    base = Path(cache) if Path(cache).is_absolute() else Path.home() / ".cache"
    return base / "atelier" / "measurements.json"


class Measurements:
    """A small JSON file; an unreadable one is ignored and written anew.

    It may be lost at any time: everything in it can be measured again.
    """

    def __init__(self, path: Path | None, device: torch.device, threads: int) -> None:
        """Remember at ``path``, or nowhere when it is ``None``."""
        self._path = path
        self._here: dict[str, str | list[str]] = {
            "processor": processor(device),
            "device": device.type,
            "threads": str(threads),
            "torch": torch.__version__,
            "onnxruntime": onnxruntime.__version__,
        }

    def with_threads(self, threads: int) -> Measurements:
        """The same memory for networks that run on another number of threads."""
        other = copy.copy(self)
        other._here = {**self._here, "threads": str(threads)}
        return other

    def get(self, what: str, digests: list[str]) -> Measurement | None:
        """What was measured of these files here, if it was."""
        return self._read().entries.get(self._key(what, digests))

    def put(self, what: str, digests: list[str], measurement: Measurement) -> None:
        """Remember; a cache that cannot be written is no failure."""
        if self._path is None:
            return
        entries = self._read().entries
        kept = dict(list(entries.items())[-MAX_ENTRIES + 1 :])
        where = {**self._here, "what": what, "files": digests}
        kept[self._key(what, digests)] = measurement.model_copy(update={"where": where})
        text = _Cache(entries=kept).model_dump_json(indent=1, exclude_none=True)
        try:
            write_atomic(self._path, text.encode())
        except OSError as error:
            _logger.info("measurements are not kept: %s", error)

    def _key(self, what: str, digests: list[str]) -> str:
        text = json.dumps([what, digests, sorted(self._here.items())])
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    def _read(self) -> _Cache:
        if self._path is None:
            return _Cache()
        try:
            if self._path.stat().st_size > MAX_CACHE_BYTES:
                return _Cache()
            return _Cache.model_validate_json(self._path.read_bytes())
        except (OSError, ValidationError):
            return _Cache()


def processor(device: torch.device) -> str:
    """The model name of what computes."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
