"""Requests as they arrive: one whose body may still be coming, and one that is whole and may come again."""

from dataclasses import dataclass
from typing import ClassVar, Final, TypeAlias

from gateway.core.model import Header
from gateway.core.reasons import Denial

_SMALL: Final = 16 * 1024
"""Bytes of a body that are copied behind the head: less than another system call costs."""


@dataclass(frozen=True, slots=True, eq=False)
class RecurringRequest:
    """A request without a body, as it was read once: all requests of the same bytes share it."""

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
        """What stands for it each time it comes."""
        return self


class Incoming:
    """A request that is arriving: its head, and what has come of its body and was not taken yet."""

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
        """Empty: the head could not be read."""
        self.target = ""
        self.headers: tuple[Header, ...] = ()
        self.modern = False
        """True for HTTP/1.1, whose clients understand chunks and interim responses."""
        self.keep_alive = False
        """True when the client may send another request behind this one (RFC 9112 §9.3)."""
        self.length: int | None = None
        """The Content-Length, if the client gave one."""
        self.chunked = False
        self.upgrade = False
        """True when the client asks for another protocol; what follows may belong to it."""
        self.expects_continue = False
        """True until the client has got the 100 that it asked for (RFC 9110 §10.1.1)."""
        self.recurring: RecurringRequest | None = None
        """As it is shared when it comes again; None when it may not."""
        self.body: list[bytes] = []
        self.received = 0
        """Octets of the body that have arrived."""
        self.complete = False
        """True once the body has arrived to its end."""
        self.error: Denial | None = None
        """Why the rest of it will never come."""

    @property
    def has_body(self) -> bool:
        return self.chunked or bool(self.length)

    @property
    def is_small(self) -> bool:
        """True when its body has arrived, and may go on together with the head."""
        return self.complete and not self.chunked and 0 < self.received <= _SMALL

    @property
    def awaits_continue(self) -> bool:
        """True while the client may send nothing because it waits for a 100."""
        return self.expects_continue and not self.received

    def take(self) -> list[bytes]:
        """Take what has arrived of the body since the last time."""
        body, self.body = self.body, []
        return body


AnyRequest: TypeAlias = Incoming | RecurringRequest
