"""The last hours of the main counters, minute by minute, for charts that have a past when one opens them.

It reads what is counted anyway, once a minute, off the way of requests. `gateway.workers.scatter_gather`
keeps the history of several processes, so that it outlasts each of them; a process alone keeps its own.
"""

import asyncio
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, field
from typing import Any, Final

from gateway.telemetry.series import Snapshot

SECONDS: Final = 60.0
"""How long one entry lasts."""
MINUTES: Final = 24 * 60
"""The number of entries that are kept."""


def sums(snapshot: Snapshot, label: str, *, shorten: bool = False) -> dict[str, int]:
    """Add up the values of a metric by one label. With `shorten`, a status counts as its class."""
    place = snapshot.labels.index(label)
    found: defaultdict[str, float] = defaultdict(float)
    for labels, values in snapshot.points:
        found[f"{labels[place][0]}xx" if shorten else labels[place]] += values[0]
    return {name: round(value) for name, value in found.items()}


def buckets(snapshot: Snapshot) -> tuple[list[int], float]:
    """Return the observations in each bucket of a histogram, whatever their labels, and their sum."""
    columns = [sum(numbers) for numbers in zip(*(values for _, values in snapshot.points), strict=True)]
    columns = columns or [0.0] * (len(snapshot.bounds) + 2)
    return [round(count) for count in columns[:-1]], columns[-1]


def over_limits(snapshot: Snapshot, result: str) -> dict[str, int]:
    """Return `gateway_limit_hits` of one result, by the name of the limit."""
    return {labels[0]: round(values[0]) for labels, values in snapshot.points if labels[1] == result}


@dataclass(frozen=True, slots=True)
class Counts:
    """What was counted: since the start, or within some time."""

    requests: Mapping[str, int]
    """By class of status, such as `2xx`."""
    denials: Mapping[str, int]
    """By reason."""
    lookups: Mapping[str, int]
    """By the tier that answered."""
    latency: Sequence[int]
    """Requests by duration: one count for each bucket of `gateway_request_duration_seconds`."""
    limited: Mapping[str, int] = field(default_factory=dict)
    """Requests that were over a limit, by its name, and refused."""
    overlooked: Mapping[str, int] = field(default_factory=dict)
    """Requests that were over a limit, by its name, and passed, because something was in shadow."""

    @classmethod
    def of(cls, snapshots: Iterable[Snapshot]) -> "Counts | None":
        """Read the metrics of a gateway; None if they are not there yet."""
        by_name = {snapshot.name: snapshot for snapshot in snapshots}
        try:
            return cls(
                sums(by_name["gateway_requests"], "status", shorten=True),
                sums(by_name["gateway_denials"], "reason"),
                sums(by_name["gateway_user_lookups"], "tier"),
                buckets(by_name["gateway_request_duration_seconds"])[0],
                over_limits(by_name["gateway_limit_hits"], "denied"),
                over_limits(by_name["gateway_limit_hits"], "shadow"),
            )
        except KeyError:
            return None

    def since(self, before: "Counts") -> "Counts":
        """Return what has been counted since another moment. What fell began again."""
        return Counts(
            _growth(before.requests, self.requests),
            _growth(before.denials, self.denials),
            _growth(before.lookups, self.lookups),
            [
                _grown(one, other)
                for one, other in zip(
                    [*before.latency, *[0] * (len(self.latency) - len(before.latency))],
                    self.latency,
                    strict=False,
                )
            ],
            _growth(before.limited, self.limited),
            _growth(before.overlooked, self.overlooked),
        )

    def plus(self, other: "Counts") -> "Counts":
        """Return what was counted in both times."""
        return Counts(
            _total(self.requests, other.requests),
            _total(self.denials, other.denials),
            _total(self.lookups, other.lookups),
            [one + another for one, another in zip(self.latency, other.latency, strict=False)],
            _total(self.limited, other.limited),
            _total(self.overlooked, other.overlooked),
        )


@dataclass(frozen=True, slots=True)
class Span:
    """What was counted in some time."""

    at: float
    """Its end, in Unix seconds."""
    seconds: float
    """How long it lasted."""
    counts: Counts


class History:
    """The latest spans, of about a minute each. `clock` returns Unix seconds."""

    def __init__(self, clock: Callable[[], float] = time.time, size: int = MINUTES) -> None:
        self._clock = clock
        self._spans: deque[Span] = deque(maxlen=size)
        self._before: tuple[float, Counts] | None = None

    def add(self, counts: Counts | None) -> None:
        """Note what has been counted since the start. None: it is not known at this moment."""
        if counts is None:
            return
        now = self._clock()
        if self._before is not None:
            at, before = self._before
            if now <= at:
                # The clock was set back: the next span begins now.
                self._before = (now, before)
                return
            self._spans.append(Span(now, now - at, counts.since(before)))
        self._before = (now, counts)

    def latest(self, minutes: int) -> list[Span]:
        """Return the spans of the latest minutes, oldest first."""
        oldest = self._clock() - minutes * SECONDS
        return [span for span in self._spans if span.at > oldest]


class Recorder:
    """Keeps the history of a process that is alone. `counted` returns its metrics."""

    def __init__(self, counted: Callable[[], Sequence[Snapshot]], history: History | None = None) -> None:
        self._counted = counted
        self.history = history or History()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin; the first minute ends in a minute."""
        self._task = asyncio.create_task(self._record())

    async def latest(self, minutes: int) -> list[Span]:
        """Return the spans of the latest minutes, oldest first."""
        return self.history.latest(minutes)

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _record(self) -> None:
        while True:
            self.history.add(Counts.of(self._counted()))
            await asyncio.sleep(SECONDS)


def joined(spans: Iterable[Span], seconds: float) -> Iterator[Span]:
    """Join the spans that end within the same multiple of `seconds`, oldest first."""
    current: Span | None = None
    for span in spans:
        if current is not None and span.at // seconds == current.at // seconds:
            current = Span(span.at, current.seconds + span.seconds, current.counts.plus(span.counts))
        else:
            if current is not None:
                yield current
            current = span
    if current is not None:
        yield current


def pack(spans: Iterable[Span]) -> list[list[object]]:
    """Return spans as JSON values."""
    return [[span.at, span.seconds, *astuple(span.counts)] for span in spans]


def unpack(rows: Iterable[Sequence[Any]]) -> list[Span]:
    """Return the spans that `pack` was given."""
    return [Span(at, seconds, Counts(*counts)) for at, seconds, *counts in rows]


def _growth(before: Mapping[str, int], after: Mapping[str, int]) -> dict[str, int]:
    grown = ((name, _grown(before.get(name, 0), value)) for name, value in after.items())
    return {name: value for name, value in grown if value}


def _grown(before: int, after: int) -> int:
    return after if after < before else after - before


def _total(one: Mapping[str, int], other: Mapping[str, int]) -> dict[str, int]:
    return {name: one.get(name, 0) + other.get(name, 0) for name in {**one, **other}}
