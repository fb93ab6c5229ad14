"""A class label as a request names it, by name or by number."""

from __future__ import annotations

from collections.abc import Sequence

from services.core.errors import InvalidParameter
from services.core.validation import near

SHOWN_CHARACTERS = 40
SHOWN_LABELS = 12


def label_index(
    label: int | str, labels: Sequence[str], *, model_id: str, classes: int | None = None
) -> int:
    """The number of a label.

    Args:
        label: a number from 0, or a name in any case.
        labels: the names, in order; there may be none.
        model_id: for the sentence.
        classes: how many there are; as many as there are names unless it is given.

    Raises:
        InvalidParameter: the model has no such label; offers near names.
    """
    count = len(labels) if classes is None else classes
    if isinstance(label, int):
        if 0 <= label < count:
            return label
        reason = f"label {label} is out of range; there are {count}, from 0"
        raise InvalidParameter(reason, param="label")
    names = [name.casefold() for name in labels]
    name = label.strip().casefold()
    if name in names:
        return names.index(name)
    offers = near(name, labels)
    hint = f"did you mean {' or '.join(offers)}? " if offers else ""
    shown = list(dict.fromkeys([*offers, *labels]))[:SHOWN_LABELS]
    known = ", ".join([*shown, f"and every number from 0 to {count - 1}"])
    raise InvalidParameter(
        f"unknown label '{label[:SHOWN_CHARACTERS]}'; {hint}{model_id} knows {known}",
        param="label",
    )
