"""What the gateway knows of a trace: spans that begin, take attributes, have children and end."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final, Literal, Protocol, TypeAlias

from gateway.core.requests.trace_context import TraceParent

Value: TypeAlias = str | int | float | bool | tuple[str, ...]
Kind: TypeAlias = Literal["client", "internal"]
Attributes: TypeAlias = Mapping[str, Value]


class Span(Protocol):
    """A piece of work in a trace that is sampled."""

    @property
    def trace_id(self) -> str:
        """32 hex digits."""

    @property
    def traceparent(self) -> bytes:
        """The value of the header by which what is called continues the trace below this span."""

    @property
    def ended(self) -> bool: ...

    def child(self, name: str, kind: Kind, attributes: Attributes, started: int | None = None) -> "Span":
        """Begin a span below this one. `started`: when, in nanoseconds since 1970; None: now."""

    def rename(self, name: str) -> None: ...

    def describe(self, attributes: Attributes) -> None:
        """Add attributes."""

    def fail(self, error: str) -> None:
        """Mark it as failed. `error`: what becomes `error.type`, one of few values."""

    def end(self) -> None: ...


class Traces(Protocol):
    """Begins traces, or their parts in this gateway."""

    def begin(
        self, name: str, attributes: Attributes, parent: TraceParent | None, trace_id: int, state: bytes
    ) -> Span:
        """Begin the span of a request: below its parent, or in a trace of its own with this id.

        `state`: the parent's `tracestate`.
        """


CURRENT: Final[ContextVar[Span | None]] = ContextVar("current_span", default=None)
"""The span of the request that the current task works for, if that is sampled."""


@contextmanager
def inside(name: str, attributes: Attributes, kind: Kind = "internal") -> Iterator[None]:
    """Have the work in this context as a span below the current one; without one, do nothing.

    A task may outlive the request that caused it. What it does then belongs to no trace.
    """
    parent = CURRENT.get()
    if parent is None or parent.ended:
        yield
        return
    span = parent.child(name, kind, attributes)
    before = CURRENT.set(span)
    try:
        yield
    except BaseException as error:
        span.fail(type(error).__qualname__)
        raise
    finally:
        CURRENT.reset(before)
        span.end()
