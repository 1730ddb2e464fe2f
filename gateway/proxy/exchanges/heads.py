"""The rarer heads that the gateway writes to clients, as bytes (RFC 9112 §4); `exchange` has the others."""

from dataclasses import replace

from gateway.core.admission import Admission
from gateway.core.model import Cors, Header
from gateway.core.requests.cors import response_fields
from gateway.core.requests.credentials import subprotocol_answer
from gateway.proxy.downstream.incoming import AnyRequest
from gateway.proxy.errors import date_line
from gateway.proxy.upstream.parser import ResponseHead


def readable(head: ResponseHead, cors: Cors, headers: tuple[Header, ...]) -> ResponseHead:
    """Return a head that says which pages of other origins may read it. `headers` are the request's."""
    return replace(head, fields=response_fields(cors, headers, head.headers))


def preflight_answer(fields: bytes, request_id: str, *, modern: bool, keep_alive: bool) -> bytes:
    """Return the answer to a CORS preflight, or to a last OPTIONS, with these fields."""
    ending = b"Connection: close\r\n" if not keep_alive else b"" if modern else b"Connection: keep-alive\r\n"
    return b"HTTP/1.1 204 No Content\r\n%b%bX-Request-Id: %b\r\n%b\r\n" % (
        fields, date_line().encode("ascii"), request_id.encode("ascii"), ending
    )  # fmt: skip


def interim_head(head: ResponseHead) -> bytes:
    """Return a 1xx for a client (RFC 9110 §15.2)."""
    return b"HTTP/1.1 %d %b\r\n%b\r\n" % (head.status, head.reason, head.fields)


def switch_head(head: ResponseHead, request_id: str, incoming: AnyRequest, admission: Admission) -> bytes:
    """Return a 101 for a client (RFC 9110 §7.8)."""
    lines = [b"X-Request-Id: " + request_id.encode("ascii"), b"Connection: Upgrade"]
    lines += [b"Upgrade: " + value for name, value in head.headers if name.lower() == b"upgrade"]
    if not any(name.lower() == b"sec-websocket-protocol" for name, _ in head.headers):
        accepted = subprotocol_answer(incoming.headers, admission.forwarding.route.credentials)
        if accepted is not None:
            lines.append(b"Sec-WebSocket-Protocol: " + accepted)
    ours = b"\r\n".join([*lines, b"", b""])
    return b"HTTP/1.1 %d %b\r\n%b%b" % (head.status, head.reason, head.fields, ours)
