"""The history of the counters: what grew, minute by minute, bounded, and across restarts of a worker."""

from gateway.telemetry.history import Counts, History, Span, joined, pack, unpack
from gateway.telemetry.metrics import Metrics
from gateway.workers.messages import Message, decode, encode
from tests.fakes import Clock


def counts(requests: int, denials: int = 0) -> Counts:
    return Counts({"2xx": requests}, {"user_not_found": denials}, {"local": requests}, [requests, 0])


def test_counts_are_read_from_the_metrics_of_all_labels() -> None:
    metrics = Metrics()
    metrics.finished("orders", "GET", 200, 0.001)
    metrics.finished("carts", "POST", 204, 0.001)
    metrics.finished("carts", "POST", 503, 40.0)
    metrics.limit_hits.inc(("few", "denied"), by=3)
    metrics.limit_hits.inc(("few", "allowed"), by=9)
    metrics.limit_hits.inc(("tried", "shadow"), by=2)

    found = Counts.of(metrics.snapshot())

    assert found is not None
    assert found.requests == {"2xx": 2, "5xx": 1}
    assert (sum(found.latency), found.latency[-1]) == (3, 1)
    assert (found.limited, found.overlooked) == ({"few": 3}, {"tried": 2})
    assert found.since(found).plus(found).limited == {"few": 3}
    assert Counts.of([]) is None


def test_a_span_has_only_its_own_counts() -> None:
    clock = Clock(1_700_000_000.0)
    history = History(clock)
    for requests, denials in ((10, 1), (70, 1), (80, 3)):
        history.add(counts(requests, denials))
        clock.now += 60
    first, second = history.latest(10)
    assert (first.seconds, first.counts.requests, first.counts.denials) == (60, {"2xx": 60}, {})
    assert (second.counts.requests, second.counts.denials) == ({"2xx": 10}, {"user_not_found": 2})
    assert first.counts.latency == [60, 0]


def test_a_counter_that_fell_began_again() -> None:
    clock = Clock(1_700_000_000.0)
    history = History(clock)
    history.add(counts(100))
    clock.now += 60
    history.add(counts(7))
    assert history.latest(1)[0].counts.requests == {"2xx": 7}


def test_the_oldest_spans_are_dropped_first_and_only_recent_ones_are_returned() -> None:
    clock = Clock(1_700_000_000.0)
    history = History(clock, size=3)
    for number in range(6):
        clock.now += 60
        history.add(counts(number))
    assert len(history.latest(60)) == 3
    assert [span.at for span in history.latest(2)] == [clock.now - 60, clock.now]


def test_a_clock_that_is_set_back_and_a_silent_moment_make_no_span() -> None:
    clock = Clock(1_700_000_000.0)
    history = History(clock)
    history.add(counts(1))
    history.add(None)
    clock.now -= 3600
    history.add(counts(2))
    assert history.latest(60) == []
    clock.now += 60
    history.add(counts(5))
    assert [(span.seconds, span.counts.requests) for span in history.latest(60)] == [(60, {"2xx": 4})]


def test_spans_are_joined_by_multiples_of_a_time() -> None:
    spans = [Span(at, 60, counts(1, 1)) for at in (540.0, 600.0, 660.0, 1200.0)]
    assert [(span.at, span.seconds, span.counts.requests["2xx"]) for span in joined(spans, 600)] == [
        (540.0, 60, 1),
        (660.0, 120, 2),
        (1200.0, 60, 1),
    ]
    assert [*joined([], 60)] == []


def test_spans_are_unpacked_unchanged() -> None:
    spans = [Span(1.5, 60.0, counts(3, 2))]
    assert unpack(decode(encode(Message("answer", pack(spans)))).body) == spans
