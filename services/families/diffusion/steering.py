"""What the network is told along a row's way, and how its answers become one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from services.core.adaptation import ScaledLora
from services.core.errors import InvalidParameter
from services.families.diffusion.adapters import Control
from services.families.diffusion.classifier import Target
from services.families.diffusion.options import Defaults
from services.families.diffusion.parameters import Conditioned, Interpolate, Invert, Sampled
from services.sampling.guidance import Guidance
from services.sampling.interpolation import lerp

Condition = Mapping[str, Tensor]
"""The network's inputs beside the state and its level, for one branch of one row."""


@dataclass(frozen=True, slots=True)
class Words:
    """What a client says for one branch; ``param`` is the field in which it was said."""

    prompt: str = ""
    factors: Mapping[str, str] | None = None
    param: str = "prompt"
    label: int | str | None = None


@dataclass(slots=True, eq=False, kw_only=True)
class Steering:
    """A row's prompts and its guidance over the evaluations of its way.

    Attributes:
        conditions: one for each prompt.
        unguided: what guidance leads away from.
        guidance: as it was asked for.
        evaluations: network evaluations of the whole way.
        climb: how many of them first carry an image to noise, unguided, under ``source``.
        source: what the climb is told.
        target: the class that a classifier guides to, if one does.
        threshold: percentile of `dynamically_thresholded`; ``None`` for none.
        agreed: whether adaptive guidance has dropped the unguided branch for good.
        loras: changes of the network's weights for this row, all the way.
        controls: control networks; none is heard on the climb.
    """

    conditions: tuple[Condition, ...]
    evaluations: int
    unguided: Condition = field(default_factory=dict)
    guidance: Guidance = field(default_factory=Guidance)
    climb: int = 0
    source: Condition = field(default_factory=dict)
    threshold: float | None = None
    target: Target | None = None
    agreed: bool = False
    loras: tuple[ScaledLora, ...] = ()
    controls: tuple[Control, ...] = ()

    def guidance_at(self, index: int) -> Guidance:
        """The guidance of an evaluation; shares of the way are counted from the climb's end."""
        if index < self.climb:
            return Guidance()
        return self.guidance.at(self._share(index), agreed=self.agreed)

    def target_at(self, index: int) -> Target | None:
        """The class that an evaluation is guided to, within the interval of guidance."""
        start, end = self.guidance.interval
        within = index >= self.climb and start <= self._share(index) < end
        return self.target if within else None

    def rows_at(self, index: int) -> int:
        """What an evaluation takes: its branches, and one more for a classifier's gradient.

        A control network that it hears costs as many rows as there are branches.
        """
        heard = 1 + len(self.controls_at(index))
        return self.guidance_at(index).branches * heard + (self.target_at(index) is not None)

    def controls_at(self, index: int) -> tuple[Control, ...]:
        """The control networks that an evaluation hears."""
        step, steps = index - self.climb, self.evaluations - self.climb
        return tuple(c for c in self.controls if step >= 0 and c.heard_at(step, steps))

    @property
    def most_rows(self) -> int:
        """The most that any evaluation takes."""
        return self.guidance.branches + (self.target is not None)

    def branches_at(self, index: int) -> tuple[Condition, ...]:
        """What each branch of an evaluation is told, in the order of `combine`."""
        if index < self.climb:
            return (self.source,)
        if self.guidance_at(index).needs_unguided:
            return (*self.conditions, self.unguided)
        return self.conditions

    def threshold_at(self, index: int) -> float | None:
        """The percentile in force; an image is carried to noise as it is."""
        return None if index < self.climb else self.threshold

    def _share(self, index: int) -> float:
        return (index - self.climb) / max(1, self.evaluations - self.climb)


