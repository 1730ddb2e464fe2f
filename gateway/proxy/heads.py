"""The heads that the gateway writes, to upstreams and to clients, as bytes (RFC 9112 §3 and §4)."""

from gateway.core.credentials import subprotocol_answer
from gateway.core.headers import response_headers
from gateway.core.model import Admission
from gateway.proxy.request_parser import Incoming
from gateway.proxy.response_parser import ResponseHead


def request_head(admission: Admission, incoming: Incoming, host: bytes | None) -> bytes:
    """Return the request line and fields, with the framing of the body to come.

    `host` takes the place of the client's Host.
    """
    lines = [f"{admission.method} {admission.target} HTTP/1.1".encode("ascii")]
    for name, value in admission.headers:
        if host is not None and name.lower() == b"host":
            value = host
        lines.append(name + b": " + value)
    if incoming.length is not None:
        lines.append(b"Content-Length: %d" % incoming.length)
    elif incoming.chunked:
        lines.append(b"Transfer-Encoding: chunked")
    if admission.upgrade is not None:
        lines += [b"Connection: Upgrade", b"Upgrade: " + admission.upgrade]
    lines.append(b"\r\n")
    return b"\r\n".join(lines)


def response_head(head: ResponseHead, request_id: str, *, modern: bool, keep_alive: bool) -> bytes:
    """Return the final head for a client; `modern` ones read chunks as the upstream wrote them."""
    ours = [b"X-Request-Id: " + request_id.encode("ascii")]
    if head.chunked and modern:
        ours.append(b"Transfer-Encoding: chunked")
    if not keep_alive:
        ours.append(b"Connection: close")
    elif not modern:
        ours.append(b"Connection: keep-alive")
    return _head(head, ours)


def interim_head(head: ResponseHead) -> bytes:
    """Return a 1xx for a client (RFC 9110 §15.2)."""
    return _head(head, [])


def switch_head(head: ResponseHead, request_id: str, incoming: Incoming, admission: Admission) -> bytes:
    """Return a 101 for a client (RFC 9110 §7.8)."""
    ours = [b"X-Request-Id: " + request_id.encode("ascii"), b"Connection: Upgrade"]
    ours += [b"Upgrade: " + value for name, value in head.headers if name.lower() == b"upgrade"]
    if not any(name.lower() == b"sec-websocket-protocol" for name, _ in head.headers):
        accepted = subprotocol_answer(incoming.headers, admission.route.credentials)
        if accepted is not None:
            ours.append(b"Sec-WebSocket-Protocol: " + accepted)
    return _head(head, ours)


def _head(head: ResponseHead, ours: list[bytes]) -> bytes:
    lines = [b"HTTP/1.1 %d %b" % (head.status, head.reason)]
    lines += [name + b": " + value for name, value in response_headers(head.headers)]
    return b"\r\n".join([*lines, *ours, b"", b""])
