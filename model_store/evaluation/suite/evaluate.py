"""Measuring a model: what applies is picked by what it offers and what the data are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from model_store.evaluation.suite import latents, likelihoods, restorations, samples
from model_store.evaluation.suite.asking import Subject
from model_store.evaluation.suite.features import DOMAINS, Features, ReadsFactors
from model_store.evaluation.suite.held_out import SOURCE, TARGET, HeldOut
from model_store.evaluation.suite.measured import Data, Evaluation, Measurement, Unmeasured
from services.core.errors import UnsupportedTask
from services.core.network import OpenedModel

MOST_BOUNDED = 128
"""Images whose likelihood is bounded or estimated, at tens to hundreds of evaluations each."""
PATHS = 256
NO_CLASSIFIER = (
    "no built-in classifier knows such images; --features NETWORK.onnx compares them by a network "
    "of yours"
)
NO_PAIRS = (
    f"these images are no pairs; --against FOLDER takes them from FOLDER/{SOURCE} and "
    f"FOLDER/{TARGET}, two files of one name to a pair"
)


@dataclass
class _Found:
    measurements: list[Measurement] = field(default_factory=list)
    unmeasured: list[Unmeasured] = field(default_factory=list)
    corrected_reference: list[float] | None = None

    def without(self, name: str, reason: str) -> None:
        self.unmeasured.append(Unmeasured(name=name, reason=reason))


async def evaluate(
    subject: Subject,
    real: HeldOut,
    *,
    weights: Mapping[str, str],
    features: Features | None = None,
    open_networks: Callable[[], OpenedModel] | None = None,
) -> Evaluation:
    """Everything that can be measured of a model.

    Args:
        subject: the model, as it is served.
        real: what it is compared with; no number is measured on more images than these.
        weights: digests of its networks' files by name.
        features: what images are compared by, in place of the domain's classifier.
        open_networks: the model's networks by themselves, for what 8-bit images cannot tell.

    Raises:
        UnsupportedTask: nothing that the model offers can be measured.
    """
    reader = DOMAINS[real.domain]() if real.domain else None
    compare = features or reader
    found = _Found()
    if subject.offers("generate"):
        await _generation(subject, real, compare, reader, found)
        _paths(subject, compare, open_networks, found)
    if subject.offers("reconstruct"):
        found.measurements += await restorations.reconstructed(subject, real.images, compare)
    if subject.offers("denoise"):
        found.measurements += await restorations.denoised(subject, real.images, compare)
    if subject.offers("translate"):
        await _translation(subject, real, compare, reader, found)
    if subject.offers("super_resolution") and "factor" in subject.info.limits:
        found.measurements += await restorations.enlarged(subject, real.images, compare)
    if subject.offers("likelihood"):
        most = len(real.images) if subject.info.likelihood == "exact" else MOST_BOUNDED
        judged = await likelihoods.likelihoods(subject, real, most)
        found.measurements += judged.measurements
        found.corrected_reference = judged.corrected_reference
    if subject.offers("encode") and subject.info.family == "vae":
        await _codes(subject, real, found)
    if not found.measurements:
        raise UnsupportedTask(
            f"nothing can be measured of {subject.info.id}: it offers "
            f"{', '.join(subject.info.operations)}, of which generate, reconstruct, denoise, "
            "translate (against pairs), super_resolution, likelihood and encode are measured",
            param="model",
        )
    return Evaluation(
        model=subject.info.id,
        family=subject.info.family,
        weights=dict(weights),
        data=Data(name=real.name, split=real.split, images=len(real.images)),
        features=compare.described if compare else None,
        seed=subject.seed,
        samples=len(real.images),
        measurements=found.measurements,
        corrected_reference=found.corrected_reference,
        unmeasured=found.unmeasured,
    )


async def _generation(
    subject: Subject,
    real: HeldOut,
    compare: Features | None,
    reader: ReadsFactors | None,
    found: _Found,
) -> None:
    told = samples.tellings(subject, real, len(real.images))
    made: Tensor = await subject.generated(told)
    found.measurements += samples.compared(made, real, compare, seed=subject.seed)
    if compare is None:
        found.without("fid, kid, is", NO_CLASSIFIER)
    if reader is None:
        return
    if "prompt" in told[0]:
        found.measurements += samples.prompt_agreement(made, real, reader)
    elif "label" in told[0]:
        labels = subject.info.labels
        found.measurements += samples.label_accuracy(made, told, labels, real, reader)
    found.measurements += samples.variety(made, real.factors, reader)


async def _translation(
    subject: Subject,
    real: HeldOut,
    compare: Features | None,
    reader: ReadsFactors | None,
    found: _Found,
) -> None:
    pairs = real.translations
    if pairs is None:
        found.without("translation", NO_PAIRS)
        return
    found.measurements += await restorations.translated(subject, pairs, compare, reader)


def _paths(
    subject: Subject,
    compare: Features | None,
    open_networks: Callable[[], OpenedModel] | None,
    found: _Found,
) -> None:
    if subject.info.family not in ("gan", "vae") or open_networks is None or compare is None:
        return
    if compare.described.file is not None:
        found.without(
            "perceptual_path_length", "a feature network of yours does not say which layers to use"
        )
        return
    subject.report("path lengths", 0, 1)
    found.measurements += latents.path_length(
        open_networks(),
        compare,
        labels=len(subject.info.labels),
        pairs=PATHS,
        seed=subject.seed,
    )
    subject.report("path lengths", 1, 1)


async def _codes(subject: Subject, real: HeldOut, found: _Found) -> None:
    if len(real.factors) < 2:
        return
    if len(real.images) < latents.LEAST_CODES:
        found.without("dci", f"takes {latents.LEAST_CODES} images or more (--samples)")
        return
    found.measurements += await latents.disentanglement(
        subject, real.images, real.factors, seed=subject.seed
    )
