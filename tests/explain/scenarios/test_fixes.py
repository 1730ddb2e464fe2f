"""Fixes by class: the place of the configuration, the kind of the token, the client, the issuer; never less of a check."""

import time
from datetime import UTC, datetime

import pytest

from gateway.core.model import JSON
from gateway.explain import Explanation, Fix
from tests import tokens
from tests.explain.scenarios import never
from tests.explain.scenarios.scenario import Scenario, play
from tests.explain.scenarios.stage import Stage

# ruff: noqa: E501 -- a table reads better with one entry a line

session = pytest.mark.asyncio(loop_scope="session")
ANN = ({"subject": "{}"},)
SCOPE = "scope_insufficient"
ORDERS = "/orders/1"
ROLES: dict[str, JSON] = {"routes[0].require": {"token_roles": ["staff"]}}


def scope(
    name: str, *says: str, config: bool = False, more: dict[str, JSON] | None = None, **claims: JSON
) -> Scenario:
    return Scenario(
        f"scope {name}",
        SCOPE,
        SCOPE,
        claims={**claims, **(more or {})},
        held=ANN,
        url=ORDERS,
        says=says,
        config=config,
        command=False,
    )


def staff(
    name: str, *says: str, config: bool = False, more: dict[str, JSON] | None = None, **claims: JSON
) -> Scenario:
    return Scenario(
        f"role {name}", "role_missing", "role_missing", claims={**claims, **(more or {})}, held=ANN, url="/private/x", changes=ROLES,
        says=says, config=config, command=False,
    )  # fmt: skip


def audience(name: str, *says: str, cause: str = "audience_mismatch", **claims: JSON) -> Scenario:
    return Scenario(
        f"audience {name}", "audience_mismatch", cause, claims=claims, held=ANN, says=says, command=False
    )


