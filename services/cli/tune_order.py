"""What ``atelier tune`` is told to do, from the texts and numbers of its options."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from services.core.errors import InvalidParameter
from services.core.validation import explain

if TYPE_CHECKING:
    from services.tuning.asked import Outcome
    from services.tuning.order import Order
    from services.tuning.study import Tried


def seconds_of(text: str, *, param: str) -> float:
    """A time such as ``200ms`` or ``1.5s``, in seconds.

    Raises:
        InvalidParameter: it is none, or not above 0.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(ms|s)", text.strip())
    found = 0.0 if match is None else float(match[1]) / (1000 if match[2] == "ms" else 1)
    if found <= 0:
        raise InvalidParameter(
            f"--{param} takes a time such as 200ms or 1.5s, got '{text[:40]}'", param=param
        )
    return found


def share_of(text: str, *, param: str) -> float:
    """A share such as ``5%``, as 0.05.

    Raises:
        InvalidParameter: it is none.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*%", text.strip())
    if match is None:
        raise InvalidParameter(
            f"--{param} takes a share such as 5%, got '{text[:40]}'", param=param
        )
    return float(match[1]) / 100


def order_of(
    *,
    model: str,
    objectives: list[str] | None,
    limits: dict[str, float | None],
    workload: dict[str, object],
    knobs: str | None,
    trials: int,
    minutes: float | None,
    rounds: int,
    config: Path,
    store: str | None,
    out: Path,
    progress: Callable[[str, int, int], None],
    told: Callable[[Tried, Outcome], None],
) -> Order:
    """The order that the options of the command make.

    Raises:
        InvalidParameter: an option's value is none, or Optuna is missing.
        ModelNotFound, ModelError: the store has no such model.
    """
    from services.tuning import asked  # noqa: PLC0415 - heavy

    if not objectives:
        raise InvalidParameter(
            f"say what to improve: --objective {' or --objective '.join(asked.OBJECTIVES)}",
            param="objective",
        )
    wanted = asked.KNOBS if knobs is None else tuple(n.strip() for n in knobs.split(",") if n)
    _known(objectives, asked.OBJECTIVES, "objective")
    _known(wanted, asked.KNOBS, "knobs")
    try:
        import optuna  # noqa: F401, PLC0415 - only whether it is there
    except ImportError as error:
        raise InvalidParameter(
            "tuning needs Optuna: pip install 'atelier[tune]'", param="objective"
        ) from error
    from model_store.store import Store  # noqa: PLC0415 - as below
    from services.serving.local import open_store  # noqa: PLC0415 - torch takes seconds
    from services.tuning.order import Order  # noqa: PLC0415 - as above

    shelf: Store = open_store(store)
    shelf.entry(model)
    try:
        return Order(
            model=model,
            objectives=tuple(o for o in asked.OBJECTIVES if o in objectives[:1])
            + tuple(o for o in asked.OBJECTIVES if o in objectives[1:] and o != objectives[0]),
            limits=asked.Limits.model_validate(limits),
            workload=asked.Workload.model_validate(workload),
            knobs=tuple(k for k in asked.KNOBS if k in wanted),
            trials=trials,
            minutes=minutes,
            rounds=rounds,
            config=config,
            store=store,
            out=out,
            progress=progress,
            told=told,
        )
    except ValidationError as error:
        raise explain(error) from error


def _known(names: list[str] | tuple[str, ...], known: tuple[str, ...], param: str) -> None:
    strange = [name for name in names if name not in known]
    if strange or not names:
        raise InvalidParameter(
            f"--{param} takes {', '.join(known)}; got '{', '.join(strange)[:80]}'", param=param
        )
