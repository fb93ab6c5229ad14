"""The built-in `block_list`: words, phrases and patterns from a file that is read again on change.

One entry a line; ``#`` begins a comment. A word or phrase is looked for in every view of a text
(see `services.policies.normalization`). ``re:`` begins a regular expression in RE2's syntax, which
is looked for in the folded text; RE2 takes time proportional to the text for every expression, and
knows none of those that could take longer (backreferences, looking around).
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.core.errors import InvalidParameter
from services.policies.interface import ALLOWED, Action, Asked, Decision, PromptPolicy, Texts
from services.policies.normalization import (
    Tokens,
    compact,
    folded,
    is_unspaced,
    readings,
    spelled_out,
    tokens_of,
    views,
)

PATTERN = "re:"
MAX_FILE_BYTES = 4 << 20
MAX_PATTERNS = 1000
MAX_PATTERN_CHARS = 500
PATTERN_MEMORY = 1 << 20
"""Bytes that RE2 may use for one expression."""
MAX_WORDS = 16
"""Words of one phrase."""
SHORTEST_SPELLED = 3
"""Letters of an entry that is looked for inside what single letters spell."""

REASON = "the text asks for something that this service does not make; ask for something else"


@dataclass(frozen=True, slots=True)
class Entries:
    """A block list, ready to be looked for."""

    phrases: frozenset[Tokens]
    lengths: tuple[int, ...]
    longest: int
    unspaced: tuple[str, ...]
    patterns: tuple[Any, ...]

    @classmethod
    def parse(cls, text: str) -> Entries:
        """Read the lines of a file.

        Raises:
            InvalidParameter: an entry cannot be used; names its line.
        """
        phrases: set[Tokens] = set()
        unspaced: set[str] = set()
        patterns: list[Any] = []
        for number, line in enumerate(text.splitlines(), start=1):
            entry = line.strip()
            if not entry or entry.startswith("#"):
                continue
            if entry.startswith(PATTERN):
                patterns.append(_pattern(entry.removeprefix(PATTERN).strip(), number))
                continue
            tokens = tokens_of(folded(entry))
            if not tokens:
                raise InvalidParameter(f"line {number} holds no letter or digit to look for")
            if len(tokens) > MAX_WORDS:
                raise InvalidParameter(
                    f"line {number} has {len(tokens)} words; the limit is {MAX_WORDS}"
                )
            if is_unspaced(entry):
                unspaced.add("".join(tokens))
            else:
                phrases.add(tokens)
        if len(patterns) > MAX_PATTERNS:
            raise InvalidParameter(f"{len(patterns)} patterns; the limit is {MAX_PATTERNS}")
        lengths = tuple(sorted({len(tokens) for tokens in phrases}))
        longest = max((len(word) for phrase in phrases for word in phrase), default=0)
        return cls(frozenset(phrases), lengths, longest, tuple(sorted(unspaced)), tuple(patterns))

    def found_in(self, text: str) -> bool:
        """Whether a text holds any entry."""
        return any(self._in_reading(reading) for reading in readings(text))

    def _in_reading(self, reading: str) -> bool:
        if any(pattern.search(reading) for pattern in self.patterns):
            return True
        whole = compact(reading) if self.unspaced else ""
        if any(entry in whole for entry in self.unspaced):
            return True
        return any(self._in_view(tokens) for tokens in views(reading))

    def _in_view(self, tokens: Tokens) -> bool:
        for length in self.lengths:
            for start in range(len(tokens) - length + 1):
                if tokens[start : start + length] in self.phrases:
                    return True
        return any(self._is_spelled(row) for row in spelled_out(tokens))

    def _is_spelled(self, row: str) -> bool:
        return any(
            (row[start : start + length],) in self.phrases
            for length in range(SHORTEST_SPELLED, min(self.longest, len(row)) + 1)
            for start in range(len(row) - length + 1)
        )


def _pattern(source: str, number: int) -> Any:
    try:
        import re2  # noqa: PLC0415 - only where a list has patterns
    except ImportError as error:
        raise InvalidParameter(
            f"line {number} is a pattern, and patterns need RE2: pip install google-re2"
        ) from error
    if not 0 < len(source) <= MAX_PATTERN_CHARS:
        raise InvalidParameter(
            f"the pattern of line {number} has {len(source)} characters; "
            f"1 to {MAX_PATTERN_CHARS} are taken"
        )
    options = re2.Options()
    options.max_mem = PATTERN_MEMORY
    options.log_errors = False
    try:
        return re2.compile(source, options)
    except re2.error as error:
        said = error.args[0] if error.args else ""
        shown = said.decode(errors="replace") if isinstance(said, bytes) else str(said)
        raise InvalidParameter(f"the pattern of line {number} cannot be used: {shown}") from error


class BlockList(PromptPolicy):
    """Refuses or holds texts that hold an entry of a file."""

    def __init__(self, *, file: str, action: str = Action.REFUSE.value) -> None:
        """Read the file now, so that a service with a broken list does not start.

        Args:
            file: the list, in UTF-8.
            action: ``refuse`` or ``hold``.

        Raises:
            InvalidParameter: the file or the action cannot be used.
        """
        if action not in (Action.REFUSE.value, Action.HOLD.value):
            raise InvalidParameter(f"'action' is refuse or hold, not {action!a}", param="action")
        self._path, self._action = Path(file).expanduser(), Action(action)
        self._lock = threading.Lock()
        self._stamp: tuple[int, int, int] | None = None
        self._entries = Entries.parse("")
        self._refresh()

    def judge(self, texts: Texts, asked: Asked) -> Decision:  # noqa: ARG002 - `PromptPolicy`'s
        """See `PromptPolicy.judge`; the first field with an entry is named.

        Raises:
            InvalidParameter: the file has changed to what cannot be used.
        """
        entries = self._refresh()
        for name, values in texts.items():
            if _is_in(entries, values):
                return Decision(self._action, REASON, field=name)
        return ALLOWED

    def _refresh(self) -> Entries:
        """The entries of the file as it is now."""
        try:
            about = self._path.stat()
            stamp = (about.st_mtime_ns, about.st_ino, about.st_size)
            with self._lock:
                if stamp != self._stamp:
                    self._entries = Entries.parse(self._read())
                    self._stamp = stamp
                return self._entries
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidParameter(
                f"the block list {self._path} cannot be read: {error}"
            ) from error

    def _read(self) -> str:
        with self._path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
            if len(content) > MAX_FILE_BYTES:
                raise OSError(f"it has more than {MAX_FILE_BYTES} bytes")
        return content.decode("utf-8-sig")


def _is_in(entries: Entries, values: Sequence[str]) -> bool:
    """Whether an entry stands in one of the values, or across all of them."""
    return any(entries.found_in(value) for value in values) or (
        len(values) > 1 and entries.found_in(" ".join(values))
    )
