"""The built-in policy `classifier`: a model of the store looks at every image.

It stands here and not with the other policies because it needs onnxruntime and the model store,
which the gateway's own code is free of. It runs beside the gateway on a thread of its own, off the
event loop and off the engines' devices, so that images of pools on other machines are judged before
they leave as well, and a busy GPU does not wait for it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from types import MappingProxyType

import numpy as np
import torch
from numpy.typing import NDArray

from model_store.manifest import Manifest
from model_store.networks.onnx_graph import OnnxGraph
from model_store.reading import StoredFiles
from model_store.shared_weights import checked_graph
from model_store.signing import trusted_keys
from model_store.store import CATALOG, CLASSIFIERS, Store, default_root
from services.core.errors import InvalidParameter
from services.core.images import Pixels, resized
from services.policies.interface import ALLOWED, Action, Asked, Decision, ImagePolicy, strictest
from services.policies.loading import BUILT_IN, Factory

FAMILY = "classifier"
REASON = "an image shows what this service does not give out unseen"
_CPU = torch.device("cpu")
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
"""ITU-R BT.601, by which `services.core.images` makes grey of colour as well."""


@dataclass(frozen=True, slots=True)
class _Threshold:
    """From which probability of a label on which decision is taken."""

    head: int
    label: int
    least: float
    action: Action


class Classifier(ImagePolicy):
    """Decides by the probabilities that a classifier gives to its labels.

    The model is one of family ``classifier`` with one ONNX network, whose outputs are logits; its
    option ``labels`` names them: a list for a graph of one output, or a list for each output by its
    name. With the option ``scores: sigmoid`` labels do not exclude each other.
    """

    def __init__(
        self,
        *,
        store: Store,
        model: str,
        hold: Mapping[str, float] | None = None,
        refuse: Mapping[str, float] | None = None,
        threads: int = 1,
    ) -> None:
        """Verify and open the model now, so that a service without it does not start.

        Args:
            store: where the model is.
            model: its name.
            hold: by label (``star``, or ``shape/star`` where two outputs have it): the probability
                in (0, 1] from which on an image is held.
            refuse: likewise, from which on it is refused.
            threads: of onnxruntime.

        Raises:
            ModelError, ModelNotFound: the model cannot be used.
            InvalidParameter: a label or threshold cannot be.
        """
        manifest = store.get(model)
        if manifest.family != FAMILY or len(manifest.networks) != 1:
            raise InvalidParameter(f"'{model}' is no model of family '{FAMILY}' with one network")
        (network,) = manifest.networks.values()
        if network.onnx is None:
            raise InvalidParameter(f"'{model}' has no ONNX network")
        data = checked_graph(network, StoredFiles(store, model), store.limits).data()
        self._manifest = manifest
        self._graph = OnnxGraph(data, name=model, device=_CPU, threads=threads)
        labels = _labels(manifest, self._graph.outputs)
        self._thresholds = (
            *_thresholds(labels, refuse or {}, Action.REFUSE),
            *_thresholds(labels, hold or {}, Action.HOLD),
        )
        if not self._thresholds:
            raise InvalidParameter("give labels and probabilities under 'hold' or 'refuse'")

    def judge(self, image: Pixels, asked: Asked) -> Decision:  # noqa: ARG002 - `ImagePolicy`'s
        """See `ImagePolicy.judge`."""
        scores = self.scores(image)
        found = [
            Decision(threshold.action, REASON)
            for threshold in self._thresholds
            if not scores[threshold.head][threshold.label] < threshold.least  # also for NaN
        ]
        return strictest(found) if found else ALLOWED

    def scores(self, image: Pixels) -> list[NDArray[np.float32]]:
        """The probability of each label, by output.

        Args:
            image: uint8 ``[3, height, width]`` of any size.
        """
        manifest = self._manifest
        fitted = image if image.shape[1:] == manifest.resolution else _fitted(image, manifest)
        pixels = fitted.astype(np.float32)
        if manifest.channels == 1:
            pixels = np.tensordot(_LUMA, pixels, axes=1)[None]
        low, high = manifest.pixel_range
        row = torch.from_numpy(pixels) * ((high - low) / 255) + low
        outputs = self._graph.run({self._graph.inputs[0].name: row[None]})
        by_label = manifest.options.get("scores") == "sigmoid"
        return [
            (torch.sigmoid(logits) if by_label else torch.softmax(logits, dim=1))[0].numpy()
            for logits in outputs
        ]


def _fitted(image: Pixels, manifest: Manifest) -> Pixels:
    return resized(image, manifest.resolution)


def _labels(manifest: Manifest, outputs: Sequence[str]) -> list[tuple[str, list[str]]]:
    """The labels of each output of the graph, in the graph's order."""
    said = manifest.options.get("labels")
    by_output = {outputs[0]: said} if isinstance(said, list) and len(outputs) == 1 else said
    if not isinstance(by_output, dict) or set(by_output) != set(outputs):
        raise InvalidParameter(
            f"the option 'labels' of '{manifest.id}' must name the labels of each output of its "
            f"network: {', '.join(outputs)}"
        )
    return [(name, [str(label) for label in by_output[name]]) for name in outputs]  # type: ignore[union-attr]  # lists, or the test below fails


def _thresholds(
    labels: Sequence[tuple[str, Sequence[str]]], least: Mapping[str, float], action: Action
) -> list[_Threshold]:
    found = []
    for name, probability in least.items():
        places = [
            (head, place)
            for head, (output, own) in enumerate(labels)
            for place, label in enumerate(own)
            if name in (label, f"{output}/{label}")
        ]
        if len(places) != 1:
            known = ", ".join(chain.from_iterable(own for _, own in labels))
            raise InvalidParameter(f"'{name}' is not one label of the model; it has {known}")
        if not 0 < probability <= 1:
            raise InvalidParameter(f"the probability of '{name}' is in (0, 1], not {probability}")
        found.append(_Threshold(*places[0], probability, action))
    return found


def policy_factories(root: str | None) -> Mapping[str, Factory]:
    """Every built-in policy: those of words, and those that need a model of the store.

    Args:
        root: of the user's models; the default store when absent.
    """
    store = Store(
        root or default_root(os.environ), catalogs=(CLASSIFIERS, CATALOG), trust=trusted_keys()
    )
    return MappingProxyType({**BUILT_IN, FAMILY: partial(Classifier, store=store)})
