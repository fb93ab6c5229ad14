"""A row on its way: words, codes that are known so far, and the keys and values of all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from services.core.network import Network
from services.core.trajectory import Trajectory
from services.families.autoregressive.options import Defaults
from services.sampling.categorical import filtered, guided, pick


@dataclass(slots=True, eq=False, kw_only=True)
class Writing(Trajectory):
    """Codes that are written, or only read where all are known; ``x`` is int64 ``[length]``.

    Every evaluation reads the word or code at one position and tells what comes next. A row owns
    its cache, whose shape is that of a whole image from the start: whatever prefix a row has, it
    looks the same to the network, which is told how much of it counts.

    Attributes:
        words: int64 ``[branches, slots]``; the second branch, if there is one, is told nothing.
        cache: ``[branches, depth, 2, positions, width]`` on the network's device.
        kept: of ``[length]``, which codes are given and not drawn.
        uniforms: what each code is drawn by, drawn at the start, so that a step that is tried
            again after a failure draws the same.
        log_probabilities: of the codes under their prefixes, in nats, float64 ``[length]``.
        settings: how codes are drawn.
        revised_prompt: the whole caption, where what was left open was drawn.
    """

    words: Tensor
    cache: Tensor
    kept: Tensor
    uniforms: Tensor
    log_probabilities: Tensor
    settings: Defaults
    revised_prompt: str | None = None

    @property
    def branches(self) -> int:
        """Rows that it takes in an evaluation."""
        return len(self.words)

    @property
    def next_code(self) -> int:
        """Which code the evaluation at hand is about; negative while words are being read."""
        return self.index + 1 - self.words.shape[1]

    def read(self) -> Tensor:
        """The word or code at the present position, by branch: int64 ``[branches]``."""
        slots = self.words.shape[1]
        if self.index < slots:
            return self.words[:, self.index]
        return self.x[self.index - slots].expand(self.branches)

    def take(self, entry: Tensor, code: int | None, log_probability: float) -> None:
        """Move on by one position; cannot fail.

        Args:
            entry: this position's keys and values, ``[branches, depth, 2, width]``.
            code: what was drawn; ``None`` where nothing was.
            log_probability: of the code, drawn or given.
        """
        self.cache[:, :, :, self.index] = entry
        place, codes = self.next_code, self.x
        if place >= 0:
            self.log_probabilities[place] = log_probability
            if code is not None:
                codes = codes.clone()
                codes[place] = code
        self.commit(codes)


def evaluate(
    network: Network, rows: Sequence[Writing], device: torch.device
) -> tuple[list[Tensor], list[Tensor]]:
    """One evaluation for rows at any position: their logits on the CPU, and their entries.

    Returns:
        By row ``[branches, codes]``, and ``[branches, depth, 2, width]``.
    """
    branches = [row.branches for row in rows]
    index = torch.tensor([row.index for row in rows])
    output = network(
        token=torch.cat([row.read() for row in rows]).to(device),
        position=index.repeat_interleave(torch.tensor(branches)).to(device),
        tokens=torch.cat([row.words for row in rows]).to(device),
        cache=torch.cat([row.cache for row in rows]),
    )
    logits = output["logits"].cpu()
    return list(logits.split(branches)), list(output["entry"].split(branches))


def judged(row: Writing, logits: Tensor) -> float:
    """Nats of the given code under its prefix, from logits ``[branches, codes]``."""
    return float(logits[0].double().log_softmax(dim=0)[row.x[row.next_code]])


def drawn(rows: Sequence[Writing], logits: Sequence[Tensor]) -> Tensor:
    """A code for each row, by its own settings and its own uniform number: int64 ``[n]``.

    Args:
        rows: whose next code is to be drawn.
        logits: of each, ``[branches, codes]``.
    """
    told = torch.stack([given[0] for given in logits])
    untold = torch.stack([given[-1] for given in logits])
    settings = [row.settings for row in rows]
    scale = torch.tensor(
        [
            s.guidance_scale if row.branches == 2 else 1.0
            for row, s in zip(rows, settings, strict=True)
        ]
    )
    mixed = torch.where((scale == 1.0)[:, None], told, guided(told, untold, scale))
    probabilities = filtered(
        mixed,
        torch.tensor([s.temperature for s in settings]),
        torch.tensor([s.top_k for s in settings]),
        torch.tensor([s.top_p for s in settings]),
    )
    return pick(probabilities, torch.stack([row.uniforms[row.next_code] for row in rows]))
