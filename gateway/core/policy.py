"""Authorization: whether a user, with a token, may use a route. The only owner of this rule."""

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
    """Raise a `Denial` unless the user is active and meets the requirements of the route.

    The token must have all scopes (RFC 6750 §3.1), the user one of the roles. If the token's tenant is not
    the user's, it is refused, also if the user has none: a token for one tenant must never act in another, or
    without one.
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
        raise Denial(ROLE_MISSING, f"one of these is needed: {', '.join(sorted(require.roles))}")
