"""A transformer whose blocks behind the first are left out where they would say the same again.

From one step to the next of a sampler, what a transformer's blocks add to its hidden state changes
slowly. The first block is always run; where its own addition has changed little since all blocks
ran last, the sum of what the others added then is added again (First Block Cache of ParaAttention,
after TeaCache, Liu et al., 2024, arXiv:2411.19108). Diffusers has this for a whole batch; here
every row decides for itself, by its own numbers and its own threshold, and rows that go on are
gathered into a smaller batch. So a row's image does not depend on its company.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn

BLOCK_LISTS = ("transformer_blocks", "single_transformer_blocks", "blocks")
"""What transformers call their blocks, in the order of their evaluation."""
HIDDEN = frozenset({"hidden_states", "x"})
PER_ROW = HIDDEN | {
    "encoder_hidden_states",
    "encoder_attention_mask",
    "attention_mask",
    "temb",
    "timestep",
    "class_labels",
    "condition",
}
"""Arguments of blocks that have rows in front; what else there is, all rows share."""


@dataclass(frozen=True, slots=True)
class BlockMemory:
    """What is kept of one row's last whole evaluation.

    Attributes:
        first: what the first block added to the hidden state.
        rest: what all others added.
    """

    first: Tensor
    rest: Tensor


@dataclass(slots=True)
class Recollection:
    """One evaluation's rows with what is kept of each.

    Attributes:
        memories: by row, of the evaluation before; replaced by those of this one.
        thresholds: by row, the share of the first block's addition that may have changed for the
            others to be left out.
        least: the fewest rows that blocks may be given for a row not to show its company.
        reused: by row, whether the others were left out.
    """

    memories: list[BlockMemory | None]
    thresholds: Sequence[float]
    least: int = 1
    reused: list[bool] = field(default_factory=list)
    after_first: Tensor | None = None
    first: Tensor | None = None

    @property
    def active(self) -> list[int]:
        """Rows whose blocks are all run."""
        return [i for i, reused in enumerate(self.reused) if not reused]


class FirstBlockCache:
    """The blocks of one module, which obey the recollection in force; without one, as ever.

    Not for several threads at once.
    """

    def __init__(self, module: nn.Module) -> None:
        """Take the module's blocks over; there must be two at least (see `offers_first_block`)."""
        self._now: Recollection | None = None
        blocks = _blocks(module)
        for block in blocks:
            role = {0: self._lead, len(blocks) - 1: self._end}.get(blocks.index(block), self._pass)
            _take_over(block, role)

    @contextmanager
    def recalling(self, recollection: Recollection) -> Iterator[None]:
        """Within this, one evaluation of the module reads and renews the recollection."""
        self._now = recollection
        try:
            yield
        finally:
            self._now = None

    def _lead(self, call: _BlockCall) -> Any:
        output = call.run()
        now = self._now
        if now is None:
            return output
        now.after_first = _hidden(output)
        now.first = now.after_first - call.hidden
        now.reused = _little_changed(now.first, now)
        return output

    def _pass(self, call: _BlockCall) -> Any:
        now = self._now
        if now is None or not any(now.reused):
            return call.run()
        active = now.active
        if not active:
            return call.unchanged()
        filled = active + [active[0]] * (now.least - len(active))
        return call.run_rows(active, torch.tensor(filled, device=call.hidden.device))

    def _end(self, call: _BlockCall) -> Any:
        output = self._pass(call)
        now = self._now
        if now is None or now.after_first is None or now.first is None:
            return output
        hidden = _hidden(output)
        rows = list(hidden.unbind(0))
        for i, reused in enumerate(now.reused):
            known = now.memories[i]
            if reused and known is not None:
                rows[i] = now.after_first[i] + known.rest
            else:
                rest = hidden[i] - now.after_first[i]
                now.memories[i] = BlockMemory(now.first[i].clone(), rest)
        if not any(now.reused):
            return output
        return _with_hidden(output, torch.stack(rows))


def offers_first_block(module: nn.Module) -> bool:
    """Whether a module is a transformer of several blocks that take rows by names known here."""
    blocks = _blocks(module)
    if len(blocks) < 2:
        return False
    return all(HIDDEN & inspect.signature(block.forward).parameters.keys() for block in blocks)


def _blocks(module: nn.Module) -> list[nn.Module]:
    lists = [getattr(module, name, None) for name in BLOCK_LISTS]
    return [block for found in lists if isinstance(found, nn.ModuleList) for block in found]


def _little_changed(first: Tensor, now: Recollection) -> list[bool]:
    """By row: whether the first block's addition is nearly what it was.

    Each row's mean is a reduction of its own, so that it comes out the same in any batch.
    """
    asked = [
        (i, known, threshold)
        for i, (known, threshold) in enumerate(zip(now.memories, now.thresholds, strict=True))
        if known is not None
    ]
    reused = [False] * len(first)
    if not asked:
        return reused
    changes = torch.stack(
        [(first[i] - known.first).abs().mean() / known.first.abs().mean() for i, known, _ in asked]
    ).tolist()
    for (i, _, threshold), change in zip(asked, changes, strict=True):
        reused[i] = change < threshold
    return reused


@dataclass(slots=True)
class _BlockCall:
    """A call of one block, by the names of its arguments."""

    forward: Callable[..., Any]
    arguments: Mapping[str, Any]

    @property
    def hidden(self) -> Tensor:
        """The hidden state that goes in."""
        value: Tensor = next(v for name, v in self.arguments.items() if name in HIDDEN)
        return value

    def run(self) -> Any:
        """As it is."""
        return self.forward(**self.arguments)

    def unchanged(self) -> Any:
        """What a block would return that adds nothing."""
        words = self.arguments.get("encoder_hidden_states")
        returns_words = "temb" in self.arguments
        return (words, self.hidden) if returns_words else self.hidden

    def run_rows(self, active: Sequence[int], filled: Tensor) -> Any:
        """For some rows alone; the others are left as they are.

        Args:
            active: the rows.
            filled: the same, and as many copies of the first as the batch must have.
        """
        count = len(self.hidden)
        chosen = {
            name: value[filled]
            if name in PER_ROW and isinstance(value, Tensor) and len(value) == count
            else value
            for name, value in self.arguments.items()
        }
        output = self.forward(**chosen)
        hidden = self.hidden.clone()
        hidden[filled[: len(active)]] = _hidden(output)[: len(active)]
        if not isinstance(output, tuple):
            return hidden
        words = output[0]
        if words is not None:
            before: Tensor = self.arguments["encoder_hidden_states"]
            words = before.clone()
            words[filled[: len(active)]] = output[0][: len(active)]
        return words, hidden


def _take_over(block: nn.Module, role: Callable[[_BlockCall], Any]) -> None:
    own = block.forward
    signature = inspect.signature(own)

    @wraps(own)
    def forward(*args: Any, **kwargs: Any) -> Any:
        return role(_BlockCall(own, signature.bind(*args, **kwargs).arguments))

    block.forward = forward


def _hidden(output: Any) -> Tensor:
    """Blocks give their hidden state, or the words' and their own."""
    hidden: Tensor = output[1] if isinstance(output, tuple) else output
    return hidden


def _with_hidden(output: Any, hidden: Tensor) -> Any:
    return (output[0], hidden) if isinstance(output, tuple) else hidden
