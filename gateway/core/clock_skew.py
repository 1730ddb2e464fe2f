"""How far an issuer's clock is from ours, as its tokens show, and whose clock is the wrong one.

A token comes after it was issued: it travels, and its client keeps it. So no `iat` is later than the time at
which its token came, if the clocks agree, and the least old of several tokens is about as old as the clocks
differ.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

AGREES: Final = 5.0
"""Seconds by which two clocks may differ and still agree: `iat` has no fractions, and tokens travel."""
_ENOUGH: Final = 5
"""Tokens. Fewer do not show that clocks agree, or that one is behind: their clients may have kept them."""
_EDGE: Final = 3.0
"""Seconds. If the least old tokens are equally old, by so much, the clocks are why; clients differ more."""
_SPAN: Final = 2 * _EDGE
"""Seconds within which such tokens must not all have come: those of one batch are equally old, too."""

Whose: TypeAlias = Literal["issuer", "ours", "unknown"]


@dataclass(frozen=True, slots=True)
class Skew:
    """The difference of an issuer's clock from ours."""

    seconds: float
    """Positive: the issuer's clock is ahead."""
    tokens: int
    """How many tokens show it."""

    @property
    def agrees(self) -> bool:
        """Whether the two clocks agree."""
        return abs(self.seconds) <= AGREES


def skew(seen: Sequence[tuple[float, float]]) -> Skew | None:
    """Estimate the difference from when each token came, and its `iat` less that, in seconds.

    None: they do not show it.
    """
    if not seen:
        return None
    first = max(offset for _, offset in seen)
    estimate = Skew(first, len(seen))
    if first > AGREES:
        # A token cannot come before it was issued, not even one.
        return estimate
    if len(seen) < _ENOUGH:
        return None
    if estimate.agrees:
        return estimate
    edge = [at for at, offset in seen if first - offset <= _EDGE]
    sharp = len(edge) > _ENOUGH // 2 and max(edge) - min(edge) >= _SPAN
    return estimate if sharp else None


def whose(own: float, others: Iterable[Skew], reference: float | None) -> Whose:
    """Return whose clock is wrong, if the issuer's is `own` seconds ahead of ours.

    `others` are the differences of other issuers; `reference` is how far a third clock is ahead of ours.
    """
    votes = [each.seconds for each in others]
    votes += [] if reference is None else [reference]
    with_issuer = sum(abs(each - own) <= AGREES for each in votes)
    with_us = sum(abs(each) <= AGREES for each in votes)
    if with_issuer == with_us:
        return "unknown"
    return "ours" if with_issuer > with_us else "issuer"
