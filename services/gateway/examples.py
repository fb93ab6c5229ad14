"""Requests that run as printed, for the documentation; a test runs every one of them.

The image is an 8x8 PNG, black on the left and white on the right: as a mask it marks the right
half. Models resize what they are given.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Examples = Mapping[str, Mapping[str, Any]]

SAMPLE_IMAGE = (
    "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAAAAADhZOFXAAAAFklEQVR42mNkYGBg+M/A"
    "wMDEAAXkMQBFRQEPJug6iwAAAABJRU5ErkJggg=="
)

GENERATE: Examples = {
    "text": {
        "model": "shapes-ldm",
        "prompt": "a large red star on black",
        "seed": 7,
        "steps": 20,
        "sampler": "dpmpp_2m",
        "guidance_scale": 3.0,
    },
    "label": {"model": "shapes-cgan", "label": 0, "n": 2, "seed": 7, "output_format": "webp"},
    "unconditional": {"model": "digits-realnvp", "n": 4, "temperature": 0.8},
}

EDIT: Examples = {
    "variation": {
        "model": "shapes-ldm",
        "operation": "variation",
        "image": SAMPLE_IMAGE,
        "prompt": "a small blue circle on white",
        "strength": 0.6,
        "seed": 7,
    },
    "inpaint": {
        "model": "shapes-ldm",
        "operation": "inpaint",
        "image": SAMPLE_IMAGE,
        "mask": SAMPLE_IMAGE,
        "prompt": "a large red star on black",
        "seed": 7,
    },
    "reconstruct": {"model": "shapes-vae", "operation": "reconstruct", "image": SAMPLE_IMAGE},
}

LIKELIHOOD: Examples = {
    "exact": {"model": "digits-realnvp", "image": SAMPLE_IMAGE},
    "lower_bound": {"model": "shapes-vae", "image": SAMPLE_IMAGE, "samples": 16, "seed": 7},
}

ENCODE: Examples = {
    "posterior": {"model": "shapes-vae", "image": SAMPLE_IMAGE},
}

OPENAI_GENERATION: Examples = {
    "text": {
        "model": "shapes-ldm",
        "prompt": "a large red star on black",
        "n": 1,
        "size": "auto",
        "seed": 7,
    },
}
