"""Shadow on both ways: who passes, as whom, and what is reported."""

from collections import defaultdict
from dataclasses import replace

import pytest

from gateway.core.headers import HeaderPolicy, HeaderRules
from gateway.core.model import Request, Route
from gateway.core.reasons import USER_STORE_UNAVAILABLE, Denial
from gateway.core.routes import RouteTable
from gateway.core.shadow import Shadow
from gateway.memo import Memo, Tokens
from gateway.pipeline import Pipeline
from gateway.proxy.downstream.head_cache import HeadCache
from gateway.proxy.downstream.incoming import RecurringRequest
from gateway.shadow import ShadowingAdmitter
from gateway.verifier import TokenVerifier
from tests.pipelines import _ROUTES, MAIN, World, request, sent, token
from tests.tokens import resigned

FORGED = resigned(token("admin"), bytes(64))


def in_shadow(route: Route) -> Route:
    return replace(route, shadow=True, forward_authorization=True)


class Scene:
    """A way with some shadow, and what it reports."""

    def __init__(
        self,
        *,
        memo: bool,
        routes: bool = False,
        condition: bool = False,
        issuer: bool = False,
        conditional: bool = True,
    ) -> None:
        """`conditional`: False if no route has a condition."""
        self.world = World()
        self.reported: list[tuple[str, str | None, str | None]] = []
        table = [in_shadow(each) if routes else replace(each, forward_authorization=True) for each in _ROUTES]
        if not conditional:
            table = [each for each in table if each.require.condition is None]
        if condition:
            table = [replace(each, require=replace(each.require, condition_shadow=True)) for each in table]
        verifier = TokenVerifier([MAIN], self.world.keys, clock=lambda: self.world.now)
        headers = HeaderPolicy(HeaderRules({"X-User-Id": "user.id", "X-Auth-Subject": "claims.sub"}))
        shadow = Shadow(frozenset({"main"}) if issuer else frozenset())
        self.pipeline = Pipeline(RouteTable(table), verifier, self.world.directory, headers, shadow=shadow)
        way: Pipeline | Memo = self.pipeline
        tokens = Tokens(self.world.keys, lambda: self.world.now, 100, defaultdict(int))
        with_memory = Memo(self.pipeline, verifier, tokens, self.world.directory)
        self.admitter = ShadowingAdmitter(with_memory, self.pipeline, self.report)
        if not memo:
            self.admitter._admit = way.admit

    def report(self, _: Request, denial: Denial) -> None:
        self.reported.append((denial.reason.code, denial.issuer, denial.user_id))

    async def told(self, request: Request) -> str:
        """Return who the upstream thinks it is; the code of the reason if it is refused."""
        try:
            admission = await self.admitter.admit(request)
        except Denial as denial:
            return denial.reason.code
        fields = dict(sent(admission))
        assert (b"X-User-Id" in fields) is (admission.user is not None)
        if b"X-User-Id" not in fields:
            assert (admission.fields, admission.forwarding.credential) == (b"", None)
            assert b"Authorization" not in fields
            assert b"X-Auth-Subject" not in fields
            return "anyone"
        assert b"Authorization" in fields
        return fields[b"X-User-Id"].decode()