def spoken(parameters: Conditioned) -> tuple[Words, ...]:
    """What the conditional branches are told: the prompt, or each of several that are composed.

    Raises:
        InvalidParameter: several ways to say it were used at once.
    """
    prompts = parameters.prompts if isinstance(parameters, Sampled) else None
    if parameters.factors is not None and parameters.prompt:
        raise InvalidParameter("give either prompt or factors", param="factors")
    if prompts is None:
        param = "prompt" if parameters.factors is None else "factors"
        return (Words(parameters.prompt, parameters.factors, param, parameters.label),)
    if parameters.prompt or parameters.factors is not None:
        raise InvalidParameter("give either prompts, or one prompt, or factors", param="prompts")
    return tuple(Words(one.prompt, param="prompts") for one in prompts)


def guidance_of(parameters: Sampled, defaults: Defaults) -> Guidance:
    """The guidance that a request asks for, or leaves to the model's defaults.

    Raises:
        InvalidParameter: the unguided branch is to be dropped where it cannot be.
    """
    asked = parameters.guidance_scale
    scale = defaults.guidance_scale if asked is None else asked
    interval = parameters.guidance_interval
    if "guidance_interval" not in parameters.model_fields_set:
        interval = defaults.guidance_interval
    start, end = interval or (0.0, 1.0)
    composed = parameters.prompts
    guidance = Guidance(
        scale=scale,
        weights=(1.0,) if composed is None else tuple(one.weight for one in composed),
        interval=(start, end),
        rescale=parameters.guidance_rescale,
        agreement=parameters.adaptive_guidance,
    )
    if guidance.agreement is not None and not guidance.composes_alone:
        raise InvalidParameter(
            f"adaptive_guidance drops the unguided branch, which prompts of weights that sum to "
            f"{sum(guidance.weights):g} need to the end; give weights that sum to 1",
            param="adaptive_guidance",
        )
    return guidance


def check_end_prompt(parameters: Interpolate, model_id: str, *, between: bool) -> None:
    """Refuse a prompt at the end of the way where there is nothing between two prompts.

    Args:
        parameters: what was asked.
        model_id: for the sentence.
        between: whether the model reads a prompt as numbers that can be blended.

    Raises:
        InvalidParameter: says what to use instead.
    """
    if parameters.end_prompt is None:
        return
    if not between:
        raise InvalidParameter(
            f"{model_id} does not read prompts as numbers that can be blended, so nothing lies "
            "between two; blend what they lead to by prompts with weights from (1, 0) to (0, 1)",
            param="end_prompt",
        )
    if parameters.prompts is not None or parameters.factors is not None:
        raise InvalidParameter(
            "end_prompt goes with prompt, not with prompts or factors", param="end_prompt"
        )


def blended(start: Condition, end: Condition, fraction: float) -> Condition:
    """The condition on the straight line between two; both ends are exact.

    What is no float (a mask over words, say) is the nearer end's.
    """
    if fraction in (0.0, 1.0):
        return start if fraction == 0.0 else end
    near = start if fraction < 0.5 else end
    return {
        name: lerp(value, end[name], fraction) if value.is_floating_point() else near[name]
        for name, value in start.items()
    }


def steering(
    parameters: Sampled,
    *,
    index: int,
    evaluations: int,
    climb: int,
    guidance: Guidance,
    target: Target | None,
    condition: Callable[[Words], Condition],
) -> Steering:
    """The steering of a row that samples.

    Args:
        parameters: what was asked.
        index: the row's place in its call.
        evaluations: of the whole way.
        climb: how many of them carry an image to noise.
        guidance: from `guidance_of`, or none where the model is unconditional.
        target: the class that a classifier guides to, if one does.
        condition: reads what was said for one branch.
    """
    conditions = tuple(condition(words) for words in spoken(parameters))
    if isinstance(parameters, Interpolate) and parameters.end_prompt is not None:
        end = condition(Words(parameters.end_prompt, param="end_prompt"))
        conditions = (blended(conditions[0], end, parameters.fraction(index)),)
    source: Condition = {}
    if isinstance(parameters, Invert):
        source = condition(Words(parameters.source_prompt, param="source_prompt"))
    return Steering(
        conditions=conditions,
        unguided=condition(Words(parameters.negative_prompt, param="negative_prompt")),
        guidance=guidance,
        evaluations=evaluations,
        climb=climb,
        source=source,
        target=target,
        threshold=parameters.dynamic_threshold,
    )
