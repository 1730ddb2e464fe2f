"""Revocations as values: what the stores say about one token, and the rows that say so."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TypeAlias

from gateway.core.model import RevocationKind

Target: TypeAlias = tuple[RevocationKind, str, str]
"""What is revoked: kind, issuer and value, as in `Revocation`."""


@dataclass(frozen=True, slots=True)
class Revocations:
    """What a store knows against one token; instants in Unix seconds."""

    token: bool = False
    """Its `jti` is on the blacklist."""
    user_at: float | None = None
    """Tokens of its user issued at or before this instant are revoked."""
    issuer_at: float | None = None
    """Tokens of its issuer issued at or before this instant are revoked."""

    def against(self, issued_at: float | None) -> RevocationKind | None:
        """Return the kind that hits a token of this `iat`; one without `iat` is hit by any instant."""
        if self.token:
            return "jti"
        if hits(self.user_at, issued_at):
            return "user"
        return "issuer" if hits(self.issuer_at, issued_at) else None

    def against_anyone(self, issued_at: float | None) -> RevocationKind | None:
        """Return the kind that hits a token of any user."""
        if self.token:
            return "jti"
        return "issuer" if hits(self.issuer_at, issued_at) else None


def hits(revoked_at: float | None, issued_at: float | None) -> bool:
    """Tell whether a revocation of a user or an issuer hits a token of this `iat`."""
    return revoked_at is not None and (issued_at is None or issued_at <= revoked_at)


@dataclass(frozen=True, slots=True)
class Revocation:
    """A row of `revocations`; times in Unix seconds."""

    kind: RevocationKind
    issuer: str
    """The configured name of the issuer or its `iss`; empty for kind `user`."""
    value: str
    """The `jti`, or the id of the user; empty for kind `issuer`."""
    revoked_at: float
    expires_at: float | None = None
    """None: it counts for ever."""
    reason: str | None = None
    revoked_by: str | None = None

    @property
    def target(self) -> tuple[RevocationKind, str, str]:
        """What is revoked: kind, issuer and value."""
        return self.kind, self.issuer, self.value


@dataclass(frozen=True, slots=True)
class Revoked:
    """A revocation that was set or changed, or lifted before it expired."""

    revocation: Revocation
    lifted: bool
    version: int
    """The id of the transaction; ids are in no order of commits."""
    order: int = 0
    """Of two changes of one row the later has the higher; 0: not known."""


@dataclass(frozen=True, slots=True)
class Learnt:
    """A revocation that Redis alone knew, to be written down."""

    target: Target
    """Kind, configured name of the issuer, and value."""
    until: float | None
    """Tokens issued at or before this Unix time are revoked; None for a `jti`."""
    expires_at: float | None
    """Unix seconds; None: it counts for ever."""
    iss: str | None = None
    """How a row of an operator may name the issuer, too."""
    seen: bool = True
    """False: it was lost before it was looked at, and the expiry is guessed."""


@dataclass(frozen=True, slots=True)
class Learning:
    """What became of revocations that were to be written down."""

    written: int
    """Rows that are new, or were extended."""
    said: tuple[bool, ...]
    """Of each, whether a row of an operator says it: then it was not written down."""


def counts(expires_at: float | None, now: float) -> bool:
    """Tell whether a revocation still counts; Unix seconds. In SQL that is `gateway_counts`."""
    return expires_at is None or expires_at > now


def strongest(revocations: Iterable[Revocation]) -> list[Revocation]:
    """Make one of all that revoke the same: the later instant and the later expiry win."""
    found: dict[tuple[RevocationKind, str, str], Revocation] = {}
    for row in revocations:
        other = found.setdefault(row.target, row)
        if other is not row:
            expiries = [each.expires_at for each in (other, row) if each.expires_at is not None]
            found[row.target] = replace(
                row,
                revoked_at=max(other.revoked_at, row.revoked_at),
                expires_at=max(expiries) if len(expiries) == 2 else None,
            )
    return list(found.values())
