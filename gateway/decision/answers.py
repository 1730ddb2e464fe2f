"""The answers to fronts, as bytes: a success with every identity field, or a denial that they pass on."""

from typing import Final

from gateway.core.requests.fronts import Front

REASON_STATUS_HEADER: Final = b"X-Gateway-Reason-Status"
"""The status of a denial's reason. Fronts that pass on few statuses can answer with it."""
REASON_CODE_HEADER: Final = b"X-Gateway-Reason-Code"
"""The code in the problem document, for fronts that do not pass the document on."""
_SUCCESS: Final = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n"
_FORBIDDEN: Final = b"HTTP/1.1 403 Forbidden"


def success(told: bytes, request_id: str, *, keep_alive: bool, modern: bool) -> bytes:
    """Return a 200. `told` are all identity fields; no other field may become one of the upstream's.

    `modern`: the front speaks HTTP/1.1, so that a connection is kept unless it is said otherwise.
    """
    ending = b"\r\n\r\n"
    if not keep_alive:
        ending = b"\r\nConnection: close\r\n\r\n"
    elif not modern:
        ending = b"\r\nConnection: keep-alive\r\n\r\n"
    return b"%b%bX-Request-Id: %b%b" % (_SUCCESS, told, request_id.encode("ascii"), ending)


def denial(front: Front | None, status: int, code: str, response: bytes) -> bytes:
    """Return the response of a denial for a front, with the status that it passes on.

    `front` is None if the question is not one of a front. `code` is that of the reason, as clients see it.
    """
    line, _, rest = response.partition(b"\r\n")
    if front is not None and front.denies_with is not None and status not in front.denies_with:
        line = _FORBIDDEN
    told = b"%b: %d\r\n%b: %b" % (REASON_STATUS_HEADER, status, REASON_CODE_HEADER, code.encode("ascii"))
    return b"%b\r\n%b\r\n%b" % (line, told, rest)