SCENARIOS = [
    scope("not there", "Let the client request", scope="a b"),
    scope("not there at all", "Let the client request"),
    scope("in scp as a list", "at `scp`", config=True, scp=["orders:read", "x"]),
    scope("in scp as a text", "at `scp`", config=True, scp="x orders:read"),
    scope("in permissions", "at `permissions`", config=True, permissions=["orders:read"]),
    scope("in scopes", "at `scopes`", config=True, scopes=["orders:read"]),
    scope("in authorities", "at `authorities`", config=True, authorities=["orders:read"]),
    scope("in realm_access.roles", "at `realm_access.roles`", config=True, realm_access={"roles": ["orders:read"]}),
    scope("in our client's roles", "`resource_access.orders-api.roles`", config=True, resource_access={"orders-api": {"roles": ["orders:read"]}}),
    scope("in another client's roles", "Let the client request", resource_access={"billing": {"roles": ["orders:read"]}}),
    scope("behind a URL", "`https://x.example/scope`", config=True, more={"https://x.example/scope": "orders:read"}),
    scope("nested", "at `authz.scopes`", config=True, authz={"scopes": ["orders:read"]}),
    scope("with commas", "separated by \",\"", config=True, scope="x,orders:read"),
    scope("with commas and spaces", "separated by \",\"", config=True, scope="orders:read, x"),
    scope("with commas in scp", "separated by", scp="x,orders:read"),
    scope("in what the user can write", "Let the client request", user_metadata={"scopes": ["orders:read"]}),
    scope("in what the user can write, at Clerk", "Let the client request", unsafe_metadata={"permissions": ["orders:read"]}),
    scope("in capitals", "\"ORDERS:READ\" in the token", scope="ORDERS:READ"),
    scope("with a dot", "may spell the scopes otherwise", scope="orders.read"),
    scope("behind the API's URL", "may spell the scopes otherwise", scope="https://api.example.com/orders.read"),
    scope("in another order", "may spell the scopes otherwise", scope="read:orders"),
    scope("in the singular", "may spell the scopes otherwise", scope="order:read"),
    scope("with a star", "a `*` covers none", scope="orders:*"),
    scope("of a client that is named", "the client \"web\"", scope="x", azp="web"),
    staff("not there", "Grant the user one of the roles"),
    staff("in realm_access", "at `realm_access.roles`", config=True, realm_access={"roles": ["staff"]}),
    staff("in groups", "at `groups`", config=True, groups=["staff"]),
    staff("in cognito:groups", "`cognito:groups`", config=True, more={"cognito:groups": ["staff"]}),
    staff("behind a URL", "`https://x.example/roles`", config=True, more={"https://x.example/roles": ["staff"]}),
    staff("in another client's roles", "Grant the user", resource_access={"billing": {"roles": ["staff"]}}),
    staff("in app_metadata", "at `app_metadata.roles`", config=True, app_metadata={"roles": ["staff"]}),
    staff("in what the user can write", "Grant the user", user_metadata={"roles": ["staff"]}),
    staff("in capitals", "\"Staff\" in the token", roles=["Staff"]),
    staff("of Spring", "\"ROLE_staff\" in the token", roles=["ROLE_staff"]),
    staff("as a path of Keycloak", "\"/staff\" in the token", roles=["/staff"]),
    staff("left out by Entra", "there were too many", more={"_claim_names": {"groups": "src1"}}),
    staff("left out by Entra, in short", "there were too many", hasgroups=True),
    staff("with commas", "let the issuer write", groups="a,staff"),
    Scenario("role of the user", "role_missing", "role_missing", held=ANN, url="/admin/x", says=("Decide whether",), command=True),
    Scenario("role of the user in capitals", "role_missing", "role_missing", held=({"subject": "{}", "roles": ["Admin"]},), url="/admin/x", says=("spelt otherwise",), command=False),
    Scenario("role of the user that the token has", "role_missing", "role_missing", claims={"roles": ["admin"]}, held=ANN, url="/admin/x", says=("compares the user's roles",), command=True),
    Scenario("one of several roles", "role_missing", "role_missing", held=ANN, url="/private/x", changes={"routes[0].require": {"roles": ["admin", "editor"]}}, says=("and which one",), command=False),
    audience("of another service", "is a decision", aud="billing-api"),
    audience("of several others", "is a decision", aud=["billing-api", "x"]),
    audience("missing", "the issuer put `aud`", aud=None),
    audience("missing, with a client", "Cognito", aud=None, client_id="abc"),
    audience("in capitals", "differ only in spelling", aud="ORDERS-API"),
    audience("with a slash", "differ only in spelling", aud="orders-api/"),
    audience("of Entra", "`api://`", aud="api://orders-api"),
    audience("as a URL", "differ only in spelling", aud="https://orders-api"),
    audience("with commas", "as a list", aud="orders-api,other"),
    audience("with spaces", "as a list", aud="other orders-api"),
    audience("of Microsoft Graph", "Microsoft Graph", aud="00000003-0000-0000-c000-000000000000"),
    audience("of Keycloak's account", "mapper", aud="account"),
    audience("of AWS", "AWS STS", aud="sts.amazonaws.com"),
    audience("of Auth0's userinfo", "names no `audience`", aud="https://t.eu.auth0.com/userinfo"),
    audience("of the client", "for the client \"web\" itself", aud="web", azp="web"),
    audience("of an ID token", "Send the access token", cause="id_token_used", aud="web", nonce="n"),
    Scenario("another client", "claim_not_accepted", "claim_not_accepted", claims={"azp": "cli"}, held=ANN, changes={"issuers[0].expect": {"azp": ["web"]}}, says=("is a decision",), command=False),
    Scenario("client elsewhere", "claim_not_accepted", "claim_not_accepted", claims={"ext": {"azp": "web"}}, held=ANN, changes={"issuers[0].expect": {"azp": ["web"]}}, says=("may name the wrong path",), command=False),
    Scenario("another use", "claim_not_accepted", "claim_not_accepted", claims={"token_use": "other"}, held=ANN, changes={"issuers[0].expect": {"token_use": ["access"]}}, says=("accepts",), command=False),
    audience("of a refresh token", "This is a refresh token", cause="id_token_used", typ="Refresh", aud="https://idp.example.com/"),
    Scenario("condition on a claim elsewhere", "condition_failed", "condition_failed", claims={"app_metadata": {"plan": "pro"}}, held=ANN, url="/pro/x", says=("\"pro\" at `app_metadata.plan`",), command=False),
    Scenario("condition on what the user can write", "condition_failed", "condition_failed", claims={"user_metadata": {"plan": "pro"}}, held=ANN, url="/pro/x", says=("the issuer decides who gets one",), command=False),
    Scenario("claim of a wrong form", "claim_malformed", "token_malformed", claims={"aud": 7}, held=ANN, says=("RFC 7519 §4.1.",), command=False),
    Scenario("shared secret", "algorithm_not_allowed", "algorithm_not_allowed", held=ANN, says=("somebody who forges",), command=False, sign=lambda claims: tokens.sign(claims, b"x" * 64, "HS256", kid="main")),
    Scenario("header of a wrong form", "token_malformed", "token_malformed", held=ANN, says=("as texts",), command=False, sign=lambda claims: tokens.sign(claims, tokens.rsa_key("main"), kid=7)),
    Scenario("type of another token", "token_type_invalid", "token_malformed", held=ANN, says=("Send an access token",), command=False, sign=lambda claims: tokens.sign(claims, tokens.rsa_key("main"), typ="dpop+jwt")),
    Scenario("ordinary base64", "token_malformed", "token_malformed", held=ANN, says=("encoded it anew",), command=False, sign=lambda claims: tokens.sign(claims, tokens.rsa_key("main")) + b"=="),
    Scenario("required claim", "claim_missing", "claim_missing", held=ANN, changes={"issuers[0].require": ["exp", "sub", "org"]}, says=("Let the issuer add `org`",), command=False),
    Scenario("required claim elsewhere", "claim_missing", "claim_missing", claims={"https://x.example/org": "a"}, held=ANN, changes={"issuers[0].require": ["exp", "sub", "org"]}, says=("correct the path",), command=False, config=True),
    Scenario("tenant elsewhere", "claim_missing", "claim_missing", claims={"ext": {"tenant_id": "acme"}}, held=({"subject": "{}", "tenant": "acme"},), changes={"issuers[0].claims": {"tenant": "tenant_id"}}, says=("at `ext.tenant_id`",), command=False, config=True),
    Scenario("long life", "token_lifetime_too_long", "token_lifetime_too_long", held=ANN, changes={"issuers[0].max_lifetime": "1m"}, says=("is a decision",), command=False),
    Scenario("algorithm", "algorithm_not_allowed", "algorithm_not_allowed", held=ANN, changes={"issuers[0].algorithms": ["ES256"]}, says=("is a decision",), command=False),
    Scenario("user without a tenant", "tenant_mismatch", "tenant_mismatch", claims={"tenant_id": "acme"}, held=ANN, says=("Find out",), command=True),
    Scenario("user of another tenant", "tenant_mismatch", "identity_linked_to_other_tenant", claims={"tenant_id": "acme"}, held=({"subject": "{}", "tenant": "globex"},), says=("Find out which tenant is right",), command=True),
    Scenario("tenant in capitals", "tenant_mismatch", "tenant_mismatch", claims={"tenant_id": "ACME"}, held=({"subject": "{}", "tenant": "acme"},), says=("differ only in spelling",), command=False),
    Scenario("tenant under its other name", "claim_missing", "claim_missing", claims={"tid": "acme"}, held=ANN, changes={"issuers[0].require": ["exp", "sub", "tenant_id"]}, says=("\"acme\" at `tid`",), command=False),
    Scenario("tenant of the route, and none", "tenant_mismatch", "tenant_mismatch", held=ANN, url="/tenant/x", says=("Find out",), command=False),
    Scenario("tenant of the route", "tenant_mismatch", "tenant_mismatch", held=({"subject": "{}", "tenant": "globex"},), url="/tenant/x", command=False),
]  # fmt: skip


