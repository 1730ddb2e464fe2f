import pytest

from gateway.core.model import Header, Request
from gateway.core.requests.upgrades import offered, requested

WEBSOCKET = frozenset({"websocket"})
ANY = frozenset({"*"})


def request(*headers: Header, method: str = "GET", may_upgrade: bool = True) -> Request:
    return Request(method, "/", headers, "192.0.2.1", "http", "id", may_upgrade=may_upgrade)


def asking(protocol: bytes, connection: bytes = b"Upgrade") -> tuple[Header, ...]:
    return (b"Connection", connection), (b"Upgrade", protocol)


@pytest.mark.parametrize("protocol", [b"websocket", b"WebSocket"])
@pytest.mark.parametrize("connection", [b"Upgrade", b"upgrade", b"keep-alive, Upgrade", b"x,upgrade ,y"])
def test_an_allowed_protocol_is_kept_as_it_was_written(protocol: bytes, connection: bytes) -> None:
    assert requested(request(*asking(protocol, connection)), WEBSOCKET) == protocol


def test_the_field_names_have_no_case() -> None:
    sent = request((b"CONNECTION", b"upgrade"), (b"uPGRADE", b"websocket"))
    assert requested(sent, WEBSOCKET) == b"websocket"
    # Connection is a list, and may come in several fields (RFC 9110 §5.3).
    assert requested(request(*asking(b"websocket"), (b"Connection", b"x")), WEBSOCKET) == b"websocket"


@pytest.mark.parametrize(
    "sent",
    [
        request(*asking(b"websocket"), method="POST"),
        request(*asking(b"websocket"), may_upgrade=False),
        request((b"Upgrade", b"websocket")),
        request((b"Connection", b"Upgrade")),
        request((b"Upgrade", b"websocket"), (b"X-Connection", b"Upgrade")),
        request(*asking(b"websocket", b"keep-alive")),
        request(*asking(b"websocket", b"upgrades")),
        request(*asking(b"websocket, spdy/3")),
        request(*asking(b"websocket"), (b"Upgrade", b"websocket")),
        request(*asking(b"web socket")),
        request(*asking(b"")),
        request(*asking(b"other")),
    ],
)
def test_a_request_that_cannot_upgrade_is_a_plain_request(sent: Request) -> None:
    assert requested(sent, WEBSOCKET) is None


def test_nothing_is_switched_where_nothing_is_allowed() -> None:
    assert requested(request(*asking(b"websocket")), frozenset()) is None


@pytest.mark.parametrize("protocol", [b"websocket", b"custom", b"custom/1.0"])
def test_a_star_allows_any(protocol: bytes) -> None:
    assert requested(request(*asking(protocol)), ANY) == protocol
    for odd in (b"", b" ", protocol + b" x", protocol + b", x", protocol + b"/", protocol + b"\xe4"):
        assert requested(request(*asking(odd)), ANY) is None


@pytest.mark.parametrize(
    "protocol",
    [
        b"h2c", b"H2C", b"h2c/1", b"h2c-14", b"h2", b"h2-16", b"h3", b"h3/29", b"h3-29", b"HTTP/2.0",
        b"http/1.1", b"http", b"HTTP-draft-06/2.0", b"SPDY/3.1", b"spdy", b"TLS/1.0", b"tls",
    ],
)  # fmt: skip
def test_protocols_that_carry_requests_are_never_switched_to(protocol: bytes) -> None:
    assert requested(request(*asking(protocol)), ANY) is None
    assert requested(request(*asking(protocol)), frozenset({protocol.decode().lower()})) is None


def test_an_answer_names_one_protocol() -> None:
    assert offered([(b"Connection", b"upgrade"), (b"Upgrade", b" websocket ")]) == b"websocket"
    assert offered([(b"Upgrade", b"websocket")]) is None
