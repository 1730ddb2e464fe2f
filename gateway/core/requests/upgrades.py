"""Upgrades: which requests may switch to another protocol (RFC 9110 §7.8)."""

import re
from collections.abc import Iterable
from typing import Final

from gateway.core.model import Header, Request

_PROTOCOL: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+(?:/[!#$%&'*+\-.^_`|~0-9A-Za-z]+)?")
# A tunnel of one of these, or of a draft of it, would carry unchecked requests (RFC 2817, RFC 7540 §3.2).
_CARRIES_REQUESTS: Final = re.compile(r"(?:h[0-9]+c?|https?|spdy|tls)(?:[/-].*)?")


def requested(request: Request, allowed: frozenset[str]) -> bytes | None:
    """Return the protocol to switch to, as the client wrote it. `allowed` is in lower case; `*`: any.

    None if none is requested, or if it is not allowed: then the request is forwarded without the upgrade. A
    protocol that carries requests itself, such as h2c, is never allowed.
    """
    if not (request.may_upgrade and allowed and request.method == "GET"):
        return None
    named = offered(request.headers)
    if named is None:
        return None
    protocol = named.decode("ascii").lower()
    if carries_requests(protocol) or not (protocol in allowed or "*" in allowed):
        return None
    return named


def carries_requests(protocol: str) -> bool:
    """Return whether a tunnel of this protocol, in lower case, would carry unchecked requests."""
    return _CARRIES_REQUESTS.fullmatch(protocol) is not None


def offered(headers: Iterable[Header]) -> bytes | None:
    """Return the one protocol in Upgrade, if Connection names Upgrade."""
    protocols: list[bytes] = []
    connection = False
    for name, value in headers:
        lower = name.lower()
        if lower == b"upgrade":
            protocols.append(value.strip(b" \t"))
        elif lower == b"connection":
            options = value.lower().split(b",")
            connection = connection or any(option.strip(b" \t") == b"upgrade" for option in options)
    if not connection or len(protocols) != 1 or _PROTOCOL.fullmatch(protocols[0]) is None:
        return None
    return protocols[0]
