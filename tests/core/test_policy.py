"""Authorization of a user with a token on a route."""

from dataclasses import replace

import pytest

from gateway.core.model import Claims, MissingUser, Requirement, Route, User, UserStatus
from gateway.core.policy import authorize, authorize_without_user
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
    *,
    scopes: frozenset[str] = frozenset(),
    roles: frozenset[str] = frozenset(),
    tenant: str | None = None,
    token_roles: frozenset[str] = frozenset(),
) -> Route:
    return Route("r", "/", "u", require=Requirement(scopes, roles, tenant, token_roles=token_roles))


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
        (route(token_roles=frozenset({"admin", "owner"})), user(), claims(roles=("owner",))),
        (route(), user(valid_after=99.0), claims(iat=100.0)),
        (route(), user(), claims(iat=None)),
    ],
)
def test_a_request_that_meets_every_rule_passes(where: Route, who: User, token: Claims) -> None:
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
        # And the other way round, where the token's are asked for.
        (route(token_roles=frozenset({"admin"})), user(roles=("admin",)), claims(), "role_missing"),
        (route(token_roles=frozenset({"admin"})), user(), claims(roles=("Admin", "adm")), "role_missing"),
    ],
)
def test_a_request_that_breaks_a_rule_is_denied_with_its_reason(
    where: Route, who: User, token: Claims, reason: str
) -> None:
    with pytest.raises(Denial) as caught:
        authorize(where, who, token)

    assert caught.value.reason.code == reason


@pytest.mark.parametrize("status", [status for status in UserStatus if status is not UserStatus.ACTIVE])
def test_no_status_but_active_passes_and_none_is_outweighed_by_roles(status: UserStatus) -> None:
    strong = route(roles=frozenset({"admin"}))

    with pytest.raises(Denial) as caught:
        authorize(strong, user(status, roles=("admin",)), claims())
    assert caught.value.reason.code == f"user_{status.value}"


@pytest.mark.parametrize("status", UserStatus)
def test_a_route_may_allow_any_status(status: UserStatus) -> None:
    authorize(replace(route(), allow_inactive=True), user(status), claims())


@pytest.mark.parametrize(
    ("where", "who", "token", "reason"),
    [
        (route(), user(UserStatus.DELETED, valid_after=100.0), claims(), "tokens_revoked_before"),
        (route(), user(UserStatus.DELETED, tenant="a"), claims(tenant="b"), "tenant_mismatch"),
        (route(tenant="a"), user(UserStatus.LOCKED), claims(), "tenant_mismatch"),
        (route(roles=frozenset({"admin"})), user(UserStatus.SUSPENDED), claims(), "role_missing"),
        (route(scopes=frozenset({"r"})), user(UserStatus.PENDING), claims(), "scope_insufficient"),
    ],
)
def test_all_other_rules_hold_for_users_who_are_not_active(
    where: Route, who: User, token: Claims, reason: str
) -> None:
    with pytest.raises(Denial) as caught:
        authorize(replace(where, allow_inactive=True), who, token)

    assert caught.value.reason.code == reason


def test_a_route_may_take_a_token_without_a_user() -> None:
    scopes = frozenset({"r"})
    authorize_without_user(replace(route(), missing_user=MissingUser.FORWARD), claims(tenant="a"))
    authorize_without_user(
        replace(route(scopes=scopes), missing_user=MissingUser.FORWARD), claims(scopes=("r",))
    )
    authorize_without_user(
        replace(route(token_roles=frozenset({"owner"})), missing_user=MissingUser.FORWARD),
        claims(roles=("owner",)),
    )


@pytest.mark.parametrize(
    ("where", "missing", "reason"),
    [
        (route(), MissingUser.DENY, "user_not_found"),
        (route(scopes=frozenset({"r"})), MissingUser.DENY, "user_not_found"),
        (route(scopes=frozenset({"r"})), MissingUser.FORWARD, "scope_insufficient"),
        (route(token_roles=frozenset({"owner"})), MissingUser.FORWARD, "role_missing"),
        # `gateway check` refuses these two; a request finds no way around it either.
        (route(roles=frozenset({"admin"})), MissingUser.FORWARD, "user_not_found"),
        (route(tenant="a"), MissingUser.FORWARD, "user_not_found"),
    ],
)
def test_a_token_without_a_user_is_refused_where_a_user_is_needed(
    where: Route, missing: MissingUser, reason: str
) -> None:
    with pytest.raises(Denial) as caught:
        authorize_without_user(
            replace(where, missing_user=missing, allow_inactive=True), claims(roles=("admin",), tenant="a")
        )

    assert caught.value.reason.code == reason
