"""Methods of requests (RFC 9110 §9): which ones are forwarded where a route names none."""

from dataclasses import replace
from typing import Final

from gateway.core.model import Request
from gateway.core.reasons import REQUEST_MALFORMED, Denial

LLHTTP_METHODS: Final = frozenset(
    {
        *("ACL", "BIND", "CHECKOUT", "CONNECT", "COPY", "DELETE", "GET", "HEAD", "LINK", "LOCK", "M-SEARCH"),
        *("MERGE", "MKACTIVITY", "MKCALENDAR", "MKCOL", "MOVE", "NOTIFY", "OPTIONS", "PATCH", "POST", "PRI"),
        *("PROPFIND", "PROPPATCH", "PURGE", "PUT", "QUERY", "REBIND", "REPORT", "SEARCH", "SOURCE"),
        *("SUBSCRIBE", "TRACE", "UNBIND", "UNLINK", "UNLOCK", "UNSUBSCRIBE"),
    }
)
"""The methods that the parser knows. It is given another one in place of any other method."""
FORWARDED: Final = LLHTTP_METHODS - {"CONNECT", "PRI", "TRACE"}
"""What a route without `methods` takes. TRACE would send the fields of a request back, tokens included."""
COMMON: Final = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"})
"""What Allow names where a route takes any method."""
COUNTED: Final = frozenset({"OPTIONS", "TRACE"})
"""The methods for which Max-Forwards counts (RFC 9110 §7.6.2)."""
_MOST_DIGITS: Final = 9


def count_down(request: Request) -> Request | None:
    """Return a request of `COUNTED` as it is forwarded: one may forward it one time less.

    None: it must not be forwarded any more. Raises `Denial` `request_malformed`.
    """
    counts = [value.strip(b" \t") for name, value in request.headers if name.lower() == b"max-forwards"]
    if not counts:
        return request
    if len(counts) > 1 or not counts[0].isdigit() or len(counts[0]) > _MOST_DIGITS:
        raise Denial(REQUEST_MALFORMED, "Max-Forwards is no number (RFC 9110 §7.6.2)")
    count = int(counts[0])
    if count == 0:
        return None
    return replace(
        request,
        headers=tuple(
            (name, b"%d" % (count - 1) if name.lower() == b"max-forwards" else value)
            for name, value in request.headers
        ),
    )
