"""A model's classifier of noisy states, and what it does for the rows that name a class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from services.core.errors import InvalidParameter, UnsupportedTask
from services.core.labels import label_index
from services.core.network import OpenedModel
from services.families.diffusion.gradients import Gradients
from services.families.diffusion.options import DiffusionOptions
from services.families.diffusion.parameters import Guided
from services.sampling.classifier_guidance import class_cotangent, shifted

NETWORK = "classifier"


@dataclass(frozen=True, slots=True)
class Target:
    """The class that a row is guided to, and how strongly."""

    index: int
    scale: float


@dataclass(frozen=True, slots=True)
class Aimed:
    """A row of an evaluation that is guided to a class.

    Attributes:
        row: its place among the denoised images.
        x: the noisy state.
        time: what the network is told.
        alpha: signal level.
        sigma: noise level.
        target: where it is guided to.
    """

    row: int
    x: Tensor
    time: float
    alpha: float
    sigma: float
    target: Target


class ClassifierGuide:
    """The classifier of one model, or the lack of one.

    Its network takes ``x`` and ``t`` as the denoiser does and gives ``logits``, one per label of
    ``options: {classifier: {labels: [...]}}``.
    """

    def __init__(self, model: OpenedModel, options: DiffusionOptions, device: torch.device) -> None:
        """Open nothing yet."""
        self._model, self._device = model, device
        self.labels = tuple(options.classifier.labels) if options.classifier else ()
        self._scale = options.classifier.scale if options.classifier else 0.0
        self._gradients = Gradients(model, NETWORK)

    def target(self, parameters: Guided) -> Target | None:
        """The class that a request asks to be guided to; none without a label.

        Raises:
            InvalidParameter: the model has no classifier, or not that class, or none was named.
            UnsupportedTask: the classifier has no gradients.
        """
        if not self.labels:
            if parameters.classifier_scale is not None:
                raise InvalidParameter(
                    f"{self._model.id} has no classifier to guide it", param="classifier_scale"
                )
            return None
        if parameters.label is None:
            if parameters.classifier_scale is not None:
                raise InvalidParameter(
                    f"classifier_scale needs a label; known are {', '.join(self.labels)}",
                    param="classifier_scale",
                )
            return None
        if not self._gradients.exist:
            raise UnsupportedTask(
                f"the classifier of {self._model.id} cannot be differentiated (an ONNX graph has "
                "no gradients; a safetensors export of an architecture that ships with Atelier "
                "has), so it cannot guide; leave label out",
                param="label",
            )
        asked = parameters.classifier_scale
        scale = self._scale if asked is None else asked
        index = label_index(parameters.label, self.labels, model_id=self._model.id)
        return Target(index, scale) if scale else None

    def open(self) -> None:
        """Open the network with its gradients.

        Raises:
            ModelError: its file is missing, changed, or no fit.
        """
        self._gradients.network()

    def guided(self, denoised: Tensor, aimed: Sequence[Aimed]) -> Tensor:
        """Denoised images with those of some rows moved towards their classes.

        The classifier is evaluated twice, the second time with its gradient.

        Args:
            denoised: ``[n, ...]``.
            aimed: at least one.

        Raises:
            ModelError: the classifier cannot be opened.
        """
        network = self._gradients.network()
        output = next(iter(network.outputs))
        x = torch.stack([one.x for one in aimed]).to(self._device)
        times = torch.tensor([one.time for one in aimed], dtype=torch.float32)
        inputs = {"x": x, "t": times.to(self._device)}
        classes = torch.tensor([one.target.index for one in aimed], device=self._device)
        logits = network(**inputs)[output]
        _, gradients = network.vjp(
            inputs, wrt="x", output=output, cotangent=class_cotangent(logits, classes)
        )
        rows = [one.row for one in aimed]
        moved = denoised.clone()
        moved[rows] = shifted(
            denoised[rows],
            gradients.cpu(),
            torch.tensor([one.target.scale for one in aimed], dtype=torch.float64),
            torch.tensor([one.alpha for one in aimed], dtype=torch.float64),
            torch.tensor([one.sigma for one in aimed], dtype=torch.float64),
        )
        return moved
