"""Shadow: what would be refused is counted, and let through. The only owner of which denials that is for.

An identity is told to upstreams only as far as it is true. If the policy alone would refuse a request (a
scope, a role, a condition), its token and its user are in order, and it passes with all identity headers.
Otherwise it passes as a request without a token: without identity headers, and without the token itself.
"""

from dataclasses import dataclass
from typing import Final

from gateway.core.model import Claims, Resolution, Route, Tier
from gateway.core.reasons import (
    AUDIENCE_MISMATCH,
    CLAIM_MALFORMED,
    CLAIM_MISSING,
    CLAIM_NOT_ACCEPTED,
    CONDITION_FAILED,
    CONDITION_NOT_MET,
    ID_TOKEN_NOT_ACCEPTED,
    INTERNAL_ERROR,
    ORIGIN_NOT_ALLOWED,
    OVERLOADED,
    SUBJECT_MALFORMED,
    SUBJECT_MISSING,
    TOKEN_EXPIRED,
    TOKEN_ISSUED_IN_FUTURE,
    TOKEN_LIFETIME_TOO_LONG,
    TOKEN_NOT_YET_VALID,
    TOKEN_REVOKED,
    Denial,
    Group,
    Reason,
)

_NEVER: Final = frozenset({ORIGIN_NOT_ALLOWED, INTERNAL_ERROR, OVERLOADED})
"""What protects browsers or the gateway itself is enforced in any case, and so is all about the request."""
_OF_SIGNED_TOKENS: Final = frozenset(
    {
        TOKEN_EXPIRED,
        TOKEN_NOT_YET_VALID,
        TOKEN_ISSUED_IN_FUTURE,
        TOKEN_LIFETIME_TOO_LONG,
        AUDIENCE_MISMATCH,
        CLAIM_MISSING,
        CLAIM_MALFORMED,
        CLAIM_NOT_ACCEPTED,
        ID_TOKEN_NOT_ACCEPTED,
        SUBJECT_MISSING,
        SUBJECT_MALFORMED,
        TOKEN_REVOKED,
    }
)
"""Reasons to refuse a token that its issuer has signed. A forged one opens nothing."""
OF_CONDITIONS: Final = frozenset({CONDITION_NOT_MET, CONDITION_FAILED})
"""Reasons that only the condition of a route gives."""


@dataclass(frozen=True, slots=True)
class Shadowed:
    """A denial that was not enforced."""

    reason: Reason
    detail: str | None
    issuer: str | None = None
    subject: str | None = None
    tier: Tier | None = None
    user_id: str | None = None
    claims: Claims | None = None
    resolution: Resolution | None = None

    @classmethod
    def of(cls, denial: Denial) -> "Shadowed":
        return cls(
            denial.reason, denial.detail, denial.issuer, denial.subject, denial.tier, denial.user_id,
            denial.claims, denial.resolution,
        )  # fmt: skip

    def denial(self, route: Route) -> Denial:
        """Return the denial, for those who count and log it."""
        denial = Denial(
            self.reason, self.detail, issuer=self.issuer, subject=self.subject, tier=self.tier, route=route
        )
        denial.user_id = self.user_id
        return denial


@dataclass(frozen=True, slots=True)
class Shadow:
    """What is in shadow, beside routes and conditions, which say so themselves."""

    issuers: frozenset[str] = frozenset()
    """The names of issuers. Their tokens pass if they are signed; they count on all routes."""

    def covers(self, reason: Reason, route: Route, issuer: str | None) -> bool:
        """Return whether a denial for this reason is not enforced."""
        if reason in _NEVER or reason.group is Group.PROXY:
            return False
        if route.shadow or (route.require.condition_shadow and reason in OF_CONDITIONS):
            return True
        signed = reason in _OF_SIGNED_TOKENS or reason.group in {Group.USER, Group.POLICY}
        return issuer in self.issuers and signed
