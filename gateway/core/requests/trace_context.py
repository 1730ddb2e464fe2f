"""The trace that a request belongs to (W3C Trace Context).

https://www.w3.org/TR/trace-context-1/ has the format of `traceparent` in §3.2, and what becomes of one that
cannot be read in §4.3: it starts no trace, and `tracestate` counts only together with a good one.
"""

import re
from collections.abc import Iterable
from typing import Final, NamedTuple

from gateway.core.model import Header, Request

TRACEPARENT: Final = b"traceparent"
TRACESTATE: Final = b"tracestate"
_SAMPLED: Final = "13579bdf"
"""The last digit of the flags if the bit `sampled` is set (§3.2.2.5)."""
_LENGTH: Final = 55
# A later version may have more after a dash (§4.3). `ff` is no version.
_FORM: Final = re.compile(
    rb"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(?:-.*)?", re.DOTALL
)


class TraceParent(NamedTuple):
    """A trace, and the span in it that the caller made for this request."""

    trace_id: str
    """32 hex digits."""
    span_id: str
    """16 hex digits."""
    sampled: bool


def read(value: bytes) -> TraceParent | None:
    """Read a `traceparent`; None if it is not valid."""
    if _FORM.fullmatch(value) is None or (len(value) > _LENGTH and value.startswith(b"00")):
        return None
    text = value[:_LENGTH].decode("ascii")
    return TraceParent(text[3:35], text[36:52], text[54] in _SAMPLED)


def parent_of(headers: Iterable[Header]) -> TraceParent | None:
    """Return the parent that a request names; None if it names none, or several."""
    # Names of another length are passed over at the cost of a comparison.
    values = [value for name, value in headers if len(name) == 11 and name.lower() == TRACEPARENT]
    return read(values[0]) if len(values) == 1 else None


def trace_id_of(request: Request) -> str | None:
    """Return the id of a request's trace: that of its caller, or the one that began here; or None."""
    own: int | None = getattr(request, "trace", None)
    if own is not None:
        return f"{own:032x}"
    parent = parent_of(request.headers)
    return None if parent is None else parent.trace_id
