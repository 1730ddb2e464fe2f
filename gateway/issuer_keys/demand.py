"""What requests with unknown keys may ask of an issuer, whose names anybody can invent."""

import hashlib
import math
from typing import Final

from gateway.core.lru import LRU

BURST: Final = 4
REFILL: Final = 5.0
GAP: Final = 1.0
"""Unknown keys may cause so many fetches per issuer, so many seconds apart, and one more each `REFILL`."""
MAX_WAITING: Final = 32
"""Requests that may wait at once for the next of these fetches to be allowed, per issuer."""
MAX_ABSENT: Final = 1000
"""Keys of one issuer that are remembered as not there."""
ABSENCE: Final = REFILL
"""Seconds for which a key counts as not there. An issuer may sign with a key before it publishes it."""


class Allowance:
    """A token bucket: fetches that unknown keys may cause while their issuer answers."""

    def __init__(self) -> None:
        self._left = float(BURST)
        self._at = self._taken_at = -math.inf

    def take(self, now: float) -> bool:
        """Take one, if there is one and the one before is not too recent."""
        self._left = min(self._left + (now - self._at) / REFILL, float(BURST))
        self._at = now
        if self._left < 1.0 or now - self._taken_at < GAP:
            return False
        self._left -= 1.0
        self._taken_at = now
        return True

    def wait(self, now: float) -> float:
        """Return the seconds until one may be taken; zero or less: now."""
        left = min(self._left + (now - self._at) / REFILL, float(BURST))
        return max((1.0 - left) * REFILL, self._taken_at + GAP - now)

    def give_back(self) -> None:
        """Take back the latest: it brought nothing."""
        self._left = min(self._left + 1.0, float(BURST))
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
        self._until.put(_digest(kid, algorithm), now + ABSENCE)

    def clear(self) -> None:
        """Forget all: another set may have any of them."""
        self._until.clear()


def _digest(kid: str | None, algorithm: str) -> bytes:
    # Whoever invents names chooses their length.
    name = f"{algorithm} {'' if kid is None else '.' + kid}"
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()
