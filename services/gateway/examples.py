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
    "stream": {
        "model": "shapes-ldm",
        "prompt": "a large red star on black",
        "seed": 7,
        "response": "stream",
        "preview_every": 5,
    },
    "without its parameters in the file": {
        "model": "shapes-cgan",
        "label": "star",
        "seed": 7,
        "metadata": False,
    },
    "cascade": {
        "model": "shapes-ldm",
        "prompt": "a large red star on black",
        "seed": 7,
        "cascade": "photos-sr",
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
    "traverse": {
        "model": "shapes-vae",
        "operation": "traverse",
        "latent_index": 0,
        "range": [-2, 2],
        "n": 5,
        "seed": 7,
    },
}

LIKELIHOOD: Examples = {
    "exact": {"model": "digits-realnvp", "image": SAMPLE_IMAGE},
    "lower_bound": {"model": "shapes-vae", "image": SAMPLE_IMAGE, "samples": 16, "seed": 7},
}

ENCODE: Examples = {
    "posterior": {"model": "shapes-vae", "image": SAMPLE_IMAGE},
}

JOB: Examples = {
    "generate": {
        "task": "generate",
        "request": {"model": "shapes-ldm", "prompt": "a large red star on black", "seed": 7},
        "metadata": {"campaign": "stars"},
    },
    "likelihood": {
        "task": "likelihood",
        "request": {"model": "digits-realnvp", "image": SAMPLE_IMAGE},
        "deadline_seconds": 600,
        "ttl_seconds": 3600,
    },
    "bulk": {
        "task": "bulk",
        "request": {
            "model": "shapes-cgan",
            "grid": {"label": [0, 1], "truncation": [0.7, 1.0]},
            "n": 2,
            "seed": 7,
        },
    },
}

PREDICTION: Examples = {
    "text": {"input": {"prompt": "a large red star on black", "seed": 7, "steps": 20}},
}

PREDICTION_BY_VERSION: Examples = {
    "text": {
        "version": "atelier/shapes-ldm",
        "input": {"prompt": "a large red star on black", "seed": 7},
    },
    "edit": {
        "version": "atelier/shapes-ldm",
        "input": {
            "operation": "variation",
            "image": SAMPLE_IMAGE,
            "prompt": "a small blue circle on white",
            "seed": 7,
        },
    },
}

OPENAI_GENERATION: Examples = {
    "text": {
        "model": "shapes-ldm",
        "prompt": "a large red star on black",
        "n": 1,
        "size": "auto",
        "seed": 7,
    },
    "stream": {
        "model": "shapes-ldm",
        "prompt": "a large red star on black",
        "stream": True,
        "partial_images": 2,
    },
}

OPENAI_EDIT: Examples = {
    "all of it": {
        "model": "shapes-ldm",
        "image": SAMPLE_IMAGE,
        "prompt": "a small blue circle on white",
        "strength": 0.6,
        "seed": 7,
    },
    "what the mask marks": {
        "model": "shapes-ldm",
        "image": SAMPLE_IMAGE,
        "mask": SAMPLE_IMAGE,
        "prompt": "a large red star on black",
        "seed": 7,
    },
}

OPENAI_VARIATION: Examples = {
    "two": {"model": "shapes-ldm", "image": SAMPLE_IMAGE, "n": 2, "seed": 7},
}

HUGGINGFACE_TEXT: Examples = {
    "text": {
        "inputs": "a large red star on black",
        "parameters": {"num_inference_steps": 20, "guidance_scale": 3.0, "seed": 7},
    },
}

HUGGINGFACE_IMAGE: Examples = {
    "image": {
        "inputs": SAMPLE_IMAGE,
        "parameters": {"prompt": "a small blue circle on white", "strength": 0.6, "seed": 7},
    },
}

INFER: Examples = {
    "seeds": {
        "inputs": [
            {"name": "prompt", "shape": [1], "datatype": "BYTES", "data": ["a red star"]},
            {"name": "seed", "shape": [2], "datatype": "INT64", "data": [7, 8]},
        ],
        "parameters": {"steps": 8, "guidance_scale": 3.0},
        "outputs": [{"name": "seed"}],
    },
}

STREAM = """event: queued
data: {"request_id": "3f2c9a", "images": 1, "ahead": 0, "seconds": 0.21}

event: progress
data: {"index": 0, "step": 1, "steps": 25, "sigma": 0.96, "eta": 0.2}

event: preview
data: {"index": 0, "step": 5, "steps": 25, "output_format": "png", "b64_json": "iVBORw0..."}

event: image
data: {"index": 0, "b64_json": "iVBORw0...", "seed": 7}

event: done
data: {"model": "shapes-ldm", "created": 1795250000, "timings": {"queue": 0.0, "prepare": 0.001, \
"step": 0.19, "decode": 0.004, "encode": 0.001}}

"""
"""What a stream of the service's own events looks like, in place of ``image`` or JSON."""

OPENAI_STREAM = """event: image_generation.partial_image
data: {"type": "image_generation.partial_image", "partial_image_index": 0, "b64_json": "iVBO..."}

event: image_generation.completed
data: {"type": "image_generation.completed", "b64_json": "iVBO...", "usage": {"total_tokens": 0}}

"""
"""The same in OpenAI's words; each event also holds the other fields of OpenAI's."""

OPENAI_EDIT_STREAM = OPENAI_STREAM.replace("image_generation", "image_edit")
"""And of an edit."""

JOB_STREAM = """id: 1
event: queued
data: {"job_id": "job-3f2c9a", "images": 1}

id: 4
event: progress
data: {"job_id": "job-3f2c9a", "progress": 0.48, "rows_done": 0, "rows": 1}

event: image
data: {"index": 0, "url": "/v1/jobs/job-3f2c9a/artefacts/0", "seed": 7}

id: 9
event: done
data: {"job_id": "job-3f2c9a", "model": "shapes-ldm", "created": 1795250000, "timings": \
{"queue": 0.0, "prepare": 0.001, "step": 0.19, "decode": 0.004, "encode": 0.001}, \
"device_seconds": 0.2}

"""
"""What following a job looks like."""
