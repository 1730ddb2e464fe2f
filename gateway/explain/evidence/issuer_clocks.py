"""What the latest tokens of each issuer show of its clock. A bounded memory, written off the hot path."""

import math
from collections.abc import Callable, Mapping
from typing import Final

from gateway.core import clock_skew
from gateway.core.clock_skew import Skew
from gateway.core.model import JSON

KEPT: Final = 64
"""Tokens of an issuer."""
_RECENT: Final = 3600.0
"""Seconds for which a token tells of the clocks: they are set meanwhile."""
_FARTHEST: Final = 86_400.0
"""Seconds. An `iat` that is farther from now tells of no clock."""
_MARK: Final = 8
"""Bytes of a signature by which a token is known again."""


class IssuerClocks:
    """Remembers when tokens came whose signatures were verified. `clock` returns Unix seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._seen: dict[str, dict[bytes, tuple[float, float]]] = {}
        """By the configured name of the issuer: of each token, when it came, and its `iat` less that."""

    def saw(self, issuer_name: str, payload: Mapping[str, JSON], signature: bytes) -> None:
        """Remember a token when it comes first: whatever its claims say, its issuer made it."""
        iat = payload.get("iat")
        if not isinstance(iat, int | float) or isinstance(iat, bool) or not math.isfinite(iat):
            return
        now = self._clock()
        seen, mark = self._seen.setdefault(issuer_name, {}), signature[:_MARK]
        if abs(iat - now) > _FARTHEST or mark in seen:
            return
        seen[mark] = now, iat - now
        if len(seen) > KEPT:
            del seen[next(iter(seen))]

    def skew(self, issuer_name: str) -> Skew | None:
        """Return how far an issuer's clock is from ours; None if its tokens do not show it."""
        since = self._clock() - _RECENT
        seen = self._seen.get(issuer_name, {}).values()
        return clock_skew.skew([each for each in seen if each[0] >= since])

    def others(self, issuer_name: str) -> dict[str, Skew]:
        """Return the differences of the other issuers that are known, by name."""
        found = {name: self.skew(name) for name in self._seen if name != issuer_name}
        return {name: each for name, each in found.items() if each is not None}
