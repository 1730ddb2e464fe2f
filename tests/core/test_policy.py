"""Authorization of a user with a token on a route."""

import pytest

from gateway.core.model import Claims, Requirement, Route, User, UserStatus
from gateway.core.policy import authorize
from gateway.core.reasons import Denial


def claims(
    *,
    tenant: str | None = None,
    scopes: tuple[str, ...] = (),
    roles: tuple[str, ...] = (),
    iat: float | None = 100.0,
) -> Claims:
    return Claims("https://i/", "main", "member", ("api",), 200.0, iat, None, tenant, scopes, roles, {})


def user(
    status: UserStatus = UserStatus.ACTIVE,
    *,
    tenant: str | None = None,
    roles: tuple[str, ...] = (),
    valid_after: float | None = None,
) -> User:
    return User("1", status, tenant=tenant, roles=roles, tokens_valid_after=valid_after)


def route(
    *, scopes: frozenset[str] = frozenset(), roles: frozenset[str] = frozenset(), tenant: str | None = None
) -> Route:
    return Route("r", "/", "u", require=Requirement(scopes, roles, tenant))


@pytest.mark.parametrize(
    ("where", "who", "token"),
    [
        (route(), user(), claims()),
        (route(), user(tenant="a"), claims()),
        (route(), user(tenant="a"), claims(tenant="a")),
        (route(tenant="a"), user(tenant="a"), claims()),
        (route(scopes=frozenset({"r"})), user(), claims(scopes=("w", "r"))),
        (route(scopes=frozenset({"r", "w"})), user(), claims(scopes=("w", "r", "x"))),
        (route(roles=frozenset({"admin", "owner"})), user(roles=("owner",)), claims()),
        (route(), user(valid_after=99.0), claims(iat=100.0)),
        (route(), user(), claims(iat=None)),
    ],
)
def test_who_may_passes(where: Route, who: User, token: Claims) -> None:
    authorize(where, who, token)


@pytest.mark.parametrize(
    ("where", "who", "token", "reason"),
    [
        (route(), user(UserStatus.PENDING), claims(), "user_pending"),
        (route(), user(UserStatus.SUSPENDED), claims(), "user_suspended"),
        (route(), user(UserStatus.LOCKED), claims(), "user_locked"),
        (route(), user(UserStatus.DELETED), claims(), "user_deleted"),
        (route(), user(valid_after=100.0), claims(iat=100.0), "tokens_revoked_before"),
        (route(), user(valid_after=100.5), claims(iat=100.0), "tokens_revoked_before"),
        (route(), user(valid_after=1.0), claims(iat=None), "tokens_revoked_before"),
        (route(), user(tenant="a"), claims(tenant="b"), "tenant_mismatch"),
        (route(), user(tenant="a"), claims(tenant="A"), "tenant_mismatch"),
        (route(), user(), claims(tenant="b"), "tenant_mismatch"),
        (route(tenant="a"), user(), claims(), "tenant_mismatch"),
        (route(tenant="a"), user(tenant="b"), claims(tenant="b"), "tenant_mismatch"),
        (route(scopes=frozenset({"r", "w"})), user(), claims(scopes=("r",)), "scope_insufficient"),
        (route(scopes=frozenset({"read"})), user(), claims(scopes=("reader", "READ")), "scope_insufficient"),
        # A role is the user's, from the directory; what the token claims is not enough.
        (route(roles=frozenset({"admin"})), user(), claims(roles=("admin",)), "role_missing"),
        (route(roles=frozenset({"admin"})), user(roles=("Admin", "adm")), claims(), "role_missing"),
    ],
)
def test_who_may_not_is_told_why(where: Route, who: User, token: Claims, reason: str) -> None:
    with pytest.raises(Denial) as caught:
        authorize(where, who, token)

    assert caught.value.reason.code == reason


@pytest.mark.parametrize("status", [status for status in UserStatus if status is not UserStatus.ACTIVE])
def test_no_status_but_active_passes_and_none_is_outweighed_by_roles(status: UserStatus) -> None:
    strong = route(roles=frozenset({"admin"}))

    with pytest.raises(Denial) as caught:
        authorize(strong, user(status, roles=("admin",)), claims())
    assert caught.value.reason.code == f"user_{status.value}"