@session
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda each: each.name)
async def test_the_fix_is_of_its_class(stage: Stage, scenario: Scenario) -> None:
    await play(stage, scenario)


_EARLY = datetime(2020, 1, 1, tzinfo=UTC)
TIMES = [
    ("expired long ago", {"iat": -7200, "exp": -3600}, "token_expired", "token_expired", "refresh"),
    (
        "expired just now",
        {"iat": -400, "exp": -40},
        "token_expired",
        "clock_skew",
        "The clock of Postgres agrees",
    ),
    ("not yet, a little", {"nbf": 120}, "token_not_yet_valid", "clock_skew", "s ahead of the gateway's"),
    (
        "of another time zone",
        {"iat": 19_800, "exp": 20_400},
        "token_issued_in_future",
        "token_issued_in_future",
        "5.5 h nearly to the minute",
    ),
    (
        "ended before it began",
        {"iat": -60, "exp": -3660},
        "token_expired",
        "token_expired",
        "valid at no time",
    ),
    (
        "begins after its end",
        {"nbf": 900, "exp": 600},
        "token_not_yet_valid",
        "token_not_yet_valid",
        "Correct the issuer",
    ),
    (
        "not yet, by far",
        {"nbf": 7200, "exp": 9000},
        "token_not_yet_valid",
        "token_not_yet_valid",
        "Use the token after",
    ),
    (
        "of the future, a little",
        {"iat": 250, "exp": 600},
        "token_issued_in_future",
        "clock_skew",
        "issuer's clock is at least",
    ),
    (
        "of the future",
        {"iat": 7200, "exp": 9000},
        "token_issued_in_future",
        "token_issued_in_future",
        "issuer's clock",
    ),
]


