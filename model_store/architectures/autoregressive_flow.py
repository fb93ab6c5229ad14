"""MAF (Papamakarios et al., 2017, arXiv:1705.07057) and IAF (Kingma et al., 2016, 1606.04934).

Both are made of the same layers, in which a value is shifted and scaled by what the values before
it say. One direction of such a layer is one evaluation, the other takes one evaluation for every
value. A MAF is quick at densities and slow at samples, an IAF the other way round.
"""

from __future__ import annotations

from typing import ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from model_store.architectures.logit_flow import LogitFlow

GIVEN, FOUND, LOG_DET = range(3)


class AutoregressiveLayer(nn.Module):
    """``u_i = (y_i - m_i) exp(-s_i)``; ``m_i`` and ``s_i`` depend on what comes before ``y_i``.

    A MADE (Germain et al., 2015, arXiv:1502.03509) with one hidden layer: a unit of degree k sees
    the first k values, and value i is told by units of a degree below i. Its weights are masked
    where they are used, so that the file need not hold the masks.
    """

    position: Tensor
    degree: Tensor

    def __init__(self, dims: int, width: int, dropout: float, *, reverse: bool) -> None:
        """Build with ``width`` hidden units; values come in their own order or the other way."""
        super().__init__()
        order = torch.arange(dims)
        position = order.flip(0) if reverse else order
        self.register_buffer("position", position, persistent=False)
        degree = torch.arange(width) % (dims - 1) + 1
        self.register_buffer("degree", degree, persistent=False)
        self.hidden = nn.Linear(dims, width)
        self.outlet = nn.Linear(width, 2 * dims)
        self.direct = nn.Parameter(torch.zeros(dims, dims))
        self.dropout = nn.Dropout(dropout)
        for parameter in self.outlet.parameters():
            nn.init.zeros_(parameter)

    def coefficients(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Log scale in (-2, 2) and shift of every value of ``[n, d]``, each ``[n, d]``."""
        seen, before, told = self.masks(y.dtype)
        h = functional.linear(y, self.hidden.weight * seen, self.hidden.bias)
        h = self.dropout(functional.silu(h))
        outputs = functional.linear(h, self.outlet.weight * told, self.outlet.bias)
        log_scale, shift = outputs.chunk(2, dim=1)
        shift = shift + functional.linear(y, self.direct * before)
        return 2.0 * torch.tanh(log_scale / 2.0), shift

    def masks(self, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        """Ones where a weight counts: of ``hidden``, of ``direct`` and of ``outlet``."""
        degree, position = self.degree, self.position
        seen = (degree[:, None] > position[None, :]).to(dtype)
        before = (position[:, None] > position[None, :]).to(dtype)
        told = (position[:, None] >= degree[None, :]).to(dtype)
        return seen, before, torch.cat([told, told])

    def forward(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """``u`` and ``log |du_i/dy_i|``, each ``[n, d]``: one evaluation."""
        log_scale, shift = self.coefficients(y)
        return (y - shift) * torch.exp(-log_scale), -log_scale


class AutoregressiveFlow(LogitFlow):
    """Layers one after another, each in the order opposite to the last one's."""

    places: Tensor
    turns: Tensor

    def __init__(
        self,
        channels: int = 1,
        side: int = 8,
        width: int = 96,
        layers: int = 4,
        dropout: float = 0.2,
        alpha: float = 0.05,
    ) -> None:
        """Build ``layers`` layers with ``width`` hidden units each."""
        super().__init__(channels, side, alpha)
        self.dims = channels * side * side
        self.layers = nn.ModuleList(
            AutoregressiveLayer(self.dims, width, dropout, reverse=bool(i % 2))
            for i in range(layers)
        )
        self.evaluations = layers * self.dims
        # The slow direction begins with the last layer, and with each layer's first value.
        index = torch.arange(self.evaluations)
        self.register_buffer("turns", layers - 1 - index // self.dims, persistent=False)
        places = torch.stack(
            [layer.position.argsort() for layer in self._ordered()]  # value by its place
        )
        self.register_buffer("places", places[self.turns, index % self.dims], persistent=False)

    def _ordered(self) -> list[AutoregressiveLayer]:
        return cast("list[AutoregressiveLayer]", list(self.layers))

    def quick(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """``[n, d]`` through every layer in one evaluation, and its log-determinant ``[n]``."""
        log_det = torch.zeros_like(y[:, 0])
        for layer in self._ordered():
            y, terms = layer(y)
            log_det = log_det + terms.sum(dim=1)
        return y, log_det

    def slow_step(self, state: Tensor, index: Tensor) -> Tensor:
        """One value more of the other direction, which takes ``evaluations`` of these.

        Args:
            state: ``[n, 3, d]``: what the layer gives, what is known of what it takes (zeros at
                first), and the log-determinant by value.
            index: ``[n]``, how many values have been found so far, all layers together.
        """
        given, found, log_det = state.unbind(dim=1)
        here = functional.one_hot(self.places[index], self.dims).to(state.dtype)
        turn = functional.one_hot(self.turns[index], len(self.layers)).to(state.dtype)
        told = [torch.stack(layer.coefficients(found), dim=1) for layer in self._ordered()]
        log_scale, shift = torch.einsum("nl,lnkd->nkd", turn, torch.stack(told)).unbind(dim=1)
        found = found + here * (given * torch.exp(log_scale) + shift)
        log_det = log_det + here * log_scale
        done = ((index + 1) % self.dims == 0)[:, None].to(state.dtype)
        given = done * found + (1 - done) * given
        return torch.stack([given, (1 - done) * found, log_det], dim=1)

    def slow(self, given: Tensor) -> tuple[Tensor, Tensor]:
        """The whole of the other direction: ``[n, d]``, and its log-determinant ``[n]``.

        Each layer's values are found one by one, with no more work for one than is new.
        """
        log_det = torch.zeros_like(given[:, 0])
        for layer in reversed(self._ordered()):
            given, terms = solve(layer, given)
            log_det = log_det + terms
        return given, log_det

    def as_image(self, y: Tensor) -> Tensor:
        """``[n, d]`` as ``[n, c, side, side]``."""
        return y.view(-1, self.channels, self.side, self.side)


def solve(layer: AutoregressiveLayer, given: Tensor) -> tuple[Tensor, Tensor]:
    """What the layer takes to give ``[n, d]``, and the sum of the log scales ``[n]``.

    Differentiable, and no work is done twice: every value that is found is added to what the hidden
    units sum up, and a unit is evaluated when it has seen all that it sees.
    """
    rank = layer.degree.argsort(stable=True)
    seen, before, told = layer.masks(given.dtype)
    width, dims = len(rank), given.shape[1]
    columns = torch.cat([(layer.hidden.weight * seen)[rank], layer.direct * before]).unbind(dim=1)
    outlet = (layer.outlet.weight * told)[:, rank]
    ready = torch.searchsorted(layer.degree[rank], torch.arange(dims), right=True).tolist()
    nothing = torch.zeros_like(given)
    sums = torch.cat([layer.hidden.bias[rank].expand(len(given), -1), nothing], dim=1)
    outputs = layer.outlet.bias.expand(len(given), -1)
    keep = layer.dropout(torch.ones_like(sums[:, :width]))
    found: list[Tensor] = [given[:, 0]] * dims
    log_scales: list[Tensor] = []
    done = 0
    for i, units in zip(layer.position.argsort().tolist(), ready, strict=True):
        if units > done:
            h = functional.silu(sums[:, done:units]) * keep[:, done:units]
            outputs = outputs + h @ outlet[:, done:units].T
            done = units
        log_scale = 2.0 * torch.tanh(outputs[:, i] / 2.0)
        found[i] = given[:, i] * torch.exp(log_scale) + outputs[:, dims + i] + sums[:, width + i]
        sums = torch.addcmul(sums, found[i][:, None], columns[i][None])
        log_scales.append(log_scale)
    return torch.stack(found, dim=1), torch.stack(log_scales).sum(dim=0)


class MAF(AutoregressiveFlow):
    """The density direction, in one evaluation."""

    outputs: ClassVar[tuple[str, ...]] = ("z", "log_det")

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """See `transform`."""
        return self.transform(x)

    def transform(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Images ``[n, c, side, side]`` in [0, 1] to ``z`` ``[n, d]`` and ``[n]`` nats."""
        h, squash_term = self.squash(x)
        z, log_det = self.quick(h.flatten(1))
        return z, squash_term + log_det

    def inverse(self, z: Tensor) -> Tensor:
        """``z`` ``[n, d]`` back to images in [0, 1], all evaluations at once."""
        return self.unsquash(self.as_image(self.slow(z)[0]))


class MAFInverseStep(AutoregressiveFlow):
    """The sampling direction with the same weights, one value at a time."""

    outputs: ClassVar[tuple[str, ...]] = ("next_state",)

    def forward(self, state: Tensor, index: Tensor) -> Tensor:
        """See `AutoregressiveFlow.slow_step`.

        The first state is given ``z``, the last gives an image's pixels in [0, 1].
        """
        state = self.slow_step(state, index)
        image = self.unsquash(self.as_image(state[:, GIVEN])).flatten(1)
        last = (index == self.evaluations - 1)[:, None, None]
        return torch.where(last, torch.cat([image[:, None], state[:, 1:]], dim=1), state)


class IAF(AutoregressiveFlow):
    """The sampling direction, in one evaluation."""

    outputs: ClassVar[tuple[str, ...]] = ("x",)

    def forward(self, z: Tensor) -> Tensor:
        """See `inverse`."""
        return self.inverse(z)

    def inverse(self, z: Tensor) -> Tensor:
        """``z`` ``[n, d]`` to images ``[n, c, side, side]`` in [0, 1]."""
        return self.unsquash(self.as_image(self.quick(z)[0]))

    def transform(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Images in [0, 1] to ``z`` ``[n, d]`` and ``[n]`` nats, all evaluations at once."""
        h, squash_term = self.squash(x)
        z, log_det = self.slow(h.flatten(1))
        return z, squash_term + log_det


class IAFForwardStep(AutoregressiveFlow):
    """The density direction with the same weights, one value at a time."""

    outputs: ClassVar[tuple[str, ...]] = ("next_state",)

    def forward(self, state: Tensor, index: Tensor) -> Tensor:
        """See `AutoregressiveFlow.slow_step`.

        The first state is given an image's pixels in [0, 1], the last gives ``z``.
        """
        first = (index == 0)[:, None, None]
        pixels = torch.where(first, state[:, GIVEN : GIVEN + 1], 0.5)
        h, terms = self.squash_terms(self.as_image(pixels[:, 0]))
        begun = torch.stack([h.flatten(1), torch.zeros_like(pixels[:, 0]), terms.flatten(1)], dim=1)
        return self.slow_step(torch.where(first, begun, state), index)
