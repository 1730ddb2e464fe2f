"""How many fetches requests with unknown keys may cause; any client can invent such keys."""

import hashlib
import math
from typing import Final

from gateway.core.lru import LRU

FETCH_BURST: Final = 4
REFILL_SECONDS: Final = 5.0
MIN_INTERVAL: Final = 1.0
"""Unknown keys may cause so many fetches per issuer, so many seconds apart, and one more each refill."""
MAX_WAITING: Final = 32
"""Requests that may wait at once for the next of these fetches to be allowed, per issuer."""
MAX_ABSENT: Final = 1000
"""Keys of one issuer that are remembered as not there."""
ABSENT_SECONDS: Final = REFILL_SECONDS
"""Seconds for which a key counts as not there. An issuer may sign with a key before it publishes it."""


class FetchAllowance:
    """A token bucket: fetches that unknown keys may cause while their issuer answers."""

    def __init__(self) -> None:
        self._left = float(FETCH_BURST)
        self._at = self._taken_at = -math.inf

    def take(self, now: float) -> bool:
        """Take one, if there is one and the one before is not too recent."""
        self._left = min(self._left + (now - self._at) / REFILL_SECONDS, float(FETCH_BURST))
        self._at = now
        if self._left < 1.0 or now - self._taken_at < MIN_INTERVAL:
            return False
        self._left -= 1.0
        self._taken_at = now
        return True

    def wait(self, now: float) -> float:
        """Return the seconds until one may be taken; zero or less: now."""
        left = min(self._left + (now - self._at) / REFILL_SECONDS, float(FETCH_BURST))
        return max((1.0 - left) * REFILL_SECONDS, self._taken_at + MIN_INTERVAL - now)

    def give_back(self) -> None:
        """Take back the latest: it brought nothing."""
        self._left = min(self._left + 1.0, float(FETCH_BURST))
        self._taken_at = -math.inf


class AbsentKeys:
    """Keys that an issuer did not have when it was asked for them: bounded, and for a time."""

    def __init__(self) -> None:
        self._until: LRU[bytes, float] = LRU(MAX_ABSENT)
        """Digest of `kid` and algorithm → until when that counts."""

    def has(self, kid: str | None, algorithm: str, now: float) -> bool:
        """Tell whether a key was not there, and that still counts."""
        until = self._until.get(_digest(kid, algorithm))
        return until is not None and now < until

    def add(self, kid: str | None, algorithm: str, now: float) -> None:
        """Take note that a key was not there."""
        self._until.put(_digest(kid, algorithm), now + ABSENT_SECONDS)

    def clear(self) -> None:
        """Forget all: another set may have any of them."""
        self._until.clear()


def _digest(kid: str | None, algorithm: str) -> bytes:
    # A client that invents names chooses their length.
    name = f"{algorithm} {'' if kid is None else '.' + kid}"
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()
