"""Assertions that are remembered with decisions: made once, for one audience, and never too old."""

from collections import defaultdict
from dataclasses import dataclass, field

import pytest

from gateway.core.admission import Admission
from gateway.core.assertion import Signed
from gateway.core.headers import HeaderPolicy, HeaderRules
from gateway.core.model import Claims, Identity, Request, Resolution, Route, Tier, User
from gateway.core.reasons import ASSERTION_UNAVAILABLE, Denial
from gateway.core.routes import RouteTable
from gateway.memo import Memo, Tokens
from gateway.pipeline import Pipeline
from gateway.verifier import TokenVerifier
from tests.pipelines import MAIN, World, request, sent, token
from tests.tokens import ISSUER

TTL = 300.0
ROUTES = RouteTable(
    [
        Route("orders", "/orders/**", "orders"),
        Route("more", "/more/**", "orders"),
        Route("bills", "/bills/**", "bills"),
        Route("front", "/front/**", None),
        Route("leave", "/leave/**", "orders", allow_inactive=True),
    ]
)


@dataclass
class Signer:
    """A `gateway.pipeline.Asserter` that counts."""

    world: World
    made: list[str] = field(default_factory=list)
    down: bool = False

    def sign(self, audience: str, claims: Claims, user: User | None) -> Signed:
        if self.down:
            raise Denial(ASSERTION_UNAVAILABLE)
        self.made.append(audience)
        said = f"{audience} {claims.subject} {'' if user is None else user.id} {len(self.made)}"
        return Signed(b"X-Signed: %b\r\n" % said.encode(), self.world.now + TTL / 2)


@dataclass
class Ways:
    world: World
    signer: Signer
    pipeline: Pipeline
    memo: Memo

    async def signed(self, asked: Request) -> bytes:
        (value,) = _signed(await self.memo.admit(asked))
        return value


def _signed(admission: Admission) -> list[bytes]:
    return [value for name, value in sent(admission) if name == b"X-Signed"]


@pytest.fixture
def ways() -> Ways:
    world = World()
    signer = Signer(world)
    identity = Identity(ISSUER, "member")
    user = world.directory.users[identity]
    world.directory.remembered[identity] = Resolution(user, Tier.LOCAL, None, Tier.LOCAL)
    verifier = TokenVerifier([MAIN], world.keys, clock=lambda: world.now)
    rules = HeaderRules({"X-User-Id": "user.id"}, assertion="X-Signed", tells_fronts=True)
    pipeline = Pipeline(ROUTES, verifier, world.directory, HeaderPolicy(rules), None, signer)
    tokens = Tokens(world.keys, lambda: world.now, 100, defaultdict(int))
    memo = Memo(pipeline, verifier, tokens, world.directory, lambda: world.now)
    return Ways(world, signer, pipeline, memo)


async def test_an_assertion_is_made_once_for_a_decision(ways: Ways) -> None:
    bearer = token()
    for path in ("/orders/1", "/orders/1", "/more/1"):
        assert await ways.signed(request(path, bearer)) == b"orders member id-member 1"
    assert ways.signer.made == ["orders"]


async def test_one_for_another_audience_is_another(ways: Ways) -> None:
    bearer = token()
    assert await ways.signed(request("/orders/1", bearer)) == b"orders member id-member 1"
    assert await ways.signed(request("/bills/1", bearer)) == b"bills member id-member 2"
    assert await ways.signed(request("/front/1", bearer)) == b"front member id-member 3"
    assert await ways.signed(request("/leave/1", bearer)) == b"orders member id-member 4"


async def test_a_decision_ends_when_its_assertion_is_half_over(ways: Ways) -> None:
    bearer = token(exp=ways.world.now + 500)
    await ways.signed(request("/orders/1", bearer))
    ways.world.now += TTL / 2 - 1
    # On another route of the same audience it ends at the same time.
    assert await ways.signed(request("/more/1", bearer)) == b"orders member id-member 1"
    assert await ways.signed(request("/orders/1", bearer)) == b"orders member id-member 1"
    ways.world.now += 1
    assert await ways.signed(request("/orders/1", bearer)) == b"orders member id-member 2"


async def test_the_plain_way_says_the_same(ways: Ways) -> None:
    admission = await ways.pipeline.admit(request("/orders/1", token()))
    assert _signed(admission) == [b"orders member id-member 1"]
    assert admission.decision is not None
    assert b"X-Signed: orders" in admission.decision.told


async def test_without_a_key_nothing_passes_and_nothing_is_remembered(ways: Ways) -> None:
    ways.signer.down = True
    for way in (ways.pipeline, ways.memo):
        with pytest.raises(Denial) as caught:
            await way.admit(request("/orders/1", token()))
        assert caught.value.reason is ASSERTION_UNAVAILABLE
        assert caught.value.route is not None
    ways.signer.down = False
    assert await ways.signed(request("/orders/1", token())) == b"orders member id-member 1"
