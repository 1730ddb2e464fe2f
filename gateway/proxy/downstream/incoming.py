"""Requests as they arrive: with a body that may still be arriving, or complete and known from earlier.

`Exchange` is the interface of what handles a request.
"""

from dataclasses import dataclass
from typing import ClassVar, Final, Protocol, TypeAlias

from gateway.core.model import Header
from gateway.core.reasons import Denial

_SMALL: Final = 16 * 1024
"""The largest body that is copied and sent together with the head. That costs less than a system call."""


@dataclass(frozen=True, slots=True, eq=False)
class RecurringRequest:
    """A request without a body that was parsed once. All requests with the same bytes share it."""

    method: str
    target: str
    headers: tuple[Header, ...]
    modern: bool
    """True for HTTP/1.1, whose clients understand chunks and interim responses."""

    keep_alive: ClassVar[bool] = True
    length: ClassVar[int | None] = None
    chunked: ClassVar[bool] = False
    upgrade: ClassVar[bool] = False
    has_body: ClassVar[bool] = False
    complete: ClassVar[bool] = True
    body: ClassVar[tuple[bytes, ...]] = ()
    error: ClassVar[Denial | None] = None

    @property
    def recurring(self) -> "RecurringRequest":
        """The key for what is remembered about the request: itself."""
        return self


class Incoming:
    """A request that is arriving: its head, and the part of its body that was not taken yet."""

    __slots__ = (
        "body",
        "chunked",
        "complete",
        "error",
        "expects_continue",
        "headers",
        "keep_alive",
        "length",
        "method",
        "modern",
        "received",
        "recurring",
        "target",
        "upgrade",
    )

    def __init__(self) -> None:
        self.method = ""
        """Empty if the head could not be parsed."""
        self.target = ""
        self.headers: tuple[Header, ...] = ()
        self.modern = False
        """True for HTTP/1.1, whose clients understand chunks and interim responses."""
        self.keep_alive = False
        """True if the client may send another request after this one (RFC 9112 §9.3)."""
        self.length: int | None = None
        """The Content-Length, if the client gave one."""
        self.chunked = False
        self.upgrade = False
        """True if the client asks for another protocol. The following data may belong to it."""
        self.expects_continue = False
        """True until the client has got the 100 that it expects (RFC 9110 §10.1.1)."""
        self.recurring: RecurringRequest | None = None
        """The same request in its shared form; None if it is not remembered."""
        self.body: list[bytes] = []
        self.received = 0
        """Bytes of the body that have arrived."""
        self.complete = False
        """True once the whole body has arrived."""
        self.error: Denial | None = None
        """Why the rest of the request will never come."""

    @property
    def has_body(self) -> bool:
        return self.chunked or bool(self.length)

    @property
    def is_small(self) -> bool:
        """True if the whole body has arrived and can be sent together with the head."""
        return self.complete and not self.chunked and 0 < self.received <= _SMALL

    @property
    def awaits_continue(self) -> bool:
        """True while the client waits for a 100 before it sends its body."""
        return self.expects_continue and not self.received

    def take(self) -> list[bytes]:
        """Take the part of the body that has arrived since the last call."""
        body, self.body = self.body, []
        return body


AnyRequest: TypeAlias = Incoming | RecurringRequest


class Exchange(Protocol):
    """Handles one request: `gateway.proxy.exchanges.exchange.Exchange`."""

    def begin(self) -> None: ...

    def body_arrived(self) -> None:
        """Send the new part of the request's body, its end, or its error."""

    def pause(self) -> None:
        """Stop reading the response until the client has taken the earlier data."""

    def resume(self) -> None: ...

    def client_left(self) -> None: ...

    def cut(self) -> None:
        """End at once, because the gateway ends."""
