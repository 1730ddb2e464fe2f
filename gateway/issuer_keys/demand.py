"""Limits the fetches that requests with unknown keys cause, because any client can invent such keys."""

import hashlib
import math
from typing import Final

from gateway.core.caches import LRU

FETCH_BURST: Final = 4
REFILL_SECONDS: Final = 5.0
MIN_INTERVAL: Final = 1.0
"""Fetches per issuer for unknown keys: a burst, the seconds per further one, and between two."""
MAX_WAITING: Final = 32
"""Requests per issuer that may wait for the next allowed fetch."""
MAX_ABSENT: Final = 1000
"""Keys of one issuer that are remembered as missing."""
ABSENT_SECONDS: Final = REFILL_SECONDS
"""Seconds for which a key counts as missing. An issuer may sign with a key before it publishes it."""


class FetchAllowance:
    """A token bucket for the fetches that unknown keys cause while their issuer answers.

    It has `burst` fetches, one more after every `refill` seconds, and `interval` seconds between two.
    """

    def __init__(
        self,
        burst: int = FETCH_BURST,
        refill: float = REFILL_SECONDS,
        interval: float = MIN_INTERVAL,
    ) -> None:
        self._burst, self._refill, self._interval = float(burst), refill, interval
        self._left = self._burst
        self._at = self._taken_at = -math.inf

    def take(self, now: float) -> bool:
        """Take a fetch, if there is one and the previous one is not too recent."""
        self._left = min(self._left + (now - self._at) / self._refill, self._burst)
        self._at = now
        if self._left < 1.0 or now - self._taken_at < self._interval:
            return False
        self._left -= 1.0
        self._taken_at = now
        return True

    def wait(self, now: float) -> float:
        """Return the seconds until a fetch may be taken; zero or less: now."""
        left = min(self._left + (now - self._at) / self._refill, self._burst)
        return max((1.0 - left) * self._refill, self._taken_at + self._interval - now)

    def give_back(self) -> None:
        """Return the latest fetch to the bucket, because it had no result."""
        self._left = min(self._left + 1.0, self._burst)
        self._taken_at = -math.inf


class AbsentKeys:
    """Keys that an issuer did not have: bounded, and for a limited time."""

    def __init__(self) -> None:
        self._until: LRU[bytes, float] = LRU(MAX_ABSENT)
        """Digest of `kid` and algorithm → the time until which the key counts as missing."""

    def has(self, kid: str | None, algorithm: str, now: float) -> bool:
        """Return whether a key still counts as missing."""
        until = self._until.get(_digest(kid, algorithm))
        return until is not None and now < until

    def add(self, kid: str | None, algorithm: str, now: float) -> None:
        """Record that a key is missing."""
        self._until.put(_digest(kid, algorithm), now + ABSENT_SECONDS)

    def clear(self) -> None:
        """Forget all, because a new set may have them."""
        self._until.clear()


def _digest(kid: str | None, algorithm: str) -> bytes:
    # Clients can invent names of any length.
    name = f"{algorithm} {'' if kid is None else '.' + kid}"
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()
