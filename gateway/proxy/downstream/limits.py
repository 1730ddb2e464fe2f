"""The limits of one client: sizes, times, rates and connections.

A client that exceeds a limit gets a `LimitExceeded`: a denial with its limit, so that it is also counted by
limit. About once a second, `DeadlineMonitor` checks the connections that wait for their client, and finds
those that take too long. So requests need no timers, and idle connections cost nothing. A time limit is exact
to two such checks, and never early.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv6Address, IPv6Network
from typing import Final, Protocol

import structlog

from gateway.core.model import Header
from gateway.core.reasons import (
    BODY_TOO_LARGE,
    CONNECTIONS_EXCEEDED,
    OVERLOADED,
    REQUEST_TIMEOUT,
    REQUEST_TOO_LARGE,
    TARGET_TOO_LONG,
    Denial,
    Reason,
)
from gateway.telemetry.metrics import Limit

REASONS: Final[Mapping[Limit, Reason]] = {
    "target_length": TARGET_TOO_LONG,
    "field_size": REQUEST_TOO_LARGE,
    "header_count": REQUEST_TOO_LARGE,
    "head_size": REQUEST_TOO_LARGE,
    "header_timeout": REQUEST_TIMEOUT,
    "body_size": BODY_TOO_LARGE,
    "body_min_rate": REQUEST_TIMEOUT,
    "connections_per_client": CONNECTIONS_EXCEEDED,
    "max_connections": OVERLOADED,
}
"""The reasons for clients. Other limits have no answer."""

_SHORTEST_INTERVAL: Final = 0.02
_LONGEST_INTERVAL: Final = 1.0

log: structlog.stdlib.BoundLogger = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of every connection from a client."""

    head_size: int = 64 * 1024
    """Bytes of the request line and all fields together; of trailers, too."""
    header_count: int = 100
    field_size: int = 32 * 1024
    """Bytes of one field's value, or of its name."""
    target_length: int = 8 * 1024
    """Bytes of the request target: path and query."""
    header_timeout: float = 10.0
    """Seconds from a head's first byte, or from the connection's start, until the head is complete."""
    keepalive_timeout: float = 75.0
    """Seconds that a connection may wait for its next request."""
    keepalive_requests: int = 10_000
    """Requests on one connection."""
    body_min_rate: int = 240
    """The lowest rate of a request's body, in bytes per second; 0: no limit."""
    response_min_rate: int = 240
    """The lowest rate at which a client must read a response, in bytes per second; 0: no limit."""
    rate_grace: float = 10.0
    """Seconds by which a transfer may fall behind its rate."""
    connections_per_client: int | None = 1000
    """Open connections of one IPv4 address or IPv6 /64; None: no limit."""
    max_connections: int = 20_000
    """Open connections of all clients."""

    @property
    def check_every(self) -> float:
        """Seconds between two checks of all connections."""
        return max(_SHORTEST_INTERVAL, min(_LONGEST_INTERVAL, self.header_timeout / 4, self.rate_grace / 4))

    def check_head(self, method: str, target: str, fields: Sequence[Header]) -> None:
        """Check a head as a whole. Raises `LimitExceeded`."""
        if len(fields) > self.header_count:
            raise LimitExceeded("header_count", f"{len(fields)} fields")
        line = len(method) + len(target) + len("  HTTP/1.1\r\n")
        size = line + sum(len(name) + len(value) + len(": \r\n") for name, value in fields) + len("\r\n")
        if size > self.head_size:
            raise LimitExceeded("head_size", f"{size} bytes")


class LimitExceeded(Denial):
    """A denial because a client exceeded a limit."""

    def __init__(self, limit: Limit, detail: str | None = None) -> None:
        super().__init__(REASONS[limit], f"{limit}: {detail}" if detail else limit)
        self.limit = limit


class TransferRate:
    """Measures how far a transfer is behind its lowest rate."""

    __slots__ = ("_at_rest", "_grace_left", "_seen")

    def __init__(self) -> None:
        self._seen = 0
        self._grace_left = 0.0
        self._at_rest = True

    def rest(self) -> None:
        """Forget a transfer that has ended. The next one starts with the full grace."""
        self._at_rest = True

    def too_slow(self, moved: int, elapsed: float, rate: int, grace: float) -> bool:
        """Return whether a transfer with this total of bytes is more than `grace` seconds late.

        `elapsed` is the time since the last check. A fast transfer saves at most `grace` seconds for later.
        """
        if self._at_rest or not rate:
            self._at_rest, self._grace_left = False, grace
        else:
            self._grace_left = min(grace, self._grace_left - elapsed + (moved - self._seen) / rate)
        self._seen = moved
        return self._grace_left < 0


class Watched(Protocol):
    """A connection that waits for its client."""

    def check(self, elapsed: float) -> bool:
        """Check its wait, `elapsed` seconds after the last check; return False if it no longer waits."""


class DeadlineMonitor:
    """Periodically checks the connections that wait. Without such connections it has no timer."""

    def __init__(self, loop: asyncio.AbstractEventLoop, every: float) -> None:
        self._loop = loop
        self._every = every
        self._watched: set[Watched] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._checked_at = 0.0

    def watch(self, watched: Watched) -> None:
        """Check this connection, too, until it no longer waits."""
        self._watched.add(watched)
        if self._timer is None:
            self._checked_at = self._loop.time()
            self._timer = self._loop.call_later(self._every, self._check)

    def forget(self, watched: Watched) -> None:
        self._watched.discard(watched)

    def _check(self) -> None:
        now = self._loop.time()
        # If the event loop was blocked, this process was slow, not the client.
        elapsed = min(now - self._checked_at, 2 * self._every)
        self._checked_at = now
        for watched in tuple(self._watched):
            try:
                waits = watched.check(elapsed)
            except Exception:
                # The other connections and the next check must not be skipped.
                log.exception("limits_not_looked_at")
                continue
            if not waits:
                self._watched.discard(watched)
        self._timer = self._loop.call_later(self._every, self._check) if self._watched else None


class ConnectionLimiter:
    """The open connections of all clients, by address."""

    def __init__(self, limits: Limits, exempt: Callable[[str], bool]) -> None:
        """`exempt` returns whether an address stands for many clients: a proxy in front."""
        self._limits = limits
        self._exempt = exempt
        self._connections: Counter[str] = Counter()
        self.total = 0

    def enter(self, peer: str) -> str:
        """Count a connection; return the key for `leave`. Raises `LimitExceeded`."""
        client = network_of(peer)
        most = self._limits.connections_per_client
        if self.total >= self._limits.max_connections:
            raise LimitExceeded("max_connections")
        if most is not None and self._connections[client] >= most and peer and not self._exempt(peer):
            raise LimitExceeded("connections_per_client")
        self._connections[client] += 1
        self.total += 1
        return client

    def leave(self, client: str) -> None:
        self.total -= 1
        self._connections[client] -= 1
        if not self._connections[client]:
            del self._connections[client]


def network_of(peer: str) -> str:
    """Return the key of a client: its IPv4 address, or its IPv6 /64, which belongs to one subscriber."""
    if ":" not in peer:
        return peer
    address = IPv6Address(peer)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(IPv6Network((int(address), 64), strict=False))
