"""The revocations for which a worker has refused tokens, remembered by their targets."""

import hashlib
import math
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass
from typing import Final, Protocol
from uuid import UUID

from gateway.core.caches import LRU
from gateway.core.model import Claims, RevocationKind, User
from gateway.core.revocations import Learnt, Revocation, Target, counts, hits
from gateway.core.tokens.claims import is_clean
from gateway.stores.redis.blacklist import KeyState

MOST: Final = 10_000
"""Revocations that a worker remembers."""
LONGEST: Final = 2000
"""The most bytes of a `jti` that an index of Postgres holds; memory has a digest of a longer one."""
_LAST_INSTANT: Final = 253_402_300_799.0
"""The end of the year 9999, as a Unix time: a value that is not a time revokes all tokens."""


class Hearing(Protocol):
    """A time in which the worker receives all changes in Postgres, in order and without interruption."""

    @property
    def proofs(self) -> int:
        """The number of proofs that every change so far has been received."""


@dataclass(frozen=True, slots=True)
class Told:
    """A moment in such a time."""

    hearing: Hearing
    proofs: int
    at: float
    """Unix seconds."""


@dataclass(frozen=True, slots=True)
class Known:
    """A revocation that Redis has or had, as far as the worker knows it."""

    until: float
    """Tokens issued at or before this Unix time are revoked; infinite for a `jti`."""
    expires_at: float = math.inf
    """When the revocation ends; Unix seconds."""
    found: KeyState | None = None
    """The state of the key in Redis; None before it has been examined."""
    era: bytes = b""
    """The era of Redis in which the key was examined, or in which it hit a token; empty: not known."""
    told: Told | None = None
    """When the key hit a token; None if it has been examined, or if its row may have been lifted before."""

    def hits(self, claims: Claims, now: float) -> bool:
        """Tell whether the revocation hits a token of its target."""
        return counts(self.expires_at, now) and hits(self.until, claims.issued_at)

    def learnt(self, target: Target, iss: str | None) -> Learnt:
        """Return the row to be written; `iss` is the other name of the target's issuer."""
        until = None if target[0] == "jti" else self.until
        expires_at = None if math.isinf(self.expires_at) else self.expires_at
        return Learnt(target, until, expires_at, iss, seen=self.found is not None)

    def may_be_lifted(self, hearing: Hearing | None, all_lifted_at: float) -> bool:
        """Tell whether the key may have been the copy of a row whose end this worker missed.

        That matters only for a key that Redis lost before it was examined. `hearing` is the time in which
        changes are received now. `all_lifted_at`, in Unix seconds, is the time of the last notification that
        did not name the changed rows.
        """
        told = self.told
        return self.found is None and (
            told is None or told.hearing is not hearing or told.at <= all_lifted_at
        )

    @property
    def awaits_proof(self) -> bool:
        """Whether the notification that the row was lifted may still be on its way.

        Two proofs are needed: the first one may have been sent before the row was lifted.
        """
        told = self.told
        return self.found is None and told is not None and told.hearing.proofs < told.proofs + 2

    @property
    def looked_in(self) -> bytes:
        """The era in which the key was examined; empty if the key was gone by then."""
        return b"" if self.found is None else self.era


class RememberedRevocations:
    """At most `MOST` revocations: those that hit a token most recently. `clock` gives Unix seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._known: LRU[Target, Known] = LRU(MOST)

    def __bool__(self) -> bool:
        return bool(self._known.keys())

    def get(self, target: Target) -> Known | None:
        """Return the revocation of a target, and mark it as recently used."""
        return self._known.get(_bounded(target))

    def peek(self, target: Target) -> Known | None:
        """Return the revocation of a target."""
        return self._known.peek(_bounded(target))

    def put(self, target: Target, known: Known) -> bool:
        """Remember the revocation of a target; True: another one has been forgotten for it."""
        return self._known.put(_bounded(target), known) is not None

    def pop(self, target: Target) -> None:
        self._known.pop(_bounded(target))

    def against(self, claims: Claims, user: User | None) -> RevocationKind | None:
        """Return the kind of a remembered revocation that hits a token."""
        if not self._known.keys():
            return None
        now = self._clock()
        for target in targets_of(claims, user):
            known = self.peek(target)
            if known is not None and known.hits(claims, now):
                return target[0]
        return None


def targets_of(claims: Claims, user: User | None) -> Iterator[Target]:
    """Yield every target whose revocation hits a token."""
    for name in claims.issuer_names:
        if claims.jti is not None:
            yield "jti", name, claims.jti
        yield "issuer", name, ""
    if user is not None:
        yield "user", "", user.id


def _bounded(target: Target) -> Target:
    """Return the key of a target in memory, which has a bounded length."""
    kind, issuer, value = target
    if len(value) <= LONGEST:
        return target
    return kind, issuer, "sha256:" + hashlib.sha256(value.encode(errors="surrogatepass")).hexdigest()


def instant(value: bytes) -> float:
    """Read a Unix time; a value that is not a time revokes all tokens."""
    try:
        instant = float(value)
    except ValueError:
        return _LAST_INSTANT
    return _LAST_INSTANT if math.isnan(instant) else min(max(0.0, instant), _LAST_INSTANT)


def learnable(target: Target, issuers: Container[str], *, any_user: bool = False) -> bool:
    """Return whether a revocation can concern a token here, and a row can hold it.

    `issuers` has the names of the configured issuers. `any_user`: ids of users need not be UUIDs.
    """
    kind, issuer, value = target
    match kind:
        case "jti":
            return issuer in issuers and _fits(value)
        case "user" if any_user:
            return _fits(value)
        case "user":
            try:
                return str(UUID(value)) == value
            except ValueError:
                return False
        case "issuer":
            return issuer in issuers


def _fits(value: str) -> bool:
    fits = 0 < len(value.encode(errors="replace")) <= LONGEST
    return fits and is_clean(value) and "\ufffd" not in value


def known_from(
    claims: Claims, kind: RevocationKind, known: Known | None, era: bytes, told: Told | None
) -> Known:
    """Return what a refused token shows of the revocation that refused it."""
    if kind == "jti":
        expires_at = math.inf if claims.good_until is None else claims.good_until
        return Known(math.inf, expires_at, era=era, told=told)
    until = claims.issued_at or 0.0
    return Known(until if known is None else max(until, known.until), era=era, told=told)


def row_of(learnt: Learnt) -> Revocation:
    """Return the revocation of a learnt row."""
    kind, issuer, value = learnt.target
    return Revocation(kind, issuer, value, learnt.until or 0.0, learnt.expires_at)
