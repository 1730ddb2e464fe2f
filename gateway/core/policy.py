"""May this user, with this token, use this route? The only owner of that question."""

from typing import Final

from gateway.core.model import Claims, Route, User, UserStatus
from gateway.core.reasons import (
    ROLE_MISSING,
    SCOPE_INSUFFICIENT,
    TENANT_MISMATCH,
    TOKENS_REVOKED_BEFORE,
    USER_DELETED,
    USER_LOCKED,
    USER_PENDING,
    USER_SUSPENDED,
    Denial,
    Reason,
)

_STATUS_REASONS: Final[dict[UserStatus, Reason]] = {
    UserStatus.PENDING: USER_PENDING,
    UserStatus.SUSPENDED: USER_SUSPENDED,
    UserStatus.LOCKED: USER_LOCKED,
    UserStatus.DELETED: USER_DELETED,
}


def authorize(route: Route, user: User, claims: Claims) -> None:
    """Raise a `Denial` unless the user is active and everything the route requires is there.

    Scopes must all be in the token (RFC 6750 §3.1); of the roles the user needs one. A tenant in
    the token that is not the user's is refused also when the user has none: a token for one
    tenant must never act in another, or in none.
    """
    if user.status is not UserStatus.ACTIVE:
        raise Denial(_STATUS_REASONS[user.status])
    if user.tokens_valid_after is not None and (
        claims.issued_at is None or claims.issued_at <= user.tokens_valid_after
    ):
        raise Denial(TOKENS_REVOKED_BEFORE, "the user's `tokens_valid_after` is not before `iat`")
    if claims.tenant is not None and claims.tenant != user.tenant:
        raise Denial(TENANT_MISMATCH, "the token's tenant is not the user's")
    require = route.require
    if require.tenant is not None and user.tenant != require.tenant:
        raise Denial(TENANT_MISMATCH, f"the route requires the tenant {require.tenant!r}")
    if not require.scopes.issubset(claims.scopes):
        missing = sorted(require.scopes.difference(claims.scopes))
        raise Denial(SCOPE_INSUFFICIENT, f"missing: {' '.join(missing)}")
    if require.roles and require.roles.isdisjoint(user.roles):
        raise Denial(ROLE_MISSING, f"needed is one of: {', '.join(sorted(require.roles))}")
