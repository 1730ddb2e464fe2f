"""Work inside a request that is sampled is a part of its trace; all other work is none."""

import asyncio
from collections.abc import Iterator
from contextvars import copy_context
from dataclasses import dataclass, field

import pytest

from gateway.issuer_keys.fetch import Fetcher, NotFound
from gateway.telemetry.tracing.span import CURRENT, Attributes, Kind, Span, inside
from tests.issuer_keys.issuer import Answer, serving


@dataclass
class Kept:
    """A `Span` that keeps what happens to it."""

    name: str
    kind: str = "server"
    attributes: dict[str, object] = field(default_factory=dict)
    children: "list[Kept]" = field(default_factory=list)
    failure: str | None = None
    ended: bool = False
    trace_id: str = "ab" * 16
    traceparent: bytes = b""
    started: int | None = None

    def child(self, name: str, kind: Kind, attributes: Attributes, started: int | None = None) -> Span:
        made = Kept(name, kind, dict(attributes), started=started)
        self.children.append(made)
        return made

    def rename(self, name: str) -> None:
        self.name = name

    def describe(self, attributes: Attributes) -> None:
        self.attributes |= attributes

    def fail(self, error: str) -> None:
        self.failure = error

    def end(self) -> None:
        self.ended = True


@pytest.fixture
def request_span() -> Iterator[Kept]:
    span = Kept("GET")
    before = CURRENT.set(span)
    yield span
    CURRENT.reset(before)


def test_work_is_below_what_caused_it(request_span: Kept) -> None:
    with inside("outer", {"a": 1}), inside("inner", {}, "client"):
        pass
    (outer,) = request_span.children
    (inner,) = outer.children
    assert (outer.name, outer.kind, outer.attributes, outer.ended) == ("outer", "internal", {"a": 1}, True)
    assert (inner.name, inner.kind, inner.ended) == ("inner", "client", True)
    assert CURRENT.get() is request_span


@pytest.mark.parametrize("error", [ValueError, asyncio.CancelledError])
def test_work_that_fails_says_how(request_span: Kept, error: type[BaseException]) -> None:
    with pytest.raises(error), inside("work", {}):
        raise error
    (work,) = request_span.children
    assert (work.failure, work.ended) == (error.__name__, True)


def test_work_that_outlives_its_request_is_no_part_of_it(request_span: Kept) -> None:
    request_span.end()
    with inside("late", {}):
        assert CURRENT.get() is request_span
    assert request_span.children == []


def test_work_for_nothing_that_is_sampled_has_no_span() -> None:
    def work() -> None:
        with inside("work", {}):
            assert CURRENT.get() is None

    copy_context().run(work)


async def test_a_call_to_an_issuer_is_a_part_without_its_query() -> None:
    span = Kept("GET")
    CURRENT.set(span)  # the test has a context of its own
    async with serving() as issuer, Fetcher() as fetcher:
        issuer.answers["/jwks"] = Answer(b"{}")
        await fetcher.get(f"{issuer.url}/jwks?secret=1")
        with pytest.raises(NotFound):
            await fetcher.get(f"{issuer.url}/nowhere")
        good, bad = span.children
        assert (good.kind, good.attributes["url.full"]) == ("client", f"{issuer.url}/jwks")
        assert (good.failure, bad.failure) == (None, "NotFound")
