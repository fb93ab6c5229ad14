"""What a finished row is answered with."""

from __future__ import annotations

from typing import Any

import numpy as np

from services.core.images import Pixels
from services.core.parameters import Latents
from services.core.trajectory import Result, Trajectory
from services.families.autoregressive.flight import Writing
from services.families.autoregressive.options import AutoregressiveOptions
from services.families.likelihood import Complexity, judged


def drawing(trajectory: Trajectory, image: Pixels) -> Result:
    """A decoded image; outside of a mask it is the image that was given."""
    job = trajectory.job
    shown = image if job.mask is None else np.where(job.mask > 0, image, job.images[0])
    values: dict[str, Any] = {"seed": job.seed}
    if isinstance(trajectory, Writing) and trajectory.revised_prompt is not None:
        values["revised_prompt"] = trajectory.revised_prompt
    return Result(shown, values)


def encoding(trajectory: Trajectory, options: AutoregressiveOptions) -> Result:
    """The codes of an image, as `generate` takes them again."""
    codes = trajectory.x.view(options.latent_shape).float()
    latents = Latents.from_array(codes.numpy()).model_dump()
    return Result(values={"latents": latents, "kind": "codes"})


def likelihood(row: Writing, options: AutoregressiveOptions, again: Pixels) -> Result:
    """The exact log-likelihood of an image's codes, with a term for each level.

    Args:
        row: whose codes are all read.
        options: of the model.
        again: the image that its codes stand for.
    """
    parts = row.log_probabilities.split([level.cells for level in options.levels])
    terms = {
        level.name: float(part.sum()) for level, part in zip(options.levels, parts, strict=True)
    }
    untold = row.job.parameters.says_nothing
    return judged(
        sum(terms.values()),
        dims=options.length,
        kind="exact",
        terms=terms,
        samples=1,
        std_error=0.0,
        reference=options.reference_log_likelihoods if untold else None,
        complexity=Complexity(
            row.job.images[0], options.reference_corrected_bits_per_dim if untold else None, again
        ),
    )
