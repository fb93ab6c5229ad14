"""Which operations a model has, each narrowed to the model's own layers, styles and attributes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, Field, create_model
from pydantic.config import JsonDict

from services.core.parameters import Parameters
from services.core.validation import near
from services.families.stylegan import parameters as asked
from services.families.stylegan.options import StyleGanOptions

P = TypeVar("P", bound=Parameters)
SHOWN_NAME = 32


def offered(
    options: StyleGanOptions, *, encodes: bool, inverts: bool
) -> dict[str, type[Parameters]]:
    """The operations of a model.

    Args:
        options: of the model.
        encodes: whether it has an encoder.
        inverts: whether its networks have gradients.
    """
    layers, edits = _layers(options), _edits(options)
    attribute = asked.AttributeOfImage if encodes else asked.Attribute
    interpolate = asked.InterpolateImages if encodes else asked.Interpolate
    mix = asked.StyleMixImages if encodes else asked.StyleMix
    table: dict[str, type[Parameters]] = {
        "generate": asked.Generate,
        "interpolate": interpolate,
        "style_mix": _narrowed(mix, {"layer": _cut(options)}),
        "attribute": _narrowed(attribute, edits),
        "traverse": _traverse(options, layers, encodes=encodes),
    }
    if inverts:
        table["invert"] = _narrowed(asked.Invert, edits)
    if encodes:
        table |= {"reconstruct": asked.Reconstruct, "encode": asked.Encode}
    return table


def _narrowed(base: type[P], fields: Mapping[str, Any]) -> type[P]:
    return create_model(base.__name__, __base__=base, __doc__=base.__doc__, **fields)


def _cut(options: StyleGanOptions) -> tuple[Any, int]:
    """The layer of a style mix: half of the layers from each image by default."""
    described = asked.StyleMix.model_fields["layer"].description
    return (
        Annotated[int, Field(ge=0, le=options.layers, description=described)],
        options.layers // 2,
    )


def _layers(options: StyleGanOptions) -> tuple[Any, None]:
    described = asked.Edited.model_fields["layers"].description
    layer = Annotated[int, Field(ge=0, le=options.layers - 1)]
    return (
        Annotated[list[layer] | None, Field(min_length=2, max_length=2, description=described)],
        None,
    )


def _edits(options: StyleGanOptions) -> dict[str, Any]:
    """The fields of `asked.Edited`, for this model."""
    known: JsonDict = {"propertyNames": {"enum": list(options.names)}}
    attributes = Annotated[
        asked.Attributes, AfterValidator(_known(options.names)), Field(json_schema_extra=known)
    ]
    channels = Annotated[asked.Channels, AfterValidator(_within(options.styles))]
    return {
        "attributes": (attributes, Field(default_factory=dict)),
        "layers": _layers(options),
        "channels": (channels, Field(default_factory=dict)),
    }


def _traverse(
    options: StyleGanOptions, layers: tuple[Any, None], *, encodes: bool
) -> type[asked.Traverse]:
    base = asked.TraverseFromImage if encodes else asked.Traverse
    if not options.names:
        return base
    known = options.names
    names = Literal[known]  # type: ignore[valid-type]  # a model's own names
    described = asked.Traverse.model_fields["attribute"].description
    attribute = Annotated[names | None, Field(description=described)]
    return _narrowed(base, {"attribute": (attribute, None), "layers": layers})


def _known(names: tuple[str, ...]) -> Callable[[dict[str, float]], dict[str, float]]:
    """Refuses attributes that the model does not have, and says which it has."""

    def check(given: dict[str, float]) -> dict[str, float]:
        for name in given:
            if name not in names:
                raise ValueError(unknown_attribute(name, names))
        return given

    return check


def unknown_attribute(name: str, names: tuple[str, ...]) -> str:
    """What to say of a name that no attribute has."""
    if not names:
        return f"unknown attribute '{name[:SHOWN_NAME]}'; this model has none"
    offers = near(name, names, count=1)
    hint = f"; did you mean {offers[0]}?" if offers else ""
    return f"unknown attribute '{name[:SHOWN_NAME]}'{hint} Known are {', '.join(names)}"


def _within(styles: int) -> Callable[[dict[int, float]], dict[int, float]]:
    """Refuses indices beyond the model's styles."""

    def check(given: dict[int, float]) -> dict[int, float]:
        for index in given:
            if index >= styles:
                raise ValueError(
                    f"there is no style {index}; this model has {styles}, counted from 0"
                )
        return given

    return check
