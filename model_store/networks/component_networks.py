"""A pipeline's components as networks of named tensors, with rows in front.

Each wrapper is what the pipeline's own loop does around one call of the component; the loop itself
is ours. What is the same for every request of a model, such as positions or sizes, is formed here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from services.core.errors import InvalidManifest

FLOW_TIMES = 1000.0
"""What the time of a flow runs to where diffusers counts it like a diffusion's."""


class _Wrapper(nn.Module):
    """Base: ``x`` in, the prediction for it out; ``whole`` names inputs that are integers."""

    outputs: ClassVar[tuple[str, ...]] = ("prediction",)
    whole: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, component: Any) -> None:
        super().__init__()
        self.component = component

    def predicted(self, output: Tensor, x: Tensor) -> Tensor:
        """The prediction itself; what a network says of its variance lies behind it."""
        return output[:, : x.shape[1]]


class UnconditionalUNet(_Wrapper):
    """``UNet2DModel``."""

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """``x [n, c, h, w]`` at training times ``t [n]``."""
        return self.predicted(self.component(x, t).sample, x)


class TextUNet(_Wrapper):
    """``UNet2DConditionModel`` of Stable Diffusion 1 and 2."""

    def forward(self, x: Tensor, t: Tensor, encoder_hidden_states: Tensor) -> Tensor:
        """``encoder_hidden_states [n, tokens, width]``."""
        told = {"encoder_hidden_states": encoder_hidden_states}
        return self.predicted(self.component(x, t, **told).sample, x)


class SizedTextUNet(_Wrapper):
    """``UNet2DConditionModel`` of SDXL, which is also told sizes (Podell et al., 2023, sec. 2.2).

    They are those of an image that was neither resized nor cropped.
    """

    def __init__(self, component: Any, resolution: tuple[int, int]) -> None:
        super().__init__(component)
        self.register_buffer(
            "time_ids", torch.tensor([*resolution, 0, 0, *resolution]).float(), persistent=False
        )

    def forward(
        self, x: Tensor, t: Tensor, encoder_hidden_states: Tensor, text_embeds: Tensor
    ) -> Tensor:
        """``text_embeds [n, width]`` is the pooled prompt."""
        return self.predicted(self.evaluated(x, t, encoder_hidden_states, text_embeds), x)

    def evaluated(
        self, x: Tensor, t: Tensor, encoder_hidden_states: Tensor, text_embeds: Tensor
    ) -> Tensor:
        """All that the component says of ``x``."""
        ids: Tensor = self.get_buffer("time_ids")
        added = {"text_embeds": text_embeds, "time_ids": ids.expand(len(x), -1)}
        output: Tensor = self.component(
            x, t, encoder_hidden_states=encoder_hidden_states, added_cond_kwargs=added
        ).sample
        return output


class MaskedTextUNet(TextUNet):
    """A `TextUNet` for inpainting: mask and masked image are channels of its input."""

    def forward(  # type: ignore[override]  # it takes more than its base
        self,
        x: Tensor,
        t: Tensor,
        encoder_hidden_states: Tensor,
        mask: Tensor,
        masked_image: Tensor,
    ) -> Tensor:
        """``mask [n, 1, h, w]`` is 1 where to paint; ``masked_image [n, c, h, w]`` are latents."""
        told = {"encoder_hidden_states": encoder_hidden_states}
        whole = torch.cat([x, mask, masked_image], 1)
        return self.predicted(self.component(whole, t, **told).sample, x)


class SizedMaskedTextUNet(SizedTextUNet):
    """A `SizedTextUNet` for inpainting; see `MaskedTextUNet`."""

    def forward(  # type: ignore[override]  # it takes more than its base
        self,
        x: Tensor,
        t: Tensor,
        encoder_hidden_states: Tensor,
        text_embeds: Tensor,
        mask: Tensor,
        masked_image: Tensor,
    ) -> Tensor:
        """See `SizedTextUNet.forward` and `MaskedTextUNet.forward`."""
        whole = torch.cat([x, mask, masked_image], 1)
        return self.predicted(self.evaluated(whole, t, encoder_hidden_states, text_embeds), x)