@session
@pytest.mark.parametrize(("name", "dates", "reason", "cause", "says"), TIMES, ids=[each[0] for each in TIMES])
async def test_times(
    stage: Stage, name: str, dates: dict[str, int], reason: str, cause: str, says: str
) -> None:
    now = int(time.time())
    given = {claim: now + offset for claim, offset in dates.items()}
    held = ({"subject": "{}", "created_at": _EARLY},)
    await play(stage, Scenario(name, reason, cause, claims={**given}, held=held, says=(says,), command=False))


@session
async def test_dates_that_are_no_seconds(stage: Stage) -> None:
    now = int(time.time())
    await play(
        stage,
        Scenario(
            "milliseconds",
            "claim_malformed",
            "token_malformed",
            claims={"exp": (now + 600) * 1000},
            held=ANN,
            says=("number of seconds", f"{now + 600}"),
            command=False,
        ),
    )


@pytest.mark.parametrize(
    ("fix", "breaks"),
    [
        (Fix("x", config='issuers[0].audiences: ["a", "b"]'), True),
        (Fix("x", config="issuers[0].expect: {}"), True),
        (Fix("x", config="routes[3].require.scopes: []"), True),
        (Fix("x", config="issuers[0].leeway: 330s"), True),
        (Fix("x", config='issuers[0].claims.scopes: ["user_metadata.scopes"]'), True),
        (Fix("x", command="docker compose up -d"), True),
        (Fix("x", command="gateway users change 7 --add-role=admin"), True),
        (Fix("Decide whether it should.", command="gateway users change 7 --add-role=admin"), False),
        (Fix("x", command="gateway users link 7 --subject=a"), True),
        (Fix("x", config='issuers[0].claims.scopes: ["scope", "scp"]'), False),
    ],
)
def test_the_rules_find_what_they_are_for(fix: Fix, *, breaks: bool) -> None:
    explanation = Explanation("deny", "x", "x", "x", fix, ())
    assert (never.broken(explanation) != []) == breaks
