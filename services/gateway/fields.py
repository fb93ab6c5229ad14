"""The fields that requests share: what each may hold, and what the API's description says of it.

Those that only some kinds of model know are in `services.gateway.model_fields`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from services.core.versions import LONGEST_REFERENCE

SIZE_PATTERN = r"^(auto|[1-9][0-9]{0,4}x[1-9][0-9]{0,4})$"

Text = Annotated[str, Field(description="What the image shows, for models of text.")]
ModelId = Annotated[
    str,
    Field(
        min_length=1,
        max_length=LONGEST_REFERENCE,
        description="A model's name, or name@digest for one version of it; see GET /v1/models.",
    ),
]
Label = Annotated[
    str | Annotated[int, Field(ge=0, le=2**31)],
    Field(description="A label of the model, or its index, for models of labels."),
]
ShortText = Annotated[str, Field(max_length=64)]
Factors = Annotated[
    dict[ShortText, ShortText],
    Field(max_length=32, description="Named attributes, for models that know them."),
]
Steps = Annotated[int, Field(ge=1, description="Network evaluations from noise to image.")]
Number = Annotated[int, Field(ge=1, description="How many images; image i uses seed + i.")]
Guidance = Annotated[float, Field(ge=0, le=100, description="1 means no guidance.")]
Fraction = Annotated[float, Field(ge=0, le=1)]
Temperature = Annotated[float, Field(ge=0, le=10)]
ShortName = Annotated[str, Field(max_length=32)]
ImageText = Annotated[str, Field(description="A PNG, JPEG or WebP in base64, or as a data: URL.")]
Images = Annotated[list[ImageText], Field(min_length=1)]
Compression = Annotated[int, Field(ge=0, le=100)]
Size = Annotated[
    str,
    Field(
        pattern=SIZE_PATTERN,
        description='"WIDTHxHEIGHT"; must be the model\'s own, or "auto".',
    ),
]
Deadline = Annotated[
    float, Field(gt=0, description="Seconds from arrival within which the answer is of use.")
]
ResponseKind = Annotated[
    Literal["image", "json", "stream"],
    Field(description='Overrides the Accept header. "stream" answers with text/event-stream.'),
]
PreviewEvery = Annotated[
    int,
    Field(
        ge=1,
        le=1000,
        description="In a stream: a preview of every image after each so many evaluations.",
    ),
]
InFile = Annotated[
    bool,
    Field(description="Whether the image's file holds the parameters that it was made by."),
]
Cascade = Annotated[
    str,
    Field(
        min_length=1,
        max_length=128,
        description="A model that enlarges what this one makes, in the same request: one whose "
        "operations have super_resolution.",
    ),
]
