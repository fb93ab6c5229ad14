"""What a model says of itself is what it takes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from services.core.errors import InvalidParameter
from services.core.parameters import Latents
from tests.engines import ask, ready, some_pixels
from tests.tiny_models import MODELS

DECLARED = {"gan": [4], "vae": [3], "flow": [1, 4, 4]}


def _model(family: str) -> Any:
    """A tiny model that declares its latent, as models of the catalog do."""
    model = MODELS[family]()
    if family not in DECLARED:
        return model
    return replace(model, options={**model.options, "latent": {"shape": DECLARED[family]}})


@pytest.mark.parametrize("family", [*DECLARED, "diffusion"])
def test_latents_of_the_shape_that_is_said_are_taken(family: str) -> None:
    engine = ready(_model(family))
    shape = engine.describe().limits["latent_shape"]
    latents = Latents.from_array(np.zeros(shape, np.float32)).model_dump()
    (result,) = ask(engine, "generate", latents=latents)
    assert result.pixels is not None


def test_a_shape_that_only_the_graph_knows_is_not_said() -> None:
    assert "latent_shape" not in ready(MODELS["gan"]()).describe().limits


def test_a_schema_says_which_images_come_with_it() -> None:
    flow = ready(_model("flow"))
    assert flow.describe().operations["interpolate"]["x-images"] == [0, 2]
    assert flow.describe().operations["generate"]["x-images"] == [0, 0]
    image = some_pixels(1, 4, 4)
    assert len(ask(flow, "interpolate", images=[image, image])) == 8
    with pytest.raises(InvalidParameter):
        ask(flow, "interpolate", images=[image, image, image])


def test_a_schema_says_whether_a_mask_comes_with_it() -> None:
    operations = ready(_model("diffusion")).describe().operations
    assert {name for name, schema in operations.items() if schema["x-mask"]} == {"inpaint"}
