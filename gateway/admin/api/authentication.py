"""The bearer token of the admin API, and a throttle against guessing it.

A few wrong tokens are answered at once, because people mistype. After that, the attempts of one address are
checked one at a time, each after a growing pause, whether the token is right or wrong. So neither many
connections nor early disconnects make guessing faster. A few attempts may wait; more are answered with 429.
"""

import asyncio
import hashlib
import hmac
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv6Address, ip_address
from typing import Final

import structlog

from gateway.admin.api.problems import RequestRefused
from gateway.core.caches import LRU

FREE: Final = 5
"""Failures within `WINDOW` without a pause."""
WINDOW: Final = 60.0
"""Seconds without a failure after which an address is forgotten."""
FIRST_PAUSE: Final = 0.25
LONGEST_PAUSE: Final = 5.0
"""Seconds; each failure doubles the pause."""
WAITING: Final = 4
"""Attempts of one address that may wait."""
ADDRESSES: Final = 10_000
"""The number of addresses that are remembered."""
_CHALLENGE: Final = 'Bearer realm="gateway admin"'

log: structlog.stdlib.BoundLogger = structlog.get_logger()


@dataclass(slots=True)
class _Peer:
    failures: int = 0
    last: float = 0.0
    waiting: int = 0
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)


class Throttle:
    """Admits requests with the right token. `clock` returns monotonic seconds."""

    def __init__(
        self,
        token: str,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._digest = _digest(token)
        self._clock = clock
        self._sleep = sleep
        self._peers: LRU[str, _Peer] = LRU(ADDRESSES)

    async def admit(self, address: str, authorization: Sequence[str]) -> None:
        """Return if the token is right. Raises `RequestRefused` if it is wrong or missing.

        `authorization` has the values of the Authorization fields.
        """
        if not authorization:
            raise RequestRefused(
                401,
                "credentials_missing",
                "Send the admin.token of the configuration: Authorization: Bearer …",
                headers={"WWW-Authenticate": _CHALLENGE},
            )
        key = network_of(address)
        peer = self._peers.get(key)
        if peer is not None and self._clock() - peer.last > WINDOW and not peer.waiting:
            self._peers.pop(key)
            peer = None
        if peer is None or peer.failures < FREE:
            self._look(key, authorization)
            return
        if peer.waiting >= WAITING:
            raise RequestRefused(
                429,
                "too_many_attempts",
                f"{peer.failures} attempts from this address failed, and others are waiting",
                headers={"Retry-After": str(round(LONGEST_PAUSE))},
            )
        peer.waiting += 1
        try:
            async with peer.turn:
                if peer.failures >= FREE:  # otherwise the previous attempt had the right token
                    await self._sleep(min(FIRST_PAUSE * 2.0 ** min(peer.failures - FREE, 16), LONGEST_PAUSE))
                self._look(key, authorization)
        finally:
            peer.waiting -= 1

    def _look(self, key: str, authorization: Sequence[str]) -> None:
        scheme, _, token = authorization[0].partition(" ")
        right = hmac.compare_digest(_digest(token.strip(" ")), self._digest)
        if right and scheme.lower() == "bearer" and len(authorization) == 1:
            peer = self._peers.pop(key)
            if peer is not None:
                peer.failures = 0
            return
        peer = self._peers.get(key) or _Peer()
        peer.failures += 1
        peer.last = self._clock()
        self._peers.put(key, peer)
        log.warning("admin_token_refused", client=key, failures=peer.failures)
        raise RequestRefused(
            401,
            "invalid_token",
            "This is not the admin.token of the configuration",
            headers={"WWW-Authenticate": f'{_CHALLENGE}, error="invalid_token"'},
        )


def _digest(token: str) -> bytes:
    # Digests have equal length, so that the comparison takes constant time.
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()


def network_of(address: str) -> str:
    """Return the address that a failure counts against: an IPv4 address, or the /64 of an IPv6 address."""
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return "unix"
    if not isinstance(parsed, IPv6Address):
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return f"{IPv6Address(int(parsed) >> 64 << 64)}/64"
