"""A request's way from the wire to its admission: one row for each reason to stop it."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal

import pytest

from gateway.backends.local import LocalTier
from gateway.backends.revocations import Revocations
from gateway.core.admission import Admission
from gateway.core.headers import HeaderPolicy, HeaderRules
from gateway.core.model import (
    JSON,
    Auth,
    Claims,
    Credential,
    CredentialSources,
    Header,
    Identity,
    Issuer,
    Lease,
    Recurring,
    Request,
    Requirement,
    Resolution,
    RevocationKind,
    Route,
    Tier,
    User,
    UserStatus,
)
from gateway.core.reasons import (
    CATALOGUE,
    REVOCATION_UNAVAILABLE,
    USER_STORE_UNAVAILABLE,
    Denial,
)
from gateway.core.routes import RouteTable
from gateway.core.tokens import KeySet, key_from_jwk
from gateway.pipeline import Pipeline
from gateway.verifier import TokenVerifier
from tests.fakes import FakeDirectory, FakeKeys
from tests.tokens import AUDIENCE, ISSUER, claims, ec_key, resigned, sign, unsigned, without

NOW = 1_700_000_000
MAIN = Issuer("main", ISSUER, frozenset({AUDIENCE}), frozenset({"ES256"}), max_lifetime=600.0)
BROWSER = CredentialSources("session", "access_token", "bearer", frozenset({"https://page.example"}))
ROUTES = RouteTable(
    [
        Route("public", "/public/**", "echo", auth=Auth.NONE),
        Route("optional", "/optional/**", "echo", auth=Auth.OPTIONAL),
        Route("admin", "/admin/**", "echo", require=Requirement(roles=frozenset({"admin"}))),
        Route("orders", "/orders/**", "echo", require=Requirement(scopes=frozenset({"orders:read"}))),
        Route("acme", "/acme/**", "echo", require=Requirement(tenant="acme")),
        Route("read", "/read", "echo", methods=frozenset({"GET"})),
        Route("echo", "/echo/**", "echo"),
        Route("browser", "/browser/**", "echo", credentials=BROWSER),
        Route("guest", "/guest/**", "echo", auth=Auth.OPTIONAL, credentials=BROWSER),
    ]
)


def _users() -> dict[Identity, User]:
    users = {
        subject: User(f"id-{subject}", UserStatus.ACTIVE)
        for subject in ("member", "admin", "tenant", "revoked")
    }
    users["admin"] = replace(users["admin"], roles=("admin",))
    users["tenant"] = replace(users["tenant"], tenant="acme")
    users["revoked"] = replace(users["revoked"], tokens_valid_after=float(NOW))
    users |= {status.value: User(f"id-{status.value}", status) for status in UserStatus}
    return {Identity(ISSUER, subject): user for subject, user in users.items()}


@dataclass
class World:
    """A pipeline and what stands around it."""

    keys: FakeKeys = field(default_factory=lambda: FakeKeys(main=KeySet([key_from_jwk(ec_key().jwk())])))
    directory: FakeDirectory = field(default_factory=lambda: FakeDirectory(_users()))
    now: float = NOW
    pipeline: Pipeline = field(init=False)

    def __post_init__(self) -> None:
        verifier = TokenVerifier([MAIN], self.keys, clock=lambda: self.now, max_remembered=100)
        headers = HeaderPolicy(HeaderRules({"X-User-Id": "user.id", "X-Auth-Subject": "claims.sub"}))
        self.pipeline = Pipeline(ROUTES, verifier, self.directory, headers)


@pytest.fixture
def world() -> World:
    return World()


def payload(subject: str = "member", **changes: JSON) -> dict[str, JSON]:
    return {**claims(subject, now=NOW), **changes}


def token(subject: str = "member", **changes: JSON) -> bytes:
    return sign(payload(subject, **changes), ec_key())


def request(
    target: str = "/echo", *tokens: bytes, method: str = "GET", headers: tuple[Header, ...] = ()
) -> Request:
    bearers = ((b"Authorization", b"Bearer " + raw) for raw in tokens)
    return Request(
        method, target, ((b"Host", b"a.example"), *headers, *bearers), "203.0.113.9", "https", "r-1"
    )


def sent(admission: Admission) -> list[Header]:
    """Return the fields that the upstream is sent, beside Host."""
    fields = admission.forwarding.fields + admission.fields
    lines = (line.partition(b": ") for line in fields.removesuffix(b"\r\n").split(b"\r\n"))
    return [(name, value) for name, _, value in lines]


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
    "claim_malformed": Row(request("/echo", token(exp="tomorrow"))),
    "subject_missing": Row(request("/echo", sign(without(payload(role="anon"), "sub"), ec_key()))),
    "subject_malformed": Row(request("/echo", token("a\nb"))),
    "token_revoked": verified("/echo", token(), "member", revoke("jti")),
    "tokens_revoked_before": verified("/echo", token("revoked"), "revoked"),
    "user_not_found": verified("/echo", token("ghost"), "ghost"),
    "user_deleted": verified("/echo", token("deleted"), "deleted"),
    "user_suspended": verified("/echo", token("suspended"), "suspended"),
    "user_locked": verified("/echo", token("locked"), "locked"),
    "user_pending": verified("/echo", token("pending"), "pending"),
    "tenant_mismatch": verified("/echo", token("tenant", tenant_id="umbrella"), "tenant"),
    "scope_insufficient": verified("/orders", token(scope="orders:write"), "member"),
    "role_missing": verified("/admin", token(roles=["admin"]), "member"),
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
    "request_malformed": Row(request("/public/../admin"), route=None, issuer=None),
}  # fmt: skip
# What the data plane raises around the pipeline, or about itself.
ELSEWHERE = {
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
async def test_nobody_is_looked_up_for_a_token_that_is_not_good(world: World, code: str) -> None:
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
async def test_a_revocation_of_all_tokens_is_told_from_one_of_a_token(
    world: World, kind: RevocationKind
) -> None:
    world.directory.revoked = kind
    with pytest.raises(Denial, match=f"tokens_revoked_before: by a revocation of the {kind}'s tokens"):
        await world.pipeline.admit(request("/echo", token()))


@pytest.mark.parametrize("subject", ["ghost", "suspended"])
async def test_a_revoked_token_is_called_revoked_whoever_its_user_is(world: World, subject: str) -> None:
    world.directory.revoked = "jti"
    with pytest.raises(Denial, match="token_revoked"):
        await world.pipeline.admit(request("/echo", token(subject)))


async def test_the_routes_tenant_must_be_the_users(world: World) -> None:
    assert (await world.pipeline.admit(request("/acme", token("tenant")))).forwarding.route.name == "acme"
    with pytest.raises(Denial, match="tenant_mismatch"):
        await world.pipeline.admit(request("/acme", token()))


async def test_a_method_nobody_serves_is_told_which_are(world: World) -> None:
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


async def test_an_odd_error_lets_nobody_through(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(claims: Claims) -> Resolution:
        raise ZeroDivisionError

    monkeypatch.setattr(world.directory, "resolve", broken)
    with pytest.raises(ZeroDivisionError):
        await world.pipeline.admit(request("/echo", token()))


# Admissions -------------------------------------------------------------------------------------


async def test_an_admission_holds_what_forwarding_needs(world: World) -> None:
    forged: Header = (b"X_User_Id", b"root")
    raw = token("admin")
    admission = await world.pipeline.admit(
        request("/%61dmin/x?y=%2e%2e", raw, method="PUT", headers=(forged,))
    )

    forwarding = admission.forwarding
    assert (forwarding.route.name, forwarding.method) == ("admin", "PUT")
    assert forwarding.line == b"PUT /admin/x?y=%2e%2e HTTP/1.1"
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
async def test_a_public_route_looks_at_no_credentials_but_strips_what_is_forged(
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


async def test_an_optional_route_takes_nobody_and_a_good_user(world: World) -> None:
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
    world, raw = World(), token()
    verifier = TokenVerifier([MAIN], world.keys, clock=lambda: NOW, max_remembered=1)
    forwarding = HeaderPolicy(HeaderRules({}, forward_authorization=True))
    pipeline = Pipeline(ROUTES, verifier, world.directory, forwarding)
    admission = await pipeline.admit(request(f"/browser?access_token={raw.decode()}"))

    assert admission.forwarding.line == b"GET /browser HTTP/1.1"
    assert [value for name, value in sent(admission) if name == b"Authorization"] == [b"Bearer " + raw]


async def test_a_token_elsewhere_counts_only_where_the_route_says_so(world: World) -> None:
    with pytest.raises(Denial, match="credentials_missing"):
        await world.pipeline.admit(request("/echo", headers=((b"Cookie", b"session=" + token()),)))


async def test_a_guest_without_credentials_is_nobody(world: World) -> None:
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


# Heads that come again ------------------------------------------------------------------------------


def recurring(target: str, *tokens: bytes, headers: tuple[Header, ...] = ()) -> Request:
    return replace(request(target, *tokens, headers=headers), recurring=Recurring())


def remember(world: World, subject: str) -> Identity:
    """Let the directory answer from memory for a user whom it knows."""
    identity = Identity(ISSUER, subject)
    world.directory.remembered[identity] = Resolution(
        world.directory.users[identity], Tier.LOCAL, None, Tier.LOCAL
    )
    return identity


async def test_a_head_that_recurs_is_read_once_and_its_user_asked_each_time(world: World) -> None:
    first = recurring("/admin", token("admin"))
    before = await world.pipeline.admit(first)
    again = await world.pipeline.admit(replace(first, id="r-2", peer="198.51.100.1"))
    assert dict(sent(again))[b"X-Forwarded-For"] == b"198.51.100.1"
    assert before.forwarding.line == again.forwarding.line
    assert len(world.directory.asked) == 2
    identity = Identity(ISSUER, "admin")
    world.directory.users[identity] = replace(world.directory.users[identity], status=UserStatus.SUSPENDED)
    with pytest.raises(Denial) as caught:
        await world.pipeline.admit(first)
    assert caught.value.reason.code == "user_suspended"


async def test_what_memory_says_of_a_token_counts_while_it_stands(world: World) -> None:
    identity, asking = remember(world, "admin"), recurring("/admin", token("admin"))
    await world.pipeline.admit(asking)
    settled = await world.pipeline.admit(asking)
    assert await world.pipeline.admit(replace(asking, id="r-2")) == settled
    world.directory.remembered[identity] = Resolution(
        replace(world.directory.users[identity], status=UserStatus.SUSPENDED), Tier.LOCAL, None, Tier.LOCAL
    )
    # The directory has not said that its answer stands no longer.
    assert await world.pipeline.admit(asking) == settled
    world.directory.leases.clear()
    for _ in range(2):
        with pytest.raises(Denial) as caught:
            await world.pipeline.admit(asking)
        assert caught.value.reason.code == "user_suspended"


async def test_what_the_stores_said_counts_from_then_on_while_it_stands(world: World) -> None:
    """What was learnt for one request is not looked up, nor rendered, for the next."""
    world.directory.on_resolve = lambda _: remember(world, "admin")
    asking = recurring("/admin", token("admin"))
    first = await world.pipeline.admit(asking)
    world.directory.remembered.clear()
    again = await world.pipeline.admit(asking)
    assert again.fields is first.fields
    assert len(world.directory.asked) == 1
    world.directory.leases.clear()
    await world.pipeline.admit(asking)
    assert len(world.directory.asked) == 2


async def test_what_the_stores_said_does_not_count_when_memory_says_something_else(world: World) -> None:
    """A change may have come before the answer did."""
    suspended = replace(world.directory.users[Identity(ISSUER, "admin")], status=UserStatus.SUSPENDED)
    answer = Resolution(suspended, Tier.LOCAL, None, Tier.LOCAL)
    world.directory.on_resolve = lambda claims: world.directory.remembered.update({claims.identity: answer})
    asking = recurring("/admin", token("admin"))
    await world.pipeline.admit(asking)
    with pytest.raises(Denial, match="user_suspended"):
        await world.pipeline.admit(asking)


async def test_who_was_refused_by_the_stores_is_refused_again(world: World) -> None:
    world.directory.on_resolve = lambda _: remember(world, "member")
    asking = recurring("/admin", token())
    for _ in range(2):
        with pytest.raises(Denial, match="role_missing"):
            await world.pipeline.admit(asking)


async def test_another_state_of_the_user_is_told_upstream(world: World) -> None:
    identity, asking = remember(world, "member"), recurring("/echo", token())
    await world.pipeline.admit(asking)
    world.directory.users[identity] = replace(world.directory.users[identity], id="another")
    remember(world, "member")
    world.directory.leases.clear()
    assert dict(sent(await world.pipeline.admit(asking)))[b"X-User-Id"] == b"another"


async def test_each_route_asks_for_itself_what_it_requires(world: World) -> None:
    """Though memory says the same of the token."""
    remember(world, "member")
    raw = token()
    for _ in range(2):
        await world.pipeline.admit(request("/echo", raw))
        with pytest.raises(Denial) as caught:
            await world.pipeline.admit(request("/admin", raw))
        assert caught.value.reason.code == "role_missing"


async def test_a_store_is_asked_each_time(world: World) -> None:
    asking = recurring("/echo", token())
    for _ in range(2):
        await world.pipeline.admit(asking)
    assert len(world.directory.asked) == 2
    world.directory.stale = True
    assert dict(sent(await world.pipeline.admit(asking)))[b"X-Auth-Stale"] == b"true"
    world.directory.stale = False
    assert b"X-Auth-Stale" not in dict(sent(await world.pipeline.admit(asking)))


async def test_another_peer_or_scheme_is_told_of(world: World) -> None:
    remember(world, "member")
    asking = recurring("/echo", token())
    others = (replace(asking, peer="198.51.100.1"), asking, replace(asking, scheme="http"))
    for other in (asking, asking, *others, *others):
        told = dict(sent(await world.pipeline.admit(other)))
        assert told[b"X-Forwarded-For"] == other.peer.encode()
        assert told[b"X-Forwarded-Proto"] == other.scheme.encode()


async def test_a_head_that_recurs_ends_with_its_token(world: World) -> None:
    remember(world, "member")
    asking = recurring("/echo", token())
    for _ in range(3):
        await world.pipeline.admit(asking)
    world.now += 10_000
    with pytest.raises(Denial) as caught:
        await world.pipeline.admit(asking)
    assert caught.value.reason.code == "token_expired"


async def test_a_head_that_recurs_ends_with_its_keys(world: World) -> None:
    remember(world, "member")
    asking = recurring("/echo", token())
    for _ in range(3):
        await world.pipeline.admit(asking)
    world.keys.sets.clear()
    with pytest.raises(Denial) as caught:
        await world.pipeline.admit(asking)
    assert caught.value.reason.code == "keys_unavailable"


async def test_a_head_that_recurs_with_another_token_is_whose_token_it_is(world: World) -> None:
    for subject in ("admin", "member"):
        remember(world, subject)
    first = recurring("/echo", token("admin"))
    await world.pipeline.admit(first)
    for subject in ("member", "admin", "member"):
        admission = await world.pipeline.admit(replace(first, credential=Credential.of(token(subject))))
        assert dict(sent(admission))[b"X-User-Id"] == f"id-{subject}".encode()
        assert admission.claims is not None
        assert admission.claims.subject == subject


async def test_another_token_is_forwarded_where_tokens_are(world: World) -> None:
    verifier = TokenVerifier([MAIN], world.keys, clock=lambda: NOW, max_remembered=9)
    policy = HeaderPolicy(HeaderRules({}, forward_authorization=True))
    pipeline = Pipeline(ROUTES, verifier, world.directory, policy)
    raw, another = token("admin"), token()
    first = recurring("/echo", raw)
    assert dict(sent(await pipeline.admit(first)))[b"Authorization"] == b"Bearer " + raw
    other = replace(first, credential=Credential.of(another))
    assert dict(sent(await pipeline.admit(other)))[b"Authorization"] == b"Bearer " + another


async def test_a_token_that_nobody_asked_for_is_forwarded_for_its_own_caller_alone(world: World) -> None:
    verifier = TokenVerifier([MAIN], world.keys, clock=lambda: NOW, max_remembered=9)
    pipeline = Pipeline(
        ROUTES, verifier, world.directory, HeaderPolicy(HeaderRules({}, forward_authorization=True))
    )
    first = recurring("/public", b"of-the-first")
    other = replace(first, credential=Credential.of(token()))
    another = replace(first, credential=Credential.of(token("admin")))
    for asking in (first, first, other, other, another, first):
        raw = b"of-the-first" if asking.credential is None else asking.credential.raw
        assert dict(sent(await pipeline.admit(asking)))[b"Authorization"] == b"Bearer " + raw


async def test_of_several_authorizations_that_nobody_asked_for_no_other_token_takes_the_place(
    world: World,
) -> None:
    first = recurring("/public", b"one", headers=((b"authorization", b"Basic two"),))
    await world.pipeline.admit(first)
    # A head that has been settled stands in for those with other tokens.
    assert first.recurring is not None
    assert first.recurring.kept is None


@pytest.mark.parametrize("schemes", [("http", "https", "http"), ("https", "http", "https")])
async def test_a_head_that_recurs_is_of_its_origin_by_the_scheme_it_comes_with(
    world: World, schemes: tuple[Literal["http", "https"], ...]
) -> None:
    headers = ((b"Cookie", b"session=" + token()), (b"Origin", b"http://a.example"))
    asking = recurring("/browser/x", headers=headers)
    for scheme in schemes:
        asking = replace(asking, method="POST", scheme=scheme)
        if scheme == "http":
            await world.pipeline.admit(asking)
        else:
            with pytest.raises(Denial, match="origin_not_allowed"):
                await world.pipeline.admit(asking)


async def test_who_is_asked_for_no_token_is_settled_once(world: World) -> None:
    asking = recurring("/public")
    settled = await world.pipeline.admit(asking)
    assert await world.pipeline.admit(asking) == settled


async def test_a_head_that_recurs_is_refused_each_time(world: World) -> None:
    for target, code in (("/nowhere", "route_not_found"), ("/echo", "credentials_missing")):
        asking = recurring(target)
        for _ in range(2):
            with pytest.raises(Denial) as caught:
                await world.pipeline.admit(asking)
            assert caught.value.reason.code == code


async def test_equal_headers_are_not_the_same_head(world: World) -> None:
    """What is remembered is remembered of one object, whose request line is known."""
    public = recurring("/public", headers=((b"X-A", b"1"),))
    await world.pipeline.admit(public)
    other = recurring("/echo", headers=((b"X-A", b"1"),))
    assert other.headers == public.headers
    with pytest.raises(Denial) as caught:
        await world.pipeline.admit(other)
    assert caught.value.reason.code == "credentials_missing"


# A change while requests wait -------------------------------------------------------------------------


class SlowDirectory:
    """The real local tier in front of a store whose answers a test lets through one by one."""

    def __init__(self, user: User) -> None:
        self.user = user
        """As the store has it."""
        self.local = LocalTier(ttl=60.0, max_users=9, max_tokens=9, clock=lambda: 0.0)
        self.local.open()
        self.waiting: asyncio.Queue[asyncio.Event] = asyncio.Queue()

    def recall(self, claims: Claims) -> Resolution | None:
        return self.local.recall(claims)

    def lease(self, claims: Claims) -> Lease | None:
        return self.local.lease(claims)

    def stands(self, lease: Lease) -> bool:
        return self.local.stands(lease)

    async def resolve(self, claims: Claims) -> Resolution:
        answer = asyncio.Event()
        self.waiting.put_nowait(answer)
        await answer.wait()
        self.learn(claims)
        return Resolution(self.user, Tier.POSTGRES, None, Tier.REDIS)

    def learn(self, claims: Claims) -> None:
        """Let memory know the user as the store has it."""
        known = Revocations(token=False, user_at=None, issuer_at=None)
        self.local.fill(self.local.ticket(), claims, self.user, 0.0, known, 60.0)

    def change(self, user: User) -> None:
        """Change the user; memory hears of it at once."""
        self.user = user
        self.local.forget_users([user.id])


def slow_pipeline(directory: SlowDirectory) -> Pipeline:
    """Return a pipeline that tells upstreams everything of a user."""
    keys = FakeKeys(main=KeySet([key_from_jwk(ec_key().jwk())]))
    verifier = TokenVerifier([MAIN], keys, clock=lambda: NOW, max_remembered=9)
    sources = {"X-Roles": "user.roles", "X-Tenant": "user.tenant", "X-Email": "user.email"}
    return Pipeline(ROUTES, verifier, directory, HeaderPolicy(HeaderRules(sources)))


BEFORE = User(
    "id-member", UserStatus.ACTIVE, tenant="acme", email="old@a.example", roles=("reader", "writer")
)
CHANGED = {
    "roles": replace(BEFORE, roles=("reader",)),
    "tenant": replace(BEFORE, tenant="globex"),
    "email": replace(BEFORE, email="new@a.example"),
    "all": replace(BEFORE, roles=(), tenant=None, email=None),
}


def told(admission: Admission) -> dict[bytes, bytes]:
    """Return the fields that tell the upstream of the user."""
    return {name: value for name, value in sent(admission) if not name.startswith(b"X-Forwarded-")}


def described(user: User) -> dict[bytes, bytes]:
    """Return the fields that a user is told by, as they must be."""
    fields = {b"X-Roles": ",".join(user.roles), b"X-Tenant": user.tenant, b"X-Email": user.email}
    return {name: value.encode() for name, value in fields.items() if value}


@pytest.mark.parametrize("changed", CHANGED.values(), ids=CHANGED)
async def test_who_waited_while_the_user_changed_is_forwarded_as_the_user_is_now(changed: User) -> None:
    """Another request with the same token was forwarded in between, as the user was before."""
    directory = SlowDirectory(BEFORE)
    pipeline, asking = slow_pipeline(directory), recurring("/echo", token())
    # The token is verified and remembered, so that the requests that follow share what is kept with it.
    earlier = asyncio.create_task(pipeline.admit(asking))
    (await directory.waiting.get()).set()
    await earlier
    directory.change(BEFORE)
    first, second = (asyncio.create_task(pipeline.admit(asking)) for _ in range(2))
    let_first, let_second = await directory.waiting.get(), await directory.waiting.get()
    let_first.set()
    assert told(await first) == described(BEFORE)

    directory.change(changed)
    let_second.set()
    assert told(await second) == described(changed) != described(BEFORE)
    # The next one is not looked up, and says the same.
    assert told(await pipeline.admit(asking)) == described(changed)


@pytest.mark.parametrize("changed", CHANGED.values(), ids=CHANGED)
async def test_a_change_that_memory_learns_of_otherwise_is_forwarded(changed: User) -> None:
    """Another token's request has brought the user's new state."""
    directory = SlowDirectory(BEFORE)
    pipeline, asking = slow_pipeline(directory), recurring("/echo", token())
    first = asyncio.create_task(pipeline.admit(asking))
    (await directory.waiting.get()).set()
    admission = await first
    assert admission.claims is not None
    assert told(admission) == described(BEFORE)

    directory.change(changed)
    directory.learn(admission.claims)
    for _ in range(2):
        assert told(await pipeline.admit(asking)) == described(changed) != described(BEFORE)
    assert directory.waiting.empty()


# Once more ------------------------------------------------------------------------------------------


async def test_who_was_admitted_is_settled_again_by_the_same_rules(world: World) -> None:
    admission = await world.pipeline.admit(request("/admin", token("admin")))
    claims, identity = admission.claims, Identity(ISSUER, "admin")
    assert claims is not None
    assert (await world.pipeline.recheck(admission.forwarding.route, claims)).user == admission.user
    asked = len(world.directory.asked)
    world.directory.remembered[identity] = Resolution(admission.user, Tier.LOCAL, None, Tier.LOCAL)
    assert (await world.pipeline.recheck(admission.forwarding.route, claims)).tier is Tier.LOCAL
    assert len(world.directory.asked) == asked
    world.directory.remembered.clear()
    world.directory.users[identity] = replace(world.directory.users[identity], roles=())
    with pytest.raises(Denial) as caught:
        await world.pipeline.recheck(admission.forwarding.route, claims)
    assert (caught.value.reason.code, caught.value.issuer) == ("role_missing", "main")
    world.directory.failure = Denial(USER_STORE_UNAVAILABLE)
    with pytest.raises(Denial) as caught:
        await world.pipeline.recheck(admission.forwarding.route, claims)
    assert caught.value.reason is USER_STORE_UNAVAILABLE
