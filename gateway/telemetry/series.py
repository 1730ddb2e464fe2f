"""Counters, gauges and histograms with almost no cost per count.

One event loop counts without locks; a scrape takes a snapshot, which is plain data, so that the
snapshots of several processes can be added up and rendered as one (`expose`).
"""

import time
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple, TypeAlias

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST, choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar as Example

Labels: TypeAlias = tuple[str, ...]
Kind: TypeAlias = Literal["counter", "gauge", "histogram"]
Bucket: TypeAlias = tuple[str, float] | tuple[str, float, Example]
Together: TypeAlias = Literal["sum", "max", "min"]
"""How the values of a gauge in several processes are combined."""

SECONDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Upper bounds of the buckets of a duration, in seconds."""


class Counter:
    """Numbers that only increase, one for each set of label values, or that are read at each scrape."""

    __slots__ = ("_sources", "help", "labels", "name", "values")

    def __init__(self, name: str, text: str, labels: Sequence[str] = ()) -> None:
        self.name = name
        self.help = text
        self.labels = tuple(labels)
        self.values: defaultdict[Labels, float] = defaultdict(float)
        self._sources: dict[Labels, Callable[[], float]] = {}

    def inc(self, labels: Labels = (), by: float = 1.0) -> None:
        self.values[labels] += by

    def read(self, labels: Labels, source: Callable[[], float]) -> None:
        """Read the value from `source` at each scrape."""
        self._sources[labels] = source

    def snapshot(self) -> "Snapshot":
        values = {**self.values, **{labels: source() for labels, source in self._sources.items()}}
        return Snapshot(self.name, "counter", self.help, self.labels, [(k, [v]) for k, v in values.items()])


class Gauge:
    """Numbers that go up and down, or that are read at each scrape."""

    __slots__ = ("_sources", "_together", "help", "labels", "name", "values")

    def __init__(self, name: str, text: str, labels: Sequence[str] = (), together: Together = "sum") -> None:
        self.name = name
        self.help = text
        self.labels = tuple(labels)
        self.values: defaultdict[Labels, float] = defaultdict(float)
        self._sources: dict[Labels, Callable[[], float]] = {}
        self._together: Together = together

    def inc(self, labels: Labels = (), by: float = 1.0) -> None:
        self.values[labels] += by

    def read(self, labels: Labels, source: Callable[[], float]) -> None:
        """Read the value from `source` at each scrape."""
        self._sources[labels] = source

    def also(self, labels: Labels, source: Callable[[], float]) -> None:
        """Read the value from `source` too, and add it to that of the earlier sources."""
        before = self._sources.get(labels)
        self._sources[labels] = source if before is None else lambda: before() + source()

    def snapshot(self) -> "Snapshot":
        values = {**self.values, **{labels: source() for labels, source in self._sources.items()}}
        points = [(k, [v]) for k, v in values.items()]
        return Snapshot(self.name, "gauge", self.help, self.labels, points, self._together)


class Exemplar(NamedTuple):
    """A trace that is an example of the observations in a bucket."""

    labels: Labels
    bucket: int
    trace_id: str
    value: float
    at: float
    """In Unix seconds."""


class Histogram:
    """The number of observations below each bound, their sum, and the latest traced one in each bucket."""

    __slots__ = ("_exemplars", "bounds", "help", "labels", "name", "values")

    def __init__(
        self, name: str, text: str, labels: Sequence[str] = (), bounds: Sequence[float] = SECONDS
    ) -> None:
        self.name = name
        self.help = text
        self.labels = tuple(labels)
        self.bounds = tuple(bounds)
        self.values: dict[Labels, list[float]] = {}
        self._exemplars: dict[tuple[Labels, int], Exemplar] = {}

    def observe(self, labels: Labels, value: float) -> None:
        counts = self.values.get(labels)
        if counts is None:
            # One count for each bound, one above all bounds, and the sum.
            counts = self.values[labels] = [0.0] * (len(self.bounds) + 2)
        counts[bisect_left(self.bounds, value)] += 1
        counts[-1] += value

    def exemplify(self, labels: Labels, value: float, trace_id: str) -> None:
        """Keep the trace of an observation as the example of its bucket."""
        bucket = bisect_left(self.bounds, value)
        self._exemplars[labels, bucket] = Exemplar(labels, bucket, trace_id, value, time.time())

    def snapshot(self) -> "Snapshot":
        points = [(k, list(v)) for k, v in self.values.items()]
        return Snapshot(
            self.name,
            "histogram",
            self.help,
            self.labels,
            points,
            bounds=self.bounds,
            exemplars=tuple(self._exemplars.values()),
        )


@dataclass(slots=True)
class Traffic:
    """Bytes of bodies that passed in each direction: plain numbers, because every piece of a body counts."""

    received: int = 0
    """From clients, sent to an upstream."""
    sent: int = 0
    """From an upstream, sent to clients."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One metric of one process at one moment."""

    name: str
    kind: Kind
    help: str
    labels: Labels
    points: list[tuple[Labels, list[float]]]
    together: Together = "sum"
    bounds: tuple[float, ...] = ()
    exemplars: tuple[Exemplar, ...] = ()


