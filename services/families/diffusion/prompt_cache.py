"""What prompts were encoded to, so that a prompt that comes again costs nothing.

A text encoder may take longer than a step of the denoiser, and prompts repeat: several images of
one, and above all the negative prompt. What is kept is the very tensors, so a row that finds its
prompt here is bitwise the row that encoded it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable

from services.families.diffusion.steering import Condition

MAX_BYTES = 256 << 20
"""About 400 prompts of SDXL, or 60 of FLUX."""


class PromptCache:
    """The prompts of one model, the least recently used of them leaving first.

    Attributes:
        hits: look-ups that found what they were after.
        misses: those that had to encode it.
        held_bytes: of all tensors that are kept.
    """

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        """Keep at most ``max_bytes`` of tensors; what is larger by itself is not kept."""
        self._max_bytes = max_bytes
        self._kept: OrderedDict[Hashable, Condition] = OrderedDict()
        self.hits = self.misses = self.held_bytes = 0

    def get(self, key: Hashable, encode: Callable[[], Condition]) -> Condition:
        """What is kept under a key, else what ``encode`` gives, which is then kept.

        Args:
            key: everything that the encoding depends on: the prompt, on which side of guidance it
                stands, the adapters of the text encoder.
            encode: makes it; what it raises is not kept.
        """
        found = self._kept.get(key)
        if found is not None:
            self.hits += 1
            self._kept.move_to_end(key)
            return found
        self.misses += 1
        found = encode()
        self._keep(key, found)
        return found

    def _keep(self, key: Hashable, condition: Condition) -> None:
        size = _bytes(condition)
        if size > self._max_bytes:
            return
        self._kept[key] = condition
        self.held_bytes += size
        while self.held_bytes > self._max_bytes:
            _, oldest = self._kept.popitem(last=False)
            self.held_bytes -= _bytes(oldest)


def _bytes(condition: Condition) -> int:
    return sum(value.numel() * value.element_size() for value in condition.values())
