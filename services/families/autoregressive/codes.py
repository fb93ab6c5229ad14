"""Codes as they are sent, masked and shown."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from services.core.errors import InvalidParameter
from services.core.images import Pixels
from services.core.network import Network
from services.core.parameters import Latents
from services.core.pixels import to_pixels
from services.families.autoregressive.options import AutoregressiveOptions
from services.families.latent import latent_from

DECODED_AT_ONCE = 64


def codes_from(latents: Latents, options: AutoregressiveOptions) -> Tensor:
    """Codes that the client sent: int64 ``[length]``.

    Raises:
        InvalidParameter: of another shape, or not whole numbers of codes that there are.
    """
    values = latent_from(latents, options.latent_shape).flatten()
    codes = values.long()
    if not torch.equal(codes.float(), values) or codes.min() < 0 or codes.max() >= options.codes:
        raise InvalidParameter(
            f"latents are codes: whole numbers from 0 to {options.codes - 1}", param="latents"
        )
    return codes


def masked_codes(mask: Pixels, options: AutoregressiveOptions) -> Tensor:
    """Which codes a mask touches, ``[length]``.

    Args:
        mask: ``[1, height, width]``, above 0 where the image is to be made anew.
        options: say the grids.
    """
    marked = torch.from_numpy((mask > 0).astype("float32"))
    cells = [
        functional.adaptive_max_pool2d(marked, (level.shape[0], level.shape[1])).flatten()
        for level in options.levels
    ]
    return torch.cat(cells) > 0


def decoder_colors(decoder: Network, codes: int, length: int, device: torch.device) -> Tensor:
    """The mean colour of an image of nothing but one code, for each: ``[codes, channels]``."""
    every = torch.arange(codes)[:, None].expand(codes, length)
    parts = [
        decoder(codes=part.to(device))["image"].cpu().flatten(2).mean(dim=2)
        for part in every.split(DECODED_AT_ONCE)
    ]
    return torch.cat(parts)


def picture(
    codes: Tensor,
    known: Tensor,
    colors: Tensor,
    options: AutoregressiveOptions,
    pixel_range: tuple[float, float],
) -> Pixels:
    """A small picture of the codes that are known, a pixel for each; the others are grey.

    Args:
        codes: int64 ``[length]``, of a model of one level.
        known: which of them count, ``[length]``.
        colors: of each code, as `decoder_colors` finds them.
        options: say the grid.
        pixel_range: the model's.
    """
    grey = sum(pixel_range) / 2
    shown = torch.where(known[:, None], torch.nan_to_num(colors[codes]), grey)
    height, width = options.levels[0].shape
    return to_pixels(shown.T.reshape(1, -1, height, width), pixel_range)[0]