def add_up(processes: Iterable[Sequence[Snapshot]]) -> list[Snapshot]:
    """Combine the snapshots of several processes into those of one."""
    combined: dict[str, Snapshot] = {}
    for snapshot in (each for process in processes for each in process):
        before = combined.get(snapshot.name)
        combined[snapshot.name] = snapshot if before is None else _combine(before, snapshot)
    return list(combined.values())


def _combine(one: Snapshot, other: Snapshot) -> Snapshot:
    points = {tuple(labels): list(values) for labels, values in one.points}
    for labels, values in other.points:
        before = points.get(tuple(labels))
        points[tuple(labels)] = (
            list(values)
            if before is None
            else [_together(one.together, a, b) for a, b in zip(before, values, strict=True)]
        )
    latest = {(each.labels, each.bucket): each for each in one.exemplars}
    for each in other.exemplars:
        known = latest.get((each.labels, each.bucket))
        if known is None or known.at < each.at:
            latest[each.labels, each.bucket] = each
    return Snapshot(
        one.name,
        one.kind,
        one.help,
        one.labels,
        list(points.items()),
        one.together,
        tuple(one.bounds),
        tuple(latest.values()),
    )


def _together(how: Together, one: float, other: float) -> float:
    if how == "sum":
        return one + other
    # NaN, the only value that differs from itself, means that a process has no value. The other's counts.
    known = [value for value in (one, other) if value == value]
    if not known:
        return one
    return max(known) if how == "max" else min(known)


def expose(snapshots: Iterable[Snapshot]) -> bytes:
    """Render snapshots in Prometheus' text format."""
    registry = CollectorRegistry()
    registry.register(_Snapshots(snapshots))
    return generate_latest(registry)


def expose_as(snapshots: Iterable[Snapshot], accept: str) -> tuple[bytes, str]:
    """Render snapshots in the format that a scraper accepts; return its content type, too.

    Only OpenMetrics has exemplars. `accept`: the field of the request.
    """
    encode, content_type = choose_encoder(accept)
    if not content_type.startswith("application/openmetrics-text"):
        return expose(snapshots), CONTENT_TYPE_LATEST
    registry = CollectorRegistry()
    registry.register(_Snapshots(snapshots))
    return encode(registry), content_type


class _Snapshots(Collector):
    def __init__(self, snapshots: Iterable[Snapshot]) -> None:
        self._snapshots = list(snapshots)

    def collect(self) -> Iterator[Metric]:
        for snapshot in self._snapshots:
            yield _family(snapshot)


def _family(snapshot: Snapshot) -> Metric:
    name, text, labels = snapshot.name, snapshot.help, list(snapshot.labels)
    if snapshot.kind == "histogram":
        histogram = HistogramMetricFamily(name, text, labels=labels)
        examples = {(each.labels, each.bucket): each for each in snapshot.exemplars}
        for values, numbers in snapshot.points:
            buckets: list[Bucket] = []
            for bucket, (bound, count) in enumerate(_cumulated(snapshot.bounds, numbers)):
                found = examples.get((values, bucket))
                buckets.append((bound, count) if found is None else (bound, count, _example(found)))
            histogram.add_metric(values, buckets, numbers[-1])
        return histogram
    family = (CounterMetricFamily if snapshot.kind == "counter" else GaugeMetricFamily)(
        name, text, labels=labels
    )
    for values, numbers in snapshot.points:
        family.add_metric(values, numbers[0])
    return family


def _example(exemplar: Exemplar) -> Example:
    return Example({"trace_id": exemplar.trace_id}, exemplar.value, exemplar.at)


def _cumulated(bounds: Sequence[float], numbers: Sequence[float]) -> list[tuple[str, float]]:
    buckets: list[tuple[str, float]] = []
    total = 0.0
    for bound, count in zip([*map(str, bounds), "+Inf"], numbers, strict=False):
        total += count
        buckets.append((bound, total))
    return buckets
