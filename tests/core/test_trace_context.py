"""W3C Trace Context: which `traceparent` counts."""

import pytest

from gateway.core.model import Header, Request
from gateway.core.requests.trace_context import TraceParent, parent_of, read, trace_id_of

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
GOOD = f"00-{TRACE}-{SPAN}-01".encode()


@pytest.mark.parametrize(
    ("value", "sampled"),
    [
        (GOOD, True),
        (GOOD[:-2] + b"00", False),
        (GOOD[:-2] + b"03", True),
        (GOOD[:-2] + b"02", False),
        (b"01" + GOOD[2:], True),
        (b"cc" + GOOD[2:] + b"-what-comes-later", True),
        (b"cc" + GOOD[2:] + b"-", True),
    ],
)
def test_a_good_one_is_read(value: bytes, *, sampled: bool) -> None:
    assert read(value) == TraceParent(TRACE, SPAN, sampled)


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"ff" + GOOD[2:],
        GOOD + b"-more",
        GOOD + b"-",
        b"cc" + GOOD[2:] + b".more",
        GOOD.upper(),
        GOOD[:-1],
        b" " + GOOD,
        GOOD + b"\n",
        GOOD.replace(TRACE.encode(), b"0" * 32),
        GOOD.replace(SPAN.encode(), b"0" * 16),
        GOOD.replace(b"4bf9", b"4bg9"),
        GOOD.replace(b"-", b"_"),
        GOOD + b", " + GOOD,
    ],
)
def test_an_invalid_traceparent_is_none(value: bytes) -> None:
    assert read(value) is None


@pytest.mark.parametrize(
    ("headers", "found"),
    [
        ((), False),
        (((b"traceparent", GOOD),), True),
        (((b"TraceParent", GOOD),), True),
        (((b"x-traceparent", GOOD),), False),
        (((b"traceparent", GOOD), (b"Traceparent", GOOD)), False),
        (((b"content-type", GOOD), (b"traceparenT", GOOD)), True),
    ],
)
def test_the_parent_is_the_only_one(headers: tuple[Header, ...], *, found: bool) -> None:
    assert (parent_of(headers) is not None) is found


def test_a_trace_that_began_here_counts_before_the_header() -> None:
    request = Request("GET", "/", ((b"traceparent", GOOD),), "192.0.2.1", "http", "the-id")
    assert trace_id_of(request) == TRACE
    request.trace = 0xAB
    assert trace_id_of(request) == "0" * 30 + "ab"
    assert trace_id_of(Request("GET", "/", (), "", "http", "the-id")) is None