class LabelTransformer(_Wrapper):
    """``DiTTransformer2DModel`` (Peebles and Xie, 2022)."""

    whole: ClassVar[frozenset[str]] = frozenset({"label"})

    def forward(self, x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        """``label [n]``, where the number of classes stands for none."""
        return self.predicted(self.component(x, timestep=t, class_labels=label).sample, x)


class CaptionTransformer(_Wrapper):
    """``PixArtTransformer2DModel`` (Chen et al., 2023)."""

    def __init__(self, component: Any, resolution: tuple[int, int]) -> None:
        super().__init__(component)
        self.sized = bool(component.use_additional_conditions)
        sizes = torch.tensor([*resolution, resolution[0] / resolution[1]]).float()
        self.register_buffer("sizes", sizes, persistent=False)

    def forward(
        self, x: Tensor, t: Tensor, encoder_hidden_states: Tensor, encoder_attention_mask: Tensor
    ) -> Tensor:
        """``encoder_attention_mask [n, tokens]`` is 1 where the prompt has a token."""
        sizes: Tensor = self.get_buffer("sizes").expand(len(x), -1)
        added: dict[str, Tensor | None] = {"resolution": None, "aspect_ratio": None}
        if self.sized:
            added = {"resolution": sizes[:, :2], "aspect_ratio": sizes[:, 2:]}
        output = self.component(
            x,
            timestep=t,
            encoder_hidden_states=encoder_hidden_states,
            encoder_attention_mask=encoder_attention_mask,
            added_cond_kwargs=added,
        )
        return self.predicted(output.sample, x)


class JointTransformer(_Wrapper):
    """``SD3Transformer2DModel`` (Esser et al., 2024)."""

    def forward(
        self, x: Tensor, t: Tensor, encoder_hidden_states: Tensor, pooled_projections: Tensor
    ) -> Tensor:
        """``t [n]`` runs to 1000; ``pooled_projections [n, width]`` is the pooled prompt."""
        output = self.component(
            x,
            timestep=t,
            encoder_hidden_states=encoder_hidden_states,
            pooled_projections=pooled_projections,
        )
        return self.predicted(output.sample, x)


class _PackedTransformer(_Wrapper):
    """``FluxTransformer2DModel``: latents go in as rows of 2 x 2 patches, with their places."""

    def evaluated(self, x: Tensor, t: Tensor, **told: Tensor | None) -> Tensor:
        """The prediction for ``x [n, c, h, w]``; ``t`` runs to 1000, the component's to 1."""
        rows, channels, height, width = x.shape
        high, wide = height // 2, width // 2
        packed = x.view(rows, channels, high, 2, wide, 2).permute(0, 2, 4, 1, 3, 5)
        packed = packed.reshape(rows, high * wide, channels * 4)
        ids = torch.zeros(high, wide, 3, device=x.device)
        ids[..., 1] = torch.arange(high, device=x.device)[:, None]
        ids[..., 2] = torch.arange(wide, device=x.device)[None, :]
        words = told["encoder_hidden_states"]
        length = 0 if words is None else words.shape[1]
        output: Tensor = self.component(
            packed,
            timestep=t / FLOW_TIMES,
            img_ids=ids.view(high * wide, 3),
            txt_ids=torch.zeros(length, 3, device=x.device),
            **told,
        ).sample
        output = output.view(rows, high, wide, channels, 2, 2).permute(0, 3, 1, 4, 2, 5)
        return output.reshape(rows, channels, height, width)


class PackedTransformer(_PackedTransformer):
    """``FluxTransformer2DModel`` without an embedded guidance scale."""

    def forward(
        self, x: Tensor, t: Tensor, encoder_hidden_states: Tensor, pooled_projections: Tensor
    ) -> Tensor:
        """See `JointTransformer.forward`."""
        return self.evaluated(
            x,
            t,
            encoder_hidden_states=encoder_hidden_states,
            pooled_projections=pooled_projections,
            guidance=None,
        )


class GuidedPackedTransformer(_PackedTransformer):
    """``FluxTransformer2DModel`` that is told its guidance scale (Meng et al., 2022)."""

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        encoder_hidden_states: Tensor,
        pooled_projections: Tensor,
        guidance: Tensor,
    ) -> Tensor:
        """``guidance [n]`` is the scale."""
        return self.evaluated(
            x,
            t,
            encoder_hidden_states=encoder_hidden_states,
            pooled_projections=pooled_projections,
            guidance=guidance,
        )


