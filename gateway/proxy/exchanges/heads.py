"""The heads that the gateway writes, to upstreams and to clients, as bytes (RFC 9112 §3 and §4)."""

from dataclasses import replace

from gateway.core.admission import Admission
from gateway.core.model import Cors, Header
from gateway.core.requests.cors import response_fields
from gateway.core.requests.credentials import subprotocol_answer
from gateway.proxy.downstream.incoming import AnyRequest
from gateway.proxy.errors import date_line
from gateway.proxy.upstream.parser import ResponseHead


def request_head(admission: Admission, incoming: AnyRequest, host: bytes | None, request_id: str) -> bytes:
    """Return the request line and fields, with the framing of the body to come.

    `host` replaces the client's Host.
    """
    forwarding, framing = admission.forwarding, b""
    if incoming.length is not None:
        framing = b"Content-Length: %d\r\n" % incoming.length
    elif incoming.chunked:
        framing = b"Transfer-Encoding: chunked\r\n"
    if forwarding.upgrade is not None:
        # A request for an upgrade has no body, and may have `Content-Length: 0`.
        framing += b"Connection: Upgrade\r\nUpgrade: %b\r\n" % forwarding.upgrade
    return b"%b\r\nHost: %b\r\n%b%bX-Request-Id: %b\r\n%b\r\n" % (
        forwarding.line, host or forwarding.host, forwarding.fields, admission.fields,
        request_id.encode("ascii"), framing,
    )  # fmt: skip


def response_head(head: ResponseHead, request_id: str, *, modern: bool, keep_alive: bool) -> bytes:
    """Return the final head for a client. `modern` clients read chunks as the upstream wrote them."""
    ending = b""
    if head.chunked and modern:
        ending = b"Transfer-Encoding: chunked\r\n"
    if not keep_alive:
        ending += b"Connection: close\r\n"
    elif not modern:
        ending += b"Connection: keep-alive\r\n"
    return b"HTTP/1.1 %d %b\r\n%bX-Request-Id: %b\r\n%b\r\n" % (
        head.status, head.reason, head.fields, request_id.encode("ascii"), ending
    )  # fmt: skip


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