@pytest.fixture(params=[True, False], ids=["memo", "pipeline"])
def memo(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


async def test_a_route_in_shadow_refuses_no_one_and_believes_no_one(memo: bool) -> None:
    scene = Scene(memo=memo, routes=True)
    for raw, path, who, code in [
        (token(), "/admin", "id-member", "role_missing"),
        (token(), "/orders", "id-member", "scope_insufficient"),
        (token(jti="other"), "/pro", "id-member", "condition_not_met"),
        (token("tenant"), "/acme", "id-tenant", None),
        (token("member"), "/acme", "anyone", "tenant_mismatch"),
        (token("suspended"), "/echo", "anyone", "user_suspended"),
        (token("ghost"), "/echo", "anyone", "user_not_found"),
        # No users are created here.
        (token("ghost"), "/join", "anyone", "user_not_found"),
        (FORGED, "/admin", "anyone", "signature_invalid"),
        (token(aud="other"), "/echo", "anyone", "audience_mismatch"),
        (b"opaque", "/echo", "anyone", "token_malformed"),
    ]:
        for _ in range(2):
            scene.reported.clear()
            assert await scene.told(request(path, raw)) == who, (path, code)
            assert [each[0] for each in scene.reported] == ([] if code is None else [code])


async def test_a_head_that_came_with_bad_credentials_stands_for_no_other_request() -> None:
    scene, good = Scene(memo=True, routes=True), token()
    known = HeadCache(scene.admitter.remembered, scene.admitter.heads, 8)
    head = b"GET /echo HTTP/1.1\r\nHost: a.example\r\nAuthorization: Bearer %b\r\n\r\n"
    bad = request("/echo", b"two words")
    recurring = RecurringRequest(bad.method, bad.target, bad.headers, True)
    known.keep(head % b"two words", recurring)
    for _ in range(2):
        assert await scene.told(replace(bad, recurring=recurring)) == "anyone"
    assert await scene.told(request("/echo", good)) == "id-member"
    # What it stands for has no token, and this request has a good one.
    assert known.recall(head % good) is None


async def test_requests_without_good_credentials_pass_without_them(memo: bool) -> None:
    scene = Scene(memo=memo, routes=True)
    for asked, code in [
        (request("/echo"), "credentials_missing"),
        # Its condition would not be met either.
        (request("/pro"), "credentials_missing"),
        (request("/echo", headers=((b"Authorization", b"Basic eDp5"),)), "credentials_malformed"),
        (request("/echo", token(), token()), "credentials_malformed"),
        (request("/browser"), "credentials_missing"),
    ]:
        for _ in range(2):
            scene.reported.clear()
            assert await scene.told(asked) == "anyone"
            assert len(scene.reported) == 1
            assert scene.reported[0][0] in {code, "credentials_multiple"}
    # With several places for a token, none of which may be passed on.
    cookie = ((b"Cookie", b"session=" + token()),)
    assert await scene.told(request("/browser", token(), headers=cookie)) == "credentials_multiple"
    assert await scene.told(request("/browser", headers=cookie, method="POST")) == "origin_not_allowed"


async def test_a_condition_in_shadow_enforces_all_else(memo: bool) -> None:
    scene = Scene(memo=memo, condition=True)
    elsewhere = replace(request("/office", token()), peer="198.51.100.1")
    for _ in range(2):
        assert await scene.told(request("/pro", token(jti="other"))) == "id-member"
        assert await scene.told(elsewhere) == "id-member"
        assert await scene.told(request("/admin", token())) == "role_missing"
        assert await scene.told(request("/pro", FORGED)) == "signature_invalid"
        assert await scene.told(request("/pro")) == "credentials_missing"
    assert scene.reported == [("condition_not_met", "main", "id-member")] * 4
    assert await scene.told(replace(request("/lounge"), peer="198.51.100.1")) == "anyone"


async def test_an_issuer_in_shadow_opens_nothing_to_forgers(memo: bool) -> None:
    scene = Scene(memo=memo, issuer=True, conditional=False)
    for _ in range(2):
        assert await scene.told(request("/admin", token())) == "id-member"
        assert await scene.told(request("/echo", token("suspended"))) == "anyone"
        assert await scene.told(request("/admin", FORGED)) == "signature_invalid"
        assert await scene.told(request("/admin")) == "credentials_missing"
        assert await scene.told(request("/nowhere", token())) == "route_not_found"
    assert [each[0] for each in scene.reported] == ["role_missing", "user_suspended"] * 2


async def test_a_stream_in_shadow_continues_while_its_identity_is_true() -> None:
    scene = Scene(memo=True, routes=True)
    asked = request("/admin", token())
    admission = await scene.admitter.admit(asked)
    route, claims = admission.forwarding.route, admission.claims
    assert claims is not None
    assert (await scene.admitter.reauthorize(asked, route, claims)).user is not None
    scene.world.directory.users.pop(claims.identity)
    with pytest.raises(Denial, match="user_not_found"):
        await scene.admitter.reauthorize(asked, route, claims)


@pytest.mark.parametrize("what", ["routes", "condition", "issuer"])
async def test_a_stream_continues_though_its_condition_in_shadow_no_longer_holds(what: str) -> None:
    scene = Scene(memo=True, **{what: True})
    asked = request("/office", token())
    admission = await scene.admitter.admit(asked)
    route, claims = admission.forwarding.route, admission.claims
    assert claims is not None
    await scene.admitter.reauthorize(replace(asked, peer="198.51.100.1"), route, claims)


async def test_a_doubt_of_ours_gives_no_identity(memo: bool) -> None:
    scene = Scene(memo=memo, routes=True)
    scene.world.directory.failure = Denial(USER_STORE_UNAVAILABLE)
    assert await scene.told(request("/echo", token())) == "anyone"
    assert [each[0] for each in scene.reported] == ["user_store_unavailable"]
