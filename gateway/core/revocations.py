"""Revocations as values: the stores' answers about one token, and the rows."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TypeAlias

from gateway.core.model import RevocationKind

Target: TypeAlias = tuple[RevocationKind, str, str]
"""The key of a revocation: kind, issuer and value, as in `Revocation`."""


@dataclass(frozen=True, slots=True)
class Revocations:
    """The revocations of one token in a store. Times are in Unix seconds."""

    token: bool = False
    """Its `jti` is on the blacklist."""
    user_at: float | None = None
    """Tokens of its user issued at or before this time are revoked."""
    issuer_at: float | None = None
    """Tokens of its issuer issued at or before this time are revoked."""

    def with_those_of(self, other: "Revocations") -> "Revocations":
        """Return what counts if any of both counts."""
        return Revocations(
            self.token or other.token,
            _later(self.user_at, other.user_at),
            _later(self.issuer_at, other.issuer_at),
        )

    def against(self, issued_at: float | None) -> RevocationKind | None:
        """Return the kind that applies to a token of this `iat`. Without `iat`, any time applies."""
        if self.token:
            return "jti"
        if hits(self.user_at, issued_at):
            return "user"
        return "issuer" if hits(self.issuer_at, issued_at) else None

    def against_anyone(self, issued_at: float | None) -> RevocationKind | None:
        """Return the kind that applies to a token of any user."""
        if self.token:
            return "jti"
        return "issuer" if hits(self.issuer_at, issued_at) else None


def _later(one: float | None, other: float | None) -> float | None:
    return max((at for at in (one, other) if at is not None), default=None)


def hits(revoked_at: float | None, issued_at: float | None) -> bool:
    """Return whether a revocation of a user or an issuer applies to a token of this `iat`."""
    return revoked_at is not None and (issued_at is None or issued_at <= revoked_at)


@dataclass(frozen=True, slots=True)
class Revocation:
    """A row of `revocations`. Times are in Unix seconds."""

    kind: RevocationKind
    issuer: str
    """The configured name of the issuer, its realm or its `iss`; empty for kind `user`."""
    value: str
    """The `jti`, or the id of the user; empty for kind `issuer`."""
    revoked_at: float
    expires_at: float | None = None
    """None: it never ends."""
    reason: str | None = None
    revoked_by: str | None = None
    learnt: bool = False
    """True if no row of an operator says so, but one that was learnt from Redis (`learnt_revocations`)."""

    @property
    def target(self) -> tuple[RevocationKind, str, str]:
        """The key: kind, issuer and value."""
        return self.kind, self.issuer, self.value


@dataclass(frozen=True, slots=True)
class Revoked:
    """A revocation that was set or changed, or lifted before it expired."""

    revocation: Revocation
    lifted: bool
    version: int
    """The id of the transaction. Ids do not follow the order of commits."""
    order: int = 0
    """The later of two changes of one row has the higher order; 0: not known."""


@dataclass(frozen=True, slots=True)
class Learnt:
    """A revocation that exists in Redis only, to be copied to Postgres."""

    target: Target
    """Kind, configured name of the issuer, and value."""
    until: float | None
    """Tokens issued at or before this Unix time are revoked; None for a `jti`."""
    expires_at: float | None
    """Unix seconds; None: it never ends."""
    iss: str | None = None
    """The other name of the issuer, which rows of operators may have."""
    seen: bool = True
    """False: the key was lost before it was examined, and the expiry is a guess."""


@dataclass(frozen=True, slots=True)
class Learning:
    """The result of copying revocations to Postgres."""

    written: int
    """The number of new or extended rows."""
    said: tuple[bool, ...]
    """For each, whether a row of an operator has it. Then it was not copied."""


def counts(expires_at: float | None, now: float) -> bool:
    """Return whether a revocation still counts, in Unix seconds. In SQL: `gateway_counts`."""
    return expires_at is None or expires_at > now


def strongest(revocations: Iterable[Revocation]) -> list[Revocation]:
    """Merge revocations with the same key: the later time and the later expiry win."""
    found: dict[tuple[RevocationKind, str, str], Revocation] = {}
    for row in revocations:
        other = found.setdefault(row.target, row)
        if other is not row:
            expiries = [each.expires_at for each in (other, row) if each.expires_at is not None]
            found[row.target] = replace(
                row,
                revoked_at=max(other.revoked_at, row.revoked_at),
                expires_at=max(expiries) if len(expiries) == 2 else None,
                learnt=other.learnt and row.learnt,
            )
    return list(found.values())
