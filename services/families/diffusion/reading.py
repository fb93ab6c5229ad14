"""What a request means to one model: its plan, its guidance, and what the network is told."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from services.core.adaptation import ScaledLora
from services.core.errors import InvalidParameter
from services.families.diffusion.adapters import Attachments, rows_of_controls
from services.families.diffusion.classifier import ClassifierGuide
from services.families.diffusion.conditioning import Conditioner
from services.families.diffusion.options import DiffusionOptions
from services.families.diffusion.parameters import (
    Conditioned,
    Generate,
    Interpolate,
    Invert,
    Sampled,
    Variation,
)
from services.families.diffusion.steering import (
    Condition,
    Steering,
    Words,
    check_end_prompt,
    guidance_of,
    spoken,
    steering,
)
from services.sampling.guidance import Guidance
from services.sampling.inversion import make_way
from services.sampling.plan import Plan
from services.sampling.samplers import takes_levels


class Reader:
    """Reads the requests of one model, as its options and defaults have it."""

    def __init__(
        self,
        model_id: str,
        options: DiffusionOptions,
        conditioner: Conditioner,
        classifier: ClassifierGuide,
        attachments: Attachments,
    ) -> None:
        """Read nothing yet; networks need not be open.

        Args:
            model_id: for the sentences of refusals.
            options: the model's.
            conditioner: reads what the denoiser is told.
            classifier: knows the classes that a row can be guided to.
            attachments: the model's adapters.
        """
        self._model_id, self._options = model_id, options
        self._conditioner, self._classifier = conditioner, classifier
        self._attachments = attachments

    def check(self, parameters: Conditioned) -> None:
        """Refuse words and guidance that the model cannot follow; opens and encodes nothing.

        Raises:
            InvalidParameter: says what would be right.
            UnsupportedTask: a label needs a gradient that the model does not have.
        """
        if isinstance(parameters, Sampled):
            self._steered(parameters, 0, self._checked)
        else:
            self._checked(*spoken(parameters))

    def plan(self, parameters: Sampled) -> tuple[Plan, int]:
        """A request's plan, and how many of its evaluations first carry an image to noise.

        Raises:
            InvalidParameter: see `make_way`.
        """
        defaults = self._options.defaults
        part = parameters.strength if isinstance(parameters, Variation | Invert) else 1.0
        sampler, levels = parameters.sampler or defaults.sampler, parameters.sigma_schedule
        if "sigma_schedule" not in parameters.model_fields_set and takes_levels(sampler):
            levels = defaults.sigma_schedule
        return make_way(
            sampler,
            self._options.schedule,
            defaults.steps if parameters.steps is None else parameters.steps,
            levels,
            strength=part,
            inverts=isinstance(parameters, Invert),
        )

    def most_rows(self, parameters: Sampled) -> int:
        """The most rows of the network that an evaluation of the request takes."""
        rows = self._steered(parameters, 0, lambda _: {}).most_rows
        return rows * (1 + rows_of_controls(parameters))

    def completed(self, parameters: Sampled, seed: int) -> tuple[Sampled, str | None]:
        """A request for an image from noise, with what its prompt leaves open drawn.

        Args:
            parameters: what was asked; anything but that stays as it is.
            seed: of the row's noise.

        Returns:
            What is to be made, and the whole prompt; ``None`` where nothing was drawn.
        """
        fresh = isinstance(parameters, Generate) and parameters.latents is None
        if not fresh or parameters.prompts is not None:
            return parameters, None
        (words,) = spoken(parameters)
        words, caption = self._conditioner.completed(self._unaimed(words), seed)
        if caption is None:
            return parameters, None
        whole = {"prompt": words.prompt, "factors": words.factors}
        return parameters.model_copy(update=whole), caption

    def steering(self, parameters: Sampled, index: int, beside: Condition) -> Steering:
        """What the network is told on the way of one row of a request.

        Args:
            parameters: what was asked.
            index: the row's place in its call.
            beside: what every branch is told besides what the words say.

        Raises:
            InvalidParameter: words that the model does not know, or guidance that it cannot have.
        """
        loras = self._attachments.loras(parameters)
        read = partial(self._condition, scale=parameters.guidance_scale, loras=loras)
        found = self._steered(parameters, index, lambda words: {**read(words), **beside})
        found.loras = loras
        return found

    def condition(self, parameters: Conditioned) -> Condition:
        """What the network is told beside the state and the time, where nothing guides it.

        Raises:
            InvalidParameter: the model cannot be told this.
        """
        return self._condition(*spoken(parameters))

    def _steered(
        self, parameters: Sampled, index: int, read: Callable[[Words], Condition]
    ) -> Steering:
        if parameters.dynamic_threshold is not None and self._options.latent is not None:
            raise InvalidParameter(
                f"dynamic_threshold holds pixels in their range, and {self._model_id} denoises "
                "latents, which have none; use guidance_rescale",
                param="dynamic_threshold",
            )
        if isinstance(parameters, Interpolate):
            check_end_prompt(parameters, self._model_id, between=self._conditioner.continuous)
        plan, climb = self.plan(parameters)
        return steering(
            parameters,
            index=index,
            evaluations=len(plan),
            climb=climb,
            guidance=self._guidance(parameters),
            target=self._classifier.target(parameters),
            condition=lambda words: read(self._unaimed(words)),
        )

    def _guidance(self, parameters: Sampled) -> Guidance:
        guidance = guidance_of(parameters, self._options.defaults)
        # Without a condition both branches would hear the same.
        return guidance if self._conditioner.branches else guidance.unscaled()

    def _unaimed(self, words: Words) -> Words:
        """Words without the label, where that is for the classifier alone."""
        if self._classifier.labels and self._conditioner.kind != "label":
            return replace(words, label=None)
        return words

    def _condition(
        self, words: Words, *, scale: float | None = None, loras: Sequence[ScaledLora] = ()
    ) -> Condition:
        default = self._options.defaults.guidance_scale
        return self._conditioner.condition(words, default if scale is None else scale, loras)

    def _checked(self, words: Words) -> Condition:
        """Nothing but a refusal, for what `_condition` would not read."""
        self._conditioner.check(words)
        return {}
