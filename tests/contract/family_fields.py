"""What requests of each family vary in, for Hypothesis to draw from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

from services.sampling.samplers import samplers_for
from services.sampling.schedule import VariancePreserving


def gan_fields(draw: Callable[[Any], Any], name: str) -> dict[str, Any]:
    fields = {"truncation": draw(st.sampled_from([1.0, 0.7, 0.3]))}
    return fields | {"label": draw(st.sampled_from([None, 0, "green"]))}


def likelihood_samples(draw: Callable[[Any], Any], name: str) -> dict[str, Any]:
    return {"samples": draw(st.sampled_from([1, 2, 5]))} if name == "likelihood" else {}


COMPOSED = [{"prompt": "red", "weight": 0.8}, {"prompt": "square", "weight": 0.6}]
DETERMINISTIC = ("ddim", "heun", "dpmpp_2m")
SAMPLERS = samplers_for(VariancePreserving())
OWN_TIMES = ("ddpm", "ddim", "pndm", "lcm")


def diffusion_fields(draw: Callable[[Any], Any], name: str) -> dict[str, Any]:
    fields: dict[str, Any] = {"prompt": draw(st.sampled_from(["", "red circle", "a blue square"]))}
    if name == "likelihood":
        return fields | {"steps": draw(st.integers(2, 4)), "samples": draw(st.integers(1, 2))}
    if name == "encode":
        return fields | {"steps": draw(st.integers(2, 4))}
    fields["sampler"] = draw(st.sampled_from(DETERMINISTIC if name == "invert" else SAMPLERS))
    fields["steps"] = draw(st.integers(1, 5))
    if fields["sampler"] not in OWN_TIMES:
        fields["sigma_schedule"] = draw(st.sampled_from([None, "karras", "exponential", "beta"]))
    fields["guidance_scale"] = draw(st.sampled_from([1.0, 1.0, 0.0, 2.5, 7.5]))
    fields["negative_prompt"] = draw(st.sampled_from(["", "green"]))
    fields["guidance_interval"] = draw(st.sampled_from([[0.0, 1.0], [0.2, 0.6]]))
    fields["guidance_rescale"] = draw(st.sampled_from([0.0, 0.0, 0.7]))
    fields |= draw(st.sampled_from([{}, {}, {"adaptive_guidance": 0.9}, {"prompts": COMPOSED}]))
    if "prompts" in fields:
        del fields["prompt"]
    if name in ("variation", "invert"):
        fields["strength"] = draw(st.sampled_from([0.3, 0.8]))
    return fields


def super_resolution_fields(draw: Callable[[Any], Any], name: str) -> dict[str, Any]:
    return {
        "sampler": draw(st.sampled_from(SAMPLERS)),
        "steps": draw(st.integers(1, 5)),
        "n": draw(st.integers(1, 3)),
    }


def density_fields(draw: Callable[[Any], Any], name: str) -> dict[str, Any]:
    fields = {"label": draw(st.sampled_from([None, 0, "green"]))}
    return fields | likelihood_samples(draw, name)


def autoregressive_fields(draw: Callable[[Any], Any], name: str) -> dict[str, Any]:
    if name in ("reconstruct", "encode"):
        return {}
    fields: dict[str, Any] = {"prompt": draw(st.sampled_from(["", "red circle", "a blue square"]))}
    if name == "likelihood":
        return fields
    return fields | {
        "temperature": draw(st.sampled_from([0.3, 1.0, 2.0])),
        "top_k": draw(st.sampled_from([0, 1, 3])),
        "top_p": draw(st.sampled_from([1.0, 0.7])),
        "guidance_scale": draw(st.sampled_from([1.0, 0.0, 2.5])),
    }


def stylegan_fields(draw: Callable[[Any], Any], name: str) -> dict[str, Any]:
    if name in ("reconstruct", "encode"):
        return {}
    fields: dict[str, Any] = {}
    if name in ("attribute", "invert"):
        fields["attributes"] = draw(st.sampled_from([{}, {"size": 2.0, "pca_1": -1.5}]))
        fields["layers"] = draw(st.sampled_from([None, [0, 1]]))
    if name == "invert":
        return fields | {"steps": draw(st.integers(1, 4))}
    if name == "style_mix":
        fields["layer"] = draw(st.integers(0, 4))
    if name == "traverse":
        fields |= draw(st.sampled_from([{}, {"attribute": "size"}, {"latent_space": "w"}]))
    fields["truncation"] = draw(st.sampled_from([1.0, 0.6, 0.0]))
    fields["noise_strength"] = draw(st.sampled_from([None, 0.0, 0.5]))
    return fields


FIELDS: dict[str, Callable[[Callable[[Any], Any], str], dict[str, Any]]] = {
    "autoregressive": autoregressive_fields,
    "gan": gan_fields,
    "vae": likelihood_samples,
    "flow": likelihood_samples,
    "density": density_fields,
    "diffusion": diffusion_fields,
    "super_resolution": super_resolution_fields,
    "stylegan": stylegan_fields,
}
"""What requests of a family vary in, beyond seeds and counts."""
