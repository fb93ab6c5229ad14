"""A ControlNet (Zhang et al., 2023) as a network: an image beside the denoiser's own inputs."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from model_store.networks.binding import Declared
from model_store.networks.control_residuals import flattened
from model_store.networks.exported_network import ExportedNetwork
from model_store.networks.graph import GraphTensor
from model_store.networks.image_layout import Frame
from model_store.networks.torch_graph import TorchGraph
from services.core.errors import EngineFailure, InvalidNetwork

CONTROL = "control"


class _Control(nn.Module):
    outputs: ClassVar[tuple[str, ...]] = ("residuals",)

    def __init__(self, component: Any) -> None:
        super().__init__()
        self.component = component

    def evaluated(
        self, x: Tensor, t: Tensor, words: Tensor, control: Tensor, added: dict[str, Tensor] | None
    ) -> Tensor:
        """One evaluation of the component."""
        down, mid = self.component(
            x,
            t,
            encoder_hidden_states=words,
            controlnet_cond=control,
            added_cond_kwargs=added,
            return_dict=False,
        )
        return flattened([*down, mid])


class TextControl(_Control):
    """``ControlNetModel`` beside the UNet of Stable Diffusion 1 and 2."""

    def forward(
        self, x: Tensor, t: Tensor, encoder_hidden_states: Tensor, control: Tensor
    ) -> Tensor:
        """``control [n, 3, height, width]`` of the range 0 to 1; see `flattened`."""
        return self.evaluated(x, t, encoder_hidden_states, control, None)


class SizedTextControl(_Control):
    """``ControlNetModel`` beside the UNet of SDXL; see `SizedTextUNet`."""

    def __init__(self, component: Any, resolution: tuple[int, int]) -> None:
        super().__init__(component)
        self.register_buffer(
            "time_ids", torch.tensor([*resolution, 0, 0, *resolution]).float(), persistent=False
        )

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        encoder_hidden_states: Tensor,
        text_embeds: Tensor,
        control: Tensor,
    ) -> Tensor:
        """As `TextControl.forward`; ``text_embeds [n, width]`` is the pooled prompt."""
        ids: Tensor = self.get_buffer("time_ids")
        added = {"text_embeds": text_embeds, "time_ids": ids.expand(len(x), -1)}
        return self.evaluated(x, t, encoder_hidden_states, control, added)


def open_control(
    name: str,
    component: Any,
    told: Mapping[str, Sequence[int]],
    frame: Frame,
    device: torch.device,
    threads: int,
) -> ExportedNetwork:
    """A loaded ``ControlNetModel`` as a network, with the row plan that this hardware needs.

    Args:
        name: the adapter's, for errors.
        component: as loaded.
        told: the shapes, without the batch, of the denoiser's inputs.
        frame: of the model's images.
        device: where it is to run.
        threads: on the CPU.

    Raises:
        InvalidNetwork: it does not fit beside the denoiser.
    """
    config = component.config
    if config.conditioning_channels != 3 or frame.channels != 3:
        raise InvalidNetwork(
            f"ControlNet '{name}' takes {config.conditioning_channels} channels and the model's "
            f"images have {frame.channels}; 3 are served"
        )
    resolution = (frame.height, frame.width)
    sized = config.addition_embed_type == "text_time"
    module: _Control = TextControl(component)
    if sized:
        module = SizedTextControl(component, resolution)
    shapes = {**told, CONTROL: [frame.channels, *resolution]}
    taken = list(inspect.signature(module.forward).parameters)
    missing = [key for key in taken if key not in shapes]
    if missing:
        raise InvalidNetwork(
            f"ControlNet '{name}' is told {', '.join(missing)}, which the model's denoiser is not: "
            "it was made for another kind of model"
        )
    inputs = [GraphTensor(key, (None, *shapes[key]), torch.float32) for key in taken]
    graph = TorchGraph(module, name=name, inputs=inputs, device=device, threads=threads)
    try:
        network = ExportedNetwork(graph, Declared(name=name, frame=frame), device)
        network.probe()
    except EngineFailure as error:
        raise InvalidNetwork(f"ControlNet '{name}' does not fit: {error.message}") from error
    return network
