"""Which trace stands behind a latency: the last traced request of each bucket of a histogram.

Prometheus asks for these as OpenMetrics. ``prometheus_client`` keeps none where processes share
their series by files, so they are kept here, of the process that is asked.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence

from prometheus_client import Metric
from prometheus_client.samples import Exemplar, Sample
from prometheus_client.utils import floatToGoString

_BUCKET, _BOUND = "_bucket", "le"


class Exemplars:
    """Those of one histogram; as many as it has buckets, so they are as bounded as its labels."""

    def __init__(self, name: str, labels: Sequence[str], buckets: Sequence[float]) -> None:
        """Begin with none.

        Args:
            name: of the histogram.
            labels: their names, in the order of `note`.
            buckets: the upper bounds, in seconds, ascending and without infinity.
        """
        self._name, self._labels = name, tuple(labels)
        self._bounds = (*buckets, float("inf"))
        self._found: dict[tuple[str, ...], Exemplar] = {}

    def note(self, values: Sequence[str], seconds: float, trace_id: str) -> None:
        """A request of that trace took so long."""
        bound = floatToGoString(self._bounds[bisect_left(self._bounds, seconds)])  # type: ignore[no-untyped-call]
        self._found[*values, bound] = Exemplar({"trace_id": trace_id}, seconds, time.time())

    def beside(self, metrics: Iterator[Metric]) -> Iterator[Metric]:
        """Metrics, with the exemplars at the buckets that they belong to."""
        for metric in metrics:
            if metric.name == self._name:
                metric.samples = [self._with_exemplar(sample) for sample in metric.samples]
            yield metric

    def _with_exemplar(self, sample: Sample) -> Sample:
        if not sample.name.endswith(_BUCKET):
            return sample
        return sample._replace(exemplar=self._found.get(self._key(sample.labels)))

    def _key(self, labels: Mapping[str, str]) -> tuple[str, ...]:
        return tuple(labels.get(name, "") for name in (*self._labels, _BOUND))