class LatentDecoder(nn.Module):
    """The decoding half of ``AutoencoderKL``."""

    outputs: ClassVar[tuple[str, ...]] = ("image",)

    def __init__(self, vae: Any) -> None:
        super().__init__()
        self.decoder, self.before = vae.decoder, vae.post_quant_conv

    def forward(self, z: Tensor) -> Tensor:
        """``z [n, c, h, w]`` to an image of the range -1 to 1."""
        image: Tensor = self.decoder(z if self.before is None else self.before(z))
        return image


class LatentEncoder(nn.Module):
    """The encoding half of ``AutoencoderKL``."""

    outputs: ClassVar[tuple[str, ...]] = ("mean", "log_variance")

    def __init__(self, vae: Any) -> None:
        super().__init__()
        self.encoder, self.after = vae.encoder, vae.quant_conv

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """The posterior of an image of the range -1 to 1."""
        moments = self.encoder(image)
        mean, log_variance = (moments if self.after is None else self.after(moments)).chunk(2, 1)
        return mean, log_variance.clamp(-30.0, 20.0)


def wrap(kind: str, network: str, component: Any, resolution: tuple[int, int]) -> nn.Module:
    """The network that a component plays in a model.

    Args:
        kind: the component's class.
        network: the family's name of the network.
        component: as loaded.
        resolution: height and width of the model's images.

    Raises:
        InvalidManifest: such a component is no such network.
    """
    makers = _VAE if kind == "AutoencoderKL" else _DENOISERS.get(kind, {})
    if network not in makers:
        raise InvalidManifest(f"a component of class '{kind}' cannot be the network '{network}'")
    return makers[network](component, resolution)


def _text_unet(component: Any, resolution: tuple[int, int]) -> nn.Module:
    config = component.config
    masked = config.in_channels == 2 * config.out_channels + 1
    if config.addition_embed_type == "text_time":
        sized = SizedMaskedTextUNet if masked else SizedTextUNet
        return sized(component, resolution)
    return MaskedTextUNet(component) if masked else TextUNet(component)


def _packed(component: Any, resolution: tuple[int, int]) -> nn.Module:  # noqa: ARG001 - see `wrap`
    if component.config.guidance_embeds:
        return GuidedPackedTransformer(component)
    return PackedTransformer(component)


_Maker = Callable[[Any, tuple[int, int]], nn.Module]

_VAE: Mapping[str, _Maker] = MappingProxyType(
    {
        "decoder": lambda vae, resolution: LatentDecoder(vae),
        "encoder": lambda vae, resolution: LatentEncoder(vae),
    }
)
_DENOISERS: Mapping[str, Mapping[str, _Maker]] = MappingProxyType(
    {
        "UNet2DModel": {"denoiser": lambda unet, resolution: UnconditionalUNet(unet)},
        "UNet2DConditionModel": {"denoiser": _text_unet},
        "DiTTransformer2DModel": {"denoiser": lambda net, resolution: LabelTransformer(net)},
        "PixArtTransformer2DModel": {"denoiser": CaptionTransformer},
        "SD3Transformer2DModel": {"denoiser": lambda net, resolution: JointTransformer(net)},
        "FluxTransformer2DModel": {"denoiser": _packed},
    }
)
