"""A causal transformer over words and image codes, one position at a time.

As DALL-E's (Ramesh et al., 2021, arXiv:2102.12092, section 2.2): the words come first, then the
codes of the image, and every code is predicted from all that comes before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional


class CausalBlock(nn.Module):
    """Self-attention to what came before, and a feed-forward layer; layer norms in front."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        """Build with a feed-forward layer of four times ``width``."""
        super().__init__()
        self.heads = heads
        self.norm_1, self.norm_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.attention_out = nn.Linear(width, width)
        self.expand = nn.Linear(width, 4 * width)
        self.contract = nn.Linear(4 * width, width)
        self.dropout = nn.Dropout(dropout)

    def sequence(self, x: Tensor) -> Tensor:
        """All positions at once: ``[n, length, width]`` to the same shape."""
        count, length, width = x.shape
        parts = self.query_key_value(self.norm_1(x))
        parts = parts.view(count, length, 3, self.heads, width // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        mixed = self.attention_out(mixed.transpose(1, 2).reshape(count, length, width))
        return self.feed_forward(x + self.dropout(mixed))

    def step(self, x: Tensor, cache: Tensor, unseen: Tensor) -> tuple[Tensor, Tensor]:
        """One position.

        Args:
            x: ``[n, width]``.
            cache: keys and values of earlier positions, ``[n, 2, positions, width]``.
            unseen: true where the cache holds nothing yet, ``[n, positions]``.

        Returns:
            ``[n, width]``, and this position's key and value ``[n, 2, width]``.
        """
        count, width = x.shape
        query, key, value = self.query_key_value(self.norm_1(x)).chunk(3, dim=1)
        split = (count, self.heads, 1, width // self.heads)
        keys, values = (
            part.view(count, -1, self.heads, width // self.heads).transpose(1, 2)
            for part in cache.unbind(dim=1)
        )
        query = query.view(split) * (width // self.heads) ** -0.5
        before = query @ keys.transpose(2, 3)
        before = before.masked_fill(unseen[:, None, None], float("-inf"))
        itself = (query * key.view(split)).sum(dim=3, keepdim=True)
        weights = torch.cat([before, itself], dim=3).softmax(dim=3)
        mixed = weights[..., :-1] @ values + weights[..., -1:] * value.view(split)
        x = x + self.attention_out(mixed.reshape(count, width))
        return self.feed_forward(x), torch.stack([key, value], dim=1)

    def feed_forward(self, x: Tensor) -> Tensor:
        """The second half, which sees each position by itself."""
        h = functional.gelu(self.expand(self.norm_2(x)), approximate="tanh")
        return x + self.dropout(self.contract(h))


class TokenTransformer(nn.Module):
    """Words, then codes. Its ``forward`` is one position with a cache of those before it.

    The words' mean is also added at every position, so that what is asked for is never far away.
    """

    outputs: ClassVar[tuple[str, ...]] = ("logits", "entry")

    offsets: Tensor
    slots: Tensor

    def __init__(
        self,
        words: Sequence[int] = (7, 9, 5, 4, 4, 4),
        lengths: Sequence[int] = (64,),
        codes: int = 512,
        width: int = 96,
        depth: int = 4,
        heads: int = 4,
        dropout: float = 0.0,
    ) -> None:
        """Build for slots of ``words[i]`` words each and levels of ``lengths[i]`` codes each."""
        super().__init__()
        sizes = torch.tensor([*words, *(codes for _ in lengths)])
        starts = sizes.cumsum(0) - sizes
        repeats = torch.tensor([*(1 for _ in words), *lengths])
        offsets = starts.repeat_interleave(repeats)
        self.words = len(words)
        self.positions = len(offsets) - 1  # what the last code leads to is not asked
        self.register_buffer("offsets", offsets[: self.positions], persistent=False)
        self.register_buffer("slots", torch.arange(self.positions), persistent=False)
        self.embedding = nn.Embedding(int(sizes.sum()), width)
        self.place = nn.Parameter(0.1 * torch.randn(self.positions, width))
        self.condition = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(CausalBlock(width, heads, dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.outlet = nn.Linear(width, codes)
        nn.init.normal_(self.embedding.weight, std=0.1)
        nn.init.zeros_(self.outlet.weight)
        nn.init.zeros_(self.outlet.bias)

    def _ordered(self) -> list[CausalBlock]:
        return cast("list[CausalBlock]", list(self.blocks))

    def _told(self, tokens: Tensor) -> Tensor:
        return self.condition(self.embedding(tokens + self.offsets[: self.words]).mean(dim=1))

    def sequence(self, tokens: Tensor, codes: Tensor) -> Tensor:
        """Logits of every code given those before it, without a cache: for training and checks.

        Args:
            tokens: int64 ``[n, words]``.
            codes: int64 ``[n, length]``, all levels one after another.

        Returns:
            ``[n, length, codes]``.
        """
        inputs = torch.cat([tokens, codes[:, :-1]], dim=1) + self.offsets
        x = self.embedding(inputs) + self.place + self._told(tokens)[:, None]
        x = self.dropout(x)
        for block in self._ordered():
            x = block.sequence(x)
        return self.outlet(self.norm(x[:, self.words - 1 :]))

    def forward(
        self, token: Tensor, position: Tensor, tokens: Tensor, cache: Tensor
    ) -> tuple[Tensor, Tensor]:
        """One position.

        Args:
            token: int64 ``[n]``: the word or code that stands at the position.
            position: int64 ``[n]``, from 0; each row has its own.
            tokens: int64 ``[n, words]``: 0 says nothing about a slot, ``1 + i`` names its value i.
            cache: ``[n, depth, 2, positions, width]``; what it holds at a row's position or after
                has no effect, as long as it is finite.

        Returns:
            Logits of the code that comes next ``[n, codes]`` (they mean nothing before the last
            word), and this position's keys and values ``[n, depth, 2, width]``.
        """
        x = self.embedding(token + self.offsets[position])
        x = x + self.place[position] + self._told(tokens)
        unseen = self.slots >= position[:, None]
        entries = []
        for block, past in zip(self._ordered(), cache.unbind(dim=1), strict=True):
            x, entry = block.step(x, past, unseen)
            entries.append(entry)
        return self.outlet(self.norm(x)), torch.stack(entries, dim=1)
