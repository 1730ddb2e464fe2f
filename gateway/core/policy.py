"""Authorization: whether a user, with a token, may use a route. The only owner of this rule."""

from collections.abc import Iterable
from typing import Final

from gateway.core.conditions import Condition, RequestCheck
from gateway.core.model import Claims, MissingUser, Request, Route, User, UserStatus
from gateway.core.reasons import (
    ROLE_MISSING,
    SCOPE_INSUFFICIENT,
    TENANT_MISMATCH,
    TOKENS_REVOKED_BEFORE,
    USER_DELETED,
    USER_LOCKED,
    USER_NOT_FOUND,
    USER_PENDING,
    USER_SUSPENDED,
    Denial,
    Reason,
)

STATUS_REASONS: Final[dict[UserStatus, Reason]] = {
    UserStatus.PENDING: USER_PENDING,
    UserStatus.SUSPENDED: USER_SUSPENDED,
    UserStatus.LOCKED: USER_LOCKED,
    UserStatus.DELETED: USER_DELETED,
}
"""Why a user is refused whose status is not `active`."""


def authorize(route: Route, user: User, claims: Claims) -> None:
    """Raise a `Denial` unless the user is active and meets the requirements of the route.

    A route may also allow users who are not active; all other rules hold for them as well. The token must
    have all scopes (RFC 6750 §3.1) and one of the token's roles, the user one of the user's. If the token's
    tenant is not the user's, it is refused, also if the user has none: a token for one tenant must never act
    in another, or without one. A condition that reads the request is checked by itself (`request_check`).
    """
    if user.status is not UserStatus.ACTIVE and not route.allow_inactive:
        raise Denial(STATUS_REASONS[user.status])
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
        raise _scope_insufficient(route, claims)
    _check_token_roles(route, claims)
    if require.roles and require.roles.isdisjoint(user.roles):
        raise Denial(ROLE_MISSING, f"one of these is needed: {', '.join(sorted(require.roles))}")
    _check_condition(route, claims, user)


def authorize_without_user(route: Route, claims: Claims) -> None:
    """Raise a `Denial` unless the route takes a token that no user is behind.

    A route that asks for a role or a tenant asks for a user, whatever its `missing_user` says.
    """
    require = route.require
    if route.missing_user is not MissingUser.FORWARD or require.roles or require.tenant is not None:
        raise Denial(USER_NOT_FOUND)
    if not require.scopes.issubset(claims.scopes):
        raise _scope_insufficient(route, claims)
    _check_token_roles(route, claims)
    _check_condition(route, claims, None)


def request_check(route: Route, claims: Claims | None, user: User | None) -> RequestCheck | None:
    """Return the check of the condition that each request must meet; None if there is none.

    It is for requests that `authorize`, or `authorize_without_user`, lets pass; `claims` is None for requests
    without a token.
    """
    condition = route.require.condition
    return None if condition is None or not condition.per_request else condition.prepare(claims, user)


def check_once(
    condition: Condition, request: Request, route: Route, claims: Claims | None, user: User | None
) -> None:
    """Raise a `Denial` unless a condition holds for one request of which nothing was prepared."""
    if condition.per_request:
        condition.prepare(claims, user)(request, route)
    else:
        condition.check(claims, user)


def claims_read(routes: Iterable[Route]) -> frozenset[str]:
    """Return the names of the claims that must be kept of tokens' payloads for conditions."""
    conditions = (route.require.condition for route in routes)
    return frozenset().union(*(each.claims_read for each in conditions if each is not None))


def _check_condition(route: Route, claims: Claims, user: User | None) -> None:
    condition = route.require.condition
    if condition is not None and not condition.per_request:
        condition.check(claims, user)


def _check_token_roles(route: Route, claims: Claims) -> None:
    wanted = route.require.token_roles
    if wanted and wanted.isdisjoint(claims.roles):
        raise Denial(ROLE_MISSING, f"the token needs one of these: {', '.join(sorted(wanted))}")


def _scope_insufficient(route: Route, claims: Claims) -> Denial:
    missing = sorted(route.require.scopes.difference(claims.scopes))
    return Denial(SCOPE_INSUFFICIENT, f"missing: {' '.join(missing)}")
