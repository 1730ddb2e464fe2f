"""What one client may take of the gateway: sizes, times, rates and connections.

A client that exceeds a limit gets a `LimitExceeded`: a denial that knows its limit, so that it is counted by
limit too. About once a second, `DeadlineMonitor` looks at those connections that wait for something from
their client, and finds those that take too long: requests pay for no timers, and idle connections for
nothing. A limit of time is exact to two such looks, and never early.
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
"""What a client is told; of the limits that are not here it is told nothing."""

_SHORTEST_LOOK: Final = 0.02
_LONGEST_LOOK: Final = 1.0

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
    """Bytes per second that a request's body must bring; 0 asks for none."""
    response_min_rate: int = 240
    """Bytes per second that a client must take of a response; 0 asks for none."""
    rate_grace: float = 10.0
    """Seconds by which a transfer may fall behind its rate."""
    connections_per_client: int | None = 1000
    """Open connections of one address, or of one IPv6 network of 64 bits; None: any number."""
    max_connections: int = 20_000
    """Open connections of all clients together."""

    @property
    def look_every(self) -> float:
        """Seconds from one look at all connections to the next."""
        return max(_SHORTEST_LOOK, min(_LONGEST_LOOK, self.header_timeout / 4, self.rate_grace / 4))

    def check_head(self, method: str, target: str, fields: Sequence[Header]) -> None:
        """Check a head as a whole. Raises `LimitExceeded`."""
        if len(fields) > self.header_count:
            raise LimitExceeded("header_count", f"{len(fields)} fields")
        line = len(method) + len(target) + len("  HTTP/1.1\r\n")
        size = line + sum(len(name) + len(value) + len(": \r\n") for name, value in fields) + len("\r\n")
        if size > self.head_size:
            raise LimitExceeded("head_size", f"{size} bytes")


class LimitExceeded(Denial):
    """A denial because a client took more than a limit allows."""

    def __init__(self, limit: Limit, detail: str | None = None) -> None:
        super().__init__(REASONS[limit], f"{limit}: {detail}" if detail else limit)
        self.limit = limit


class TransferRate:
    """How far a transfer is from falling too far behind the rate that is asked of it."""

    __slots__ = ("_at_rest", "_patience", "_seen")

    def __init__(self) -> None:
        self._seen = 0
        self._patience = 0.0
        self._at_rest = True

    def rest(self) -> None:
        """Forget a transfer that has ended: the next one starts with all its patience."""
        self._at_rest = True

    def too_slow(self, moved: int, elapsed: float, rate: int, grace: float) -> bool:
        """Tell whether a transfer that has moved so many bytes in all is more than `grace` seconds late.

        `elapsed` are the seconds since the last look. Being fast saves up no more than `grace` seconds.
        """
        if self._at_rest or not rate:
            self._at_rest, self._patience = False, grace
        else:
            self._patience = min(grace, self._patience - elapsed + (moved - self._seen) / rate)
        self._seen = moved
        return self._patience < 0


class Watched(Protocol):
    """What waits for something from its client."""

    def look(self, elapsed: float) -> bool:
        """See whether it waits too long, `elapsed` seconds after the last look; False: it waits no more."""


class DeadlineMonitor:
    """Looks from time to time at what may become too slow; there is no timer while nothing may."""

    def __init__(self, loop: asyncio.AbstractEventLoop, every: float) -> None:
        self._loop = loop
        self._every = every
        self._watched: set[Watched] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._looked_at = 0.0

    def watch(self, watched: Watched) -> None:
        """Look at this, too, until it waits no more."""
        self._watched.add(watched)
        if self._timer is None:
            self._looked_at = self._loop.time()
            self._timer = self._loop.call_later(self._every, self._look)

    def forget(self, watched: Watched) -> None:
        self._watched.discard(watched)

    def _look(self) -> None:
        now = self._loop.time()
        # When the event loop was held up, this process was slow, and not the client.
        elapsed = min(now - self._looked_at, 2 * self._every)
        self._looked_at = now
        for watched in tuple(self._watched):
            try:
                waits = watched.look(elapsed)
            except Exception:
                # The others' turn must come all the same, and the next look.
                log.exception("limits_not_looked_at")
                continue
            if not waits:
                self._watched.discard(watched)
        self._timer = self._loop.call_later(self._every, self._look) if self._watched else None


class ConnectionLimiter:
    """The open connections of every client, by address."""

    def __init__(self, limits: Limits, exempt: Callable[[str], bool]) -> None:
        """`exempt` tells which addresses stand for many clients: proxies in front."""
        self._limits = limits
        self._exempt = exempt
        self._connections: Counter[str] = Counter()
        self.total = 0

    def enter(self, peer: str) -> str:
        """Count a connection; returns what to `leave` by. Raises `LimitExceeded`."""
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
    """Return what stands for a client: its IPv4 address, or its IPv6 network, which is one subscriber's."""
    if ":" not in peer:
        return peer
    address = IPv6Address(peer)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(IPv6Network((int(address), 64), strict=False))
