"""A request's way from the wire to its admission: one row for each reason to stop it."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest

from gateway.core.model import (
    Claims,
    Header,
    Identity,
    Request,
    Resolution,
    RevocationKind,
    Tier,
    UserStatus,
)
from gateway.core.reasons import (
    CATALOGUE,
    REVOCATION_UNAVAILABLE,
    USER_STORE_UNAVAILABLE,
    Denial,
)
from tests.pipelines import NOW, World, payload, request, sent, token
from tests.tokens import ISSUER, ec_key, resigned, sign, unsigned, without


@pytest.fixture
def world() -> World:
    return World()


# Every reason -----------------------------------------------------------------------------------


def as_it_is(world: World) -> None:
    """Arrange nothing."""


@dataclass(frozen=True)
class Row:
    """What causes a denial, and what an operator learns from it besides its reason."""

    request: Request
    arrange: Callable[[World], None] = as_it_is
    route: str | None = "echo"
    issuer: str | None = "main"
    subject: str | None = None
    tier: Tier | None = None


def verified(target: str, raw: bytes, subject: str, arrange: Callable[[World], None] = as_it_is) -> Row:
    """A denial of a request whose token is good and whose user was looked up."""
    route = target.split("/")[1]
    return Row(request(target, raw), arrange, route=route, subject=subject, tier=Tier.POSTGRES)


def unread(*tokens: bytes, headers: tuple[Header, ...] = ()) -> Row:
    """A denial before anyone knows whose token it is."""
    return Row(request("/echo", *tokens, headers=headers), issuer=None)


def revoke(kind: RevocationKind) -> Callable[[World], None]:
    return lambda world: setattr(world.directory, "revoked", kind)


def fail(denial: Denial) -> Callable[[World], None]:
    return lambda world: setattr(world.directory, "failure", denial)


ROWS: dict[str, Row] = {
    "credentials_missing": unread(),
    "credentials_malformed": unread(headers=((b"Authorization", b"Basic eDp5"),)),
    "credentials_multiple": unread(token(), token()),
    "token_too_large": unread(b"a" * 20_000),
    "token_malformed": unread(b"opaque"),
    "token_type_invalid": unread(sign(payload(), ec_key(), typ="logout+jwt")),
    "critical_header_unsupported": unread(sign(payload(), ec_key(), crit=["x"], x=1)),
    "algorithm_not_allowed": unread(unsigned({"alg": "none"}, payload())),
    "issuer_missing": unread(sign(without(payload(), "iss"), ec_key())),
    "issuer_untrusted": unread(token(iss="https://elsewhere.example.com/")),
    "key_unknown": Row(request("/echo", sign(payload(), ec_key("unknown")))),
    "signature_invalid": Row(request("/echo", resigned(token(), bytes(64)))),
    "token_expired": Row(request("/echo", token(exp=NOW - 60))),
    "token_not_yet_valid": Row(request("/echo", token(nbf=NOW + 60))),
    "token_issued_in_future": Row(request("/echo", token(iat=NOW + 60))),
    "token_lifetime_too_long": Row(request("/echo", token(exp=NOW + 601))),
    "audience_mismatch": Row(request("/echo", token(aud="elsewhere"))),
    "claim_missing": Row(request("/echo", sign(without(payload(), "exp"), ec_key()))),
    "claim_not_accepted": Row(request("/echo", token(cnf={"jkt": "thumbprint"}))),
    "id_token_not_accepted": Row(request("/echo", token(nonce="n"))),
    "claim_malformed": Row(request("/echo", token(exp="tomorrow"))),
    "subject_missing": Row(request("/echo", sign(without(payload(role="anon"), "sub"), ec_key()))),
    "subject_malformed": Row(request("/echo", token("a\nb"))),
    "token_revoked": verified("/echo", token(), "member", revoke("jti")),
    "tokens_revoked_before": verified("/echo", token("revoked"), "revoked"),
    "user_not_found": verified("/echo", token("ghost"), "ghost"),
    "account_not_linked": verified("/join", token("taken"), "taken"),
    "user_deleted": verified("/echo", token("deleted"), "deleted"),
    "user_suspended": verified("/echo", token("suspended"), "suspended"),
    "user_locked": verified("/echo", token("locked"), "locked"),
    "user_pending": verified("/echo", token("pending"), "pending"),
    "tenant_mismatch": verified("/echo", token("tenant", tenant_id="umbrella"), "tenant"),
    "scope_insufficient": verified("/orders", token(scope="orders:write"), "member"),
    "role_missing": verified("/admin", token(roles=["admin"]), "member"),
    "condition_not_met": verified("/pro", token(jti="other"), "member"),
    "condition_failed": verified("/pro", token(), "member"),
    "origin_not_allowed": Row(
        request("/browser", headers=((b"Cookie", b"session=" + token()),), method="POST"),
        route="browser", issuer=None,
    ),
    "keys_unavailable": Row(request("/echo", token()), lambda world: world.keys.sets.clear()),
    "user_store_unavailable": Row(
        request("/echo", token()), fail(Denial(USER_STORE_UNAVAILABLE)), subject="member"
    ),
    "revocation_unavailable": Row(
        request("/echo", token()), fail(Denial(REVOCATION_UNAVAILABLE, tier=Tier.REDIS)),
        subject="member", tier=Tier.REDIS,
    ),
    "route_not_found": Row(request("/nowhere"), route=None, issuer=None),
    "method_not_allowed": Row(request("/read", token(), method="POST"), route="read", issuer=None),
    "method_not_implemented": Row(request("/read", token(), method="LABEL"), route="read", issuer=None),
    "request_malformed": Row(request("/public/../admin"), route=None, issuer=None),
}  # fmt: skip
# What the data plane raises around the pipeline, or about itself, and what issuers of opaque tokens say.
ELSEWHERE = {
    "assertion_unavailable",
    "introspection_unavailable",
    "token_inactive",
    "front_not_trusted",
    "internal_error",
    "overloaded",
    "request_too_large",
    "target_too_long",
    "body_too_large",
    "request_timeout",
    "connections_exceeded",
    "upstream_unreachable",
    "upstream_timeout",
    "upstream_protocol_error",
    # Limits are wrapped around the pipeline.
    "rate_limited",
    "quota_exceeded",
    "concurrency_exceeded",
}


def test_every_reason_has_a_row_or_is_raised_elsewhere() -> None:
    assert set(CATALOGUE) == ROWS.keys() | ELSEWHERE
    assert not ROWS.keys() & ELSEWHERE


@pytest.mark.parametrize("code", ROWS)
async def test_every_reason(world: World, code: str) -> None:
    row = ROWS[code]
    row.arrange(world)
    with pytest.raises(Denial) as caught:
        await world.pipeline.admit(row.request)
    denial = caught.value

    assert denial.reason is CATALOGUE[code]
    assert (denial.route.name if denial.route else None) == row.route
    assert (denial.issuer, denial.subject, denial.tier) == (row.issuer, row.subject, row.tier)


@pytest.mark.parametrize("code", [code for code, row in ROWS.items() if row.subject is None])
async def test_no_user_is_looked_up_for_a_token_that_is_not_good(world: World, code: str) -> None:
    ROWS[code].arrange(world)
    with pytest.raises(Denial):
        await world.pipeline.admit(ROWS[code].request)

    assert world.directory.asked == []


@pytest.mark.parametrize("code", ROWS)
async def test_an_operator_reads_no_token_and_no_subject_in_a_denial(world: World, code: str) -> None:
    row = ROWS[code]
    row.arrange(world)
    with pytest.raises(Denial) as caught:
        await world.pipeline.admit(row.request)

    text = str(caught.value)
    # A code may be a word that is also a seeded subject: only what follows it is free text.
    detail = text.removeprefix(code)
    for name, value in row.request.headers:
        if name == b"Authorization":
            assert value.decode() not in text
            assert value.decode().removeprefix("Bearer ") not in text
    for subject in ("ghost", "suspended", "locked", "pending", "deleted"):
        assert subject not in detail


# Other ways to the same reasons -----------------------------------------------------------------


@pytest.mark.parametrize("kind", ["user", "issuer"])
async def test_a_revocation_of_all_tokens_differs_from_that_of_one_token(
    world: World, kind: RevocationKind
) -> None:
    world.directory.revoked = kind
    with pytest.raises(Denial, match=f"tokens_revoked_before: by a revocation of the {kind}'s tokens"):
        await world.pipeline.admit(request("/echo", token()))


@pytest.mark.parametrize("subject", ["ghost", "suspended"])
async def test_a_revoked_token_is_called_revoked_for_every_user(world: World, subject: str) -> None:
    world.directory.revoked = "jti"
    with pytest.raises(Denial, match="token_revoked"):
        await world.pipeline.admit(request("/echo", token(subject)))


async def test_the_routes_tenant_must_be_the_users(world: World) -> None:
    assert (await world.pipeline.admit(request("/acme", token("tenant")))).forwarding.route.name == "acme"
    with pytest.raises(Denial, match="tenant_mismatch"):
        await world.pipeline.admit(request("/acme", token()))


async def test_a_method_that_no_route_serves_gets_the_allowed_methods(world: World) -> None:
    with pytest.raises(Denial) as caught:
        await world.pipeline.admit(request("/read", method="POST"))
    assert caught.value.allow == {"GET"}


async def test_a_token_remembered_for_one_route_opens_no_other(world: World) -> None:
    raw = token()
    await world.pipeline.admit(request("/echo", raw))
    with pytest.raises(Denial, match="role_missing"):
        await world.pipeline.admit(request("/admin", raw))


async def test_a_remembered_token_is_asked_about_every_time(world: World) -> None:
    raw = token()
    await world.pipeline.admit(request("/echo", raw))
    user = world.directory.users[Identity(ISSUER, "member")]
    world.directory.users[Identity(ISSUER, "member")] = replace(user, status=UserStatus.SUSPENDED)
    with pytest.raises(Denial, match="user_suspended"):
        await world.pipeline.admit(request("/echo", raw))
    world.directory.users.clear()
    with pytest.raises(Denial, match="user_not_found"):
        await world.pipeline.admit(request("/echo", raw))


async def test_an_odd_error_lets_no_request_through(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(claims: Claims) -> Resolution:
        raise ZeroDivisionError

    monkeypatch.setattr(world.directory, "resolve", broken)
    with pytest.raises(ZeroDivisionError):
        await world.pipeline.admit(request("/echo", token()))


# Admissions -------------------------------------------------------------------------------------


async def test_an_admission_has_the_data_for_forwarding(world: World) -> None:
    forged: Header = (b"X_User_Id", b"root")
    raw = token("admin")
    admission = await world.pipeline.admit(
        request("/%61dmin/x?y=%2e%2e", raw, method="PUT", headers=(forged,))
    )

    forwarding = admission.forwarding
    assert (forwarding.route.name, forwarding.method) == ("admin", "PUT")
    assert (forwarding.line, forwarding.host) == (b"PUT /admin/x?y=%2e%2e HTTP/1.1", b"a.example")
    assert admission.user is world.directory.users[Identity(ISSUER, "admin")]
    assert admission.claims is not None
    assert admission.claims.subject == "admin"
    assert not admission.stale
    names = [name for name, _ in sent(admission)]
    assert dict(sent(admission))[b"X-User-Id"] == b"id-admin"
    assert b"X_User_Id" not in names
    assert b"Authorization" not in names


async def test_a_stale_user_is_marked(world: World) -> None:
    world.directory.stale = True
    admission = await world.pipeline.admit(request("/echo", token()))

    assert admission.stale
    assert (b"X-Auth-Stale", b"true") in sent(admission)


@pytest.mark.parametrize(
    "credentials",
    [(), (b"opaque",), (b"a", b"b"), (token("suspended"),), (token(exp=1),)],
    ids=["none", "malformed", "two", "suspended", "expired"],
)
async def test_a_public_route_ignores_credentials_but_strips_forged_headers(
    world: World, credentials: tuple[bytes, ...]
) -> None:
    forged: Header = (b"X-User.Id", b"root")
    admission = await world.pipeline.admit(request("/public/x?y", *credentials, headers=(forged,)))

    assert admission.forwarding.route.name == "public"
    assert admission.forwarding.line == b"GET /public/x?y HTTP/1.1"
    assert (admission.user, admission.claims) == (None, None)
    assert {name for name, _ in sent(admission)} == {
        b"X-Forwarded-For", b"X-Forwarded-Proto", b"X-Forwarded-Host",
    }  # fmt: skip
    assert world.directory.asked == []


async def test_an_optional_route_admits_requests_without_a_token_and_with_a_valid_one(world: World) -> None:
    nobody = await world.pipeline.admit(request("/optional", headers=((b"X-User-Id", b"root"),)))
    somebody = await world.pipeline.admit(request("/optional", token()))

    assert (nobody.user, nobody.claims) == (None, None)
    assert b"X-User-Id" not in dict(sent(nobody))
    assert dict(sent(somebody))[b"X-User-Id"] == b"id-member"


@pytest.mark.parametrize(
    ("credentials", "reason"),
    [
        ((b"opaque",), "token_malformed"),
        ((b"a", b"b"), "credentials_multiple"),
        ((b"",), "credentials_malformed"),
        ((token(exp=1),), "token_expired"),
        ((token("ghost"),), "user_not_found"),
        ((token("suspended"),), "user_suspended"),
    ],
    ids=["opaque", "two", "empty", "expired", "ghost", "suspended"],
)
async def test_an_optional_route_refuses_bad_credentials(
    world: World, credentials: tuple[bytes, ...], reason: str
) -> None:
    with pytest.raises(Denial, match=reason):
        await world.pipeline.admit(request("/optional", *credentials))


# Tokens from elsewhere ----------------------------------------------------------------------------

WEBSOCKET: tuple[Header, ...] = ((b"Connection", b"Upgrade"), (b"Upgrade", b"websocket"))


@pytest.mark.parametrize("route", ["browser", "guest"])
@pytest.mark.parametrize(
    ("query", "field", "rest"),
    [
        ("?a&access_token={}", b"X-Kept: 1", "?a"),
        ("?a", b"Cookie: session={}", "?a"),
        ("", b"Sec-WebSocket-Protocol: bearer.{}", ""),
    ],
    ids=["query", "cookie", "subprotocol"],
)
async def test_a_token_from_elsewhere_is_as_good_and_goes_no_further(
    world: World, route: str, query: str, field: bytes, rest: str
) -> None:
    raw = token()
    name, _, value = field.replace(b"{}", raw).partition(b": ")
    admission = await world.pipeline.admit(
        request(f"/{route}/x{query.format(raw.decode())}", headers=((name, value),))
    )

    assert admission.forwarding.line == f"GET /{route}/x{rest} HTTP/1.1".encode()
    assert dict(sent(admission))[b"X-User-Id"] == b"id-member"
    assert not any(raw in value for _, value in sent(admission))


async def test_a_token_from_elsewhere_is_forwarded_in_authorization_if_at_all() -> None:
    world, raw = World(forward_authorization=True), token()
    admission = await world.pipeline.admit(request(f"/browser?access_token={raw.decode()}"))

    assert admission.forwarding.line == b"GET /browser HTTP/1.1"
    assert [value for name, value in sent(admission) if name == b"Authorization"] == [b"Bearer " + raw]


async def test_a_token_elsewhere_counts_only_where_the_route_says_so(world: World) -> None:
    with pytest.raises(Denial, match="credentials_missing"):
        await world.pipeline.admit(request("/echo", headers=((b"Cookie", b"session=" + token()),)))


async def test_a_guest_without_credentials_has_no_user(world: World) -> None:
    admission = await world.pipeline.admit(request("/guest?a", headers=((b"Cookie", b"a=1"),)))
    assert (admission.user, admission.forwarding.line) == (None, b"GET /guest?a HTTP/1.1")


@pytest.mark.parametrize("origin", [b"https://a.example", b"https://page.example"])
async def test_a_cookie_opens_a_websocket_for_its_own_pages(world: World, origin: bytes) -> None:
    cookie = (b"Cookie", b"session=" + token())
    asking = replace(request("/browser", headers=(cookie, *WEBSOCKET, (b"Origin", origin))), may_upgrade=True)
    assert (await world.pipeline.admit(asking)).forwarding.upgrade == b"websocket"


async def test_a_cookie_opens_no_websocket_for_another_site(world: World) -> None:
    fields = ((b"Cookie", b"session=" + token()), *WEBSOCKET, (b"Origin", b"https://evil.example"))
    asking = replace(request("/browser", headers=fields), may_upgrade=True)
    with pytest.raises(Denial, match="origin_not_allowed"):
        await world.pipeline.admit(asking)
    # Read like any image: what another site cannot see, it may fetch.
    assert (await world.pipeline.admit(request("/browser", headers=fields))).forwarding.upgrade is None


async def test_an_upgrade_is_admitted_with_and_without_a_user(world: World) -> None:
    for path, tokens in (("/public", ()), ("/echo", (token(),))):
        asking = replace(request(path, *tokens, headers=WEBSOCKET), may_upgrade=True)
        admission = await world.pipeline.admit(asking)
        assert admission.forwarding.upgrade == b"websocket"
        # Both fields are for one hop: who forwards writes them anew.
        assert not {b"Connection", b"Upgrade"} & {name for name, _ in sent(admission)}
        admission = await world.pipeline.admit(replace(asking, may_upgrade=False))
        assert admission.forwarding.upgrade is None


# Once more ------------------------------------------------------------------------------------------


async def test_reauthorization_applies_the_same_rules(world: World) -> None:
    admission = await world.pipeline.admit(request("/admin", token("admin")))
    claims, identity = admission.claims, Identity(ISSUER, "admin")
    assert claims is not None
    assert (
        await world.pipeline.reauthorize(request("/admin"), admission.forwarding.route, claims)
    ).user == admission.user
    asked = len(world.directory.asked)
    world.directory.remembered[identity] = Resolution(admission.user, Tier.LOCAL, None, Tier.LOCAL)
    assert (
        await world.pipeline.reauthorize(request("/admin"), admission.forwarding.route, claims)
    ).tier is Tier.LOCAL
    assert len(world.directory.asked) == asked
    world.directory.remembered.clear()
    world.directory.users[identity] = replace(world.directory.users[identity], roles=())
    with pytest.raises(Denial) as caught:
        await world.pipeline.reauthorize(request("/admin"), admission.forwarding.route, claims)
    assert (caught.value.reason.code, caught.value.issuer) == ("role_missing", "main")
    assert caught.value.subject == "admin"
    world.directory.failure = Denial(USER_STORE_UNAVAILABLE)
    with pytest.raises(Denial) as caught:
        await world.pipeline.reauthorize(request("/admin"), admission.forwarding.route, claims)
    assert (caught.value.reason, caught.value.subject) == (USER_STORE_UNAVAILABLE, "admin")
