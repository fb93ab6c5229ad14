"""Getting a module's weights to the device that runs it, in the precision that it runs in."""

from __future__ import annotations

from itertools import chain

import torch
from torch import Tensor, nn

STAGING_BYTES = 64 << 20


def placed(
    module: nn.Module, device: torch.device, dtype: torch.dtype, *, channels_last: bool = False
) -> nn.Module:
    """The module on a device, its floating-point parameters in ``dtype``.

    Buffers stay in float32: they hold sizes, places and frequencies, which round badly.
    """
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.is_floating_point():
                parameter.data = parameter.data.to(dtype)
    there = all(parameter.device.type == device.type for parameter in module.parameters())
    if device.type == "cuda" and not there:
        upload(module, device)
    else:
        module.to(device)
    if channels_last:
        # The method's annotations know no memory format alone.
        module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return module


def upload(module: nn.Module, device: torch.device, *, staging_bytes: int = STAGING_BYTES) -> None:
    """Move a module's tensors through two page-locked buffers in turn.

    The device copies out of one while the processor fills the other; pageable memory would be
    copied twice, with both waiting. Without a CUDA device the buffers are ordinary memory.
    """
    stage = _Stage(device, staging_bytes)
    with torch.no_grad():
        for tensor in chain(module.parameters(), module.buffers()):
            tensor.data = stage.moved(tensor.data)
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class _Stage:
    """Two buffers, and for each what tells when the device has read it."""

    def __init__(self, device: torch.device, size: int) -> None:
        locked = device.type == "cuda"
        self._device = device
        self._buffers = [torch.empty(size, dtype=torch.uint8, pin_memory=locked) for _ in range(2)]
        self._read = [torch.cuda.Event() for _ in range(2)] if locked else []
        self._turn = 0

    def moved(self, tensor: Tensor) -> Tensor:
        """The same numbers on the device."""
        there = torch.empty(tensor.shape, dtype=tensor.dtype, device=self._device)
        if not tensor.numel():
            return there
        source = tensor.contiguous().view(-1).view(torch.uint8)
        target = there.view(-1).view(torch.uint8)
        size = len(self._buffers[0])
        for start in range(0, len(source), size):
            self._copy(source[start : start + size], target[start : start + size])
        return there

    def _copy(self, source: Tensor, target: Tensor) -> None:
        buffer = self._buffers[self._turn]
        if self._read:
            self._read[self._turn].synchronize()
        buffer[: len(source)].copy_(source)
        target.copy_(buffer[: len(source)], non_blocking=True)
        if self._read:
            self._read[self._turn].record()
        self._turn = 1 - self._turn
