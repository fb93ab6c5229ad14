"""InfoGAN's codes: a category and some continuous numbers that a generator is told beside ``z``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, create_model, model_validator
from torch import Tensor

from services.families.gan.parameters import Traverse

LATENT = "latent"
CATEGORY = "category"
MAX_CATEGORIES = 64
MAX_CONTINUOUS = 64
REACH = 1.0
"""Continuous codes were uniform in [-1, 1] when the generator learned what they mean."""
FARTHEST = 10.0


class CodesSpec(BaseModel):
    """Which codes a generator takes (Chen et al., 2016, arXiv:1606.03657, section 7)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    categories: Annotated[int, Field(ge=2, le=MAX_CATEGORIES)]
    continuous: Annotated[int, Field(ge=0, le=MAX_CONTINUOUS)] = 0

    @property
    def names(self) -> tuple[str, ...]:
        """Every code by its name: ``category``, ``continuous_0``, ``continuous_1`` ..."""
        return (CATEGORY, *(f"continuous_{i}" for i in range(self.continuous)))

    def fields(self) -> dict[str, Any]:
        """The fields that a request says codes with, bounded as this model's codes are."""
        category = Annotated[
            int | None,
            Field(
                ge=0,
                le=self.categories - 1,
                description="The categorical code; drawn by the seed if absent.",
            ),
        ]
        found: dict[str, Any] = {"category": (category, None)}
        if self.continuous:
            value = Annotated[float, Field(ge=-FARTHEST, le=FARTHEST)]
            values = Annotated[
                list[value] | None,
                Field(
                    min_length=self.continuous,
                    max_length=self.continuous,
                    description="The continuous codes, trained in [-1, 1]; drawn by the seed if "
                    "absent.",
                ),
            ]
            found["continuous"] = (values, None)
        return found

    def drawn(self, parameters: Any, source: torch.Generator) -> dict[str, Tensor]:
        """The codes of one image: what the request says, and draws for what it leaves out.

        Everything is drawn in a fixed order, said or not: naming one code changes no other.
        """
        category = torch.randint(self.categories, (), generator=source)
        if parameters.category is not None:
            category = torch.tensor(parameters.category)
        if not self.continuous:
            return {"category": category}
        continuous = 2 * torch.rand(self.continuous, generator=source) - 1
        if parameters.continuous is not None:
            continuous = torch.tensor(parameters.continuous, dtype=torch.float32)
        return {"category": category, "continuous": continuous}

    def limits(self) -> dict[str, Any]:
        """What the model says of its codes."""
        return {"categories": self.categories, "continuous_codes": self.continuous}


class TraverseCodes(Traverse):
    """Parameters of ``traverse``: a strip of images along which one code changes.

    ``code`` names it; ``latent`` stands for the number of the noise at ``latent_index``. A category
    goes through all it can be, a continuous code from -1 to 1, unless the request says otherwise.
    """

    spec: ClassVar[CodesSpec]

    code: str = CATEGORY

    @model_validator(mode="after")
    def _fits_code(self) -> Self:
        if self.code != LATENT and "latent_index" in self.model_fields_set:
            raise ValueError(f"latent_index goes with code '{LATENT}'")
        if self.code not in (CATEGORY, LATENT) and max(map(abs, self.strip())) > FARTHEST:
            raise ValueError(f"continuous codes are from {-FARTHEST:g} to {FARTHEST:g}")
        if self.code != CATEGORY:
            return self
        if self.range is not None or "n" in self.model_fields_set:
            raise ValueError("a category takes values, not range and n")
        last = self.spec.categories - 1
        if any(value not in range_of(last) for value in self.values or ()):
            raise ValueError(f"a category's values are whole numbers from 0 to {last}")
        return self

    def strip(self) -> list[float]:
        """See `Traversal.strip`."""
        if self.values is None and self.code == CATEGORY:
            return [float(category) for category in range_of(self.spec.categories - 1)]
        if self.values is None and self.range is None and self.code != LATENT:
            return self.evenly(-REACH, REACH)
        return super().strip()

    def moved(self, latent: Tensor, index: int) -> Tensor:
        """See `LatentTraversal.moved`."""
        return super().moved(latent, index) if self.code == LATENT else latent

    def told(self, codes: Mapping[str, Tensor], index: int) -> dict[str, Tensor]:
        """The codes of one image of the strip; those given are left as they are."""
        if self.code == LATENT:
            return dict(codes)
        value = self.strip()[index]
        if self.code == CATEGORY:
            return {**codes, "category": torch.tensor(int(value))}
        continuous = codes["continuous"].clone()
        continuous[self.spec.names.index(self.code) - 1] = value
        return {**codes, "continuous": continuous}


def range_of(last: int) -> range:
    """``0..last``; inside a traversal ``range`` is a field."""
    return range(last + 1)


def traverse_codes(spec: CodesSpec) -> type[TraverseCodes]:
    """The parameters of ``traverse`` for a model with these codes."""
    names = Literal[(*spec.names, LATENT)]  # type: ignore[valid-type]  # a model's own names
    code = Annotated[names, Field(description="What changes along the strip.")]
    kind = create_model(
        "TraverseCodes",
        __base__=TraverseCodes,
        __doc__=TraverseCodes.__doc__,
        code=(code, CATEGORY),
    )
    kind.spec = spec
    return kind
