"""Users that are created at their first request: what is asked, dropped and remembered."""

import asyncio
from dataclasses import dataclass, field, replace
from typing import Final

import pytest

from gateway.core.model import (
    Claims,
    Identity,
    Issuer,
    MissingUser,
    Provisioning,
    Request,
    Requirement,
    Resolution,
    Route,
    StoreUnavailable,
    Tier,
    User,
)
from gateway.core.provisioning import NewUser, Provisioned, ProvisioningResult
from gateway.core.reasons import USER_STORE_UNAVAILABLE, Denial
from gateway.core.revocations import Revocations
from gateway.identity.local_cache import LocalCache
from gateway.identity.provisioning import Provisioner
from gateway.identity.resolver import IdentityResolver
from gateway.stores.postgres.look_ups import FoundUser
from tests.fakes import FakeBlacklist, FakeSharedTier

REQUEST: Final = Request("GET", "/sign-up/x", (), "192.0.2.1", "http", "r-1")
ROUTE: Final = Route("sign-up", "/sign-up/**", "echo", missing_user=MissingUser.PROVISION)
MAIN: Final = Issuer(
    "main", "https://i/", frozenset({"api"}), frozenset(), provisioning=Provisioning(email="email")
)
CLAIMS: Final = Claims(
    "https://i/", "main", "ann", ("api",), None, 1.0, "j", None, (), (), {"email": "ann@example.org"}
)
STRANGER: Final = replace(CLAIMS, issuer="https://o/", issuer_name="other")


@dataclass
class World:
    """A provisioner with a store that says what a test puts there."""

    result: ProvisioningResult = "created"
    failure: StoreUnavailable | None = None
    now: float = 0.0
    asked: list[NewUser] = field(default_factory=list)
    counted: list[tuple[str, str]] = field(default_factory=list)
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    came: asyncio.Event = field(default_factory=asyncio.Event)
    shared: FakeSharedTier = field(default_factory=FakeSharedTier)
    refused: Denial | None = None
    """What the tiers answer in place of a user."""

    def __post_init__(self) -> None:
        self.gate.set()
        self.local = LocalCache(ttl=60, max_users=9, max_tokens=9, clock=lambda: self.now)
        self.local.open()
        other = replace(MAIN, name="other", issuer="https://o/", provisioning=None)
        self.provisioner = Provisioner(
            {"main": MAIN, "other": other}, self, self.local, self.shared, self, self,
            refusal_ttl=5.0, clock=lambda: self.now,
        )  # fmt: skip

    async def provision(self, user: NewUser, request_id: str) -> Provisioned:
        assert request_id == "r-1"
        self.asked.append(user)
        self.came.set()
        await self.gate.wait()
        if self.failure is not None:
            raise self.failure
        return Provisioned(self.result, "u-1", 7)

    async def resolve(self, claims: Claims) -> Resolution:
        assert self.local.recall(claims) is None
        assert claims.identity.subject not in [subject for _, subject in self.shared.documents]
        if self.refused is not None:
            raise self.refused
        return Resolution(self.asked[-1].as_user("u-1"), Tier.POSTGRES, None, Tier.REDIS)

    def user_provisioned(self, issuer: str, result: str) -> None:
        self.counted.append((issuer, result))

    async def ask(self, claims: Claims = CLAIMS, route: Route = ROUTE) -> Resolution:
        return await self.provisioner.provision(route, claims, REQUEST)

    async def reason(self, claims: Claims = CLAIMS, route: Route = ROUTE) -> str:
        with pytest.raises(Denial) as caught:
            await self.ask(claims, route)
        return caught.value.reason.code


@pytest.fixture
def world() -> World:
    return World()


@pytest.mark.parametrize("result", ["created", "exists"])
async def test_the_tiers_are_asked_anew_with_nothing_known_of_the_miss(
    world: World, result: ProvisioningResult
) -> None:
    world.result = result
    world.local.fill(world.local.ticket(), CLAIMS, None, 0.0, Revocations(), 60.0)
    known = world.local.recall(CLAIMS)
    assert known is not None

    resolution = await world.ask()

    assert resolution.user is not None
    assert world.shared.tombstones == {("main", "ann"): 7}
    assert world.counted == [("main", result)]


async def test_redis_may_be_away(world: World) -> None:
    world.shared.down = True

    assert (await world.ask()).user is not None
    assert world.local.last_known(CLAIMS) is None


async def test_requests_at_once_ask_together(world: World) -> None:
    world.gate.clear()
    waiting = [asyncio.create_task(world.ask()) for _ in range(100)]
    await world.came.wait()
    world.gate.set()
    found = await asyncio.gather(*waiting)

    assert len(world.asked) == 1
    assert {each.user.id for each in found if each.user is not None} == {"u-1"}
    assert world.counted == [("main", "created")]


@pytest.mark.parametrize(("result", "reason"), [("deleted", "user_deleted"), ("taken", "account_not_linked")])
async def test_a_refused_creation_is_remembered_for_a_moment(
    world: World, result: ProvisioningResult, reason: str
) -> None:
    world.result = result
    assert [await world.reason() for _ in range(3)] == [reason] * 3
    assert len(world.asked) == 1
    world.now = 5.0
    world.result = "created"
    assert (await world.ask()).user is not None


async def test_a_refusal_is_of_these_claims_alone(world: World) -> None:
    world.result = "taken"
    assert await world.reason() == "account_not_linked"
    world.result = "created"
    other = replace(CLAIMS, payload={"email": "other@example.org"})
    assert (await world.ask(other)).user is not None


async def test_a_store_that_does_not_answer_is_an_outage_and_is_asked_again(world: World) -> None:
    world.failure = StoreUnavailable(Tier.POSTGRES, "pulled")
    assert [await world.reason() for _ in range(2)] == ["user_store_unavailable"] * 2
    assert world.counted == [("main", "failed")] * 2
    world.failure = None
    assert (await world.ask()).user is not None


async def test_an_outage_after_the_creation_is_an_outage(world: World) -> None:
    world.refused = Denial(USER_STORE_UNAVAILABLE)
    assert await world.reason() == "user_store_unavailable"


async def test_an_issuer_without_provisioning_creates_none(world: World) -> None:
    assert await world.reason(STRANGER) == "user_not_found"
    assert (world.asked, world.counted) == ([], [("other", "not_eligible")])


@pytest.mark.parametrize(
    ("require", "reason"),
    [
        (Requirement(roles=frozenset({"admin"})), "role_missing"),
        (Requirement(scopes=frozenset({"orders"})), "scope_insufficient"),
        (Requirement(tenant="acme"), "tenant_mismatch"),
    ],
)
async def test_no_user_is_created_who_could_not_use_the_route(
    world: World, require: Requirement, reason: str
) -> None:
    assert await world.reason(route=replace(ROUTE, require=require)) == reason
    assert world.asked == []


# With the real tiers ---------------------------------------------------------------------------------


class Lagging:
    """Postgres, and a replica that has not heard of the latest transaction. A `UserStore` as well."""

    has_replica = True

    def __init__(self) -> None:
        self.user: User | None = None
        self.asked: list[str] = []

    async def find_user(self, identity: Identity, *, primary: bool = False) -> FoundUser:
        assert identity == CLAIMS.identity
        self.asked.append("primary" if primary else "replica")
        return FoundUser(self.user, 101) if primary else FoundUser(None, 100)

    async def find_user_and_revocations(self, claims: Claims) -> tuple[FoundUser, Revocations]:
        return await self.find_user(claims.identity, primary=True), Revocations()

    async def provision(self, user: NewUser, request_id: str) -> Provisioned:
        assert request_id == "r-1"
        self.user = user.as_user("u-1")
        return Provisioned("created", "u-1", 100)


@pytest.mark.parametrize("state", ["well", "redis is away", "no change is heard of"])
async def test_no_tier_says_afterwards_that_the_user_is_missing(state: str) -> None:
    """All of them have just said so, and the replica goes on."""
    postgres, shared = Lagging(), FakeSharedTier()
    local = LocalCache(ttl=60, max_users=9, max_tokens=9, clock=lambda: 0.0)
    epoch = await shared.begin_epoch("heartbeat")
    if state == "well":
        local.open()
    shared.down = state == "redis is away"
    tiers = IdentityResolver(
        local, shared, postgres, FakeBlacklist(shared),
        believes=lambda name: state == "well" and name == epoch.name, clock=lambda: 1_000.0,
    )  # fmt: skip
    provisioner = Provisioner({"main": MAIN}, postgres, local, shared, tiers, NoCounts(), refusal_ttl=5.0)
    assert (await tiers.find(CLAIMS)).user is None

    created = await provisioner.provision(ROUTE, CLAIMS, REQUEST)
    assert created.user == postgres.user
    assert (await tiers.find(CLAIMS)).user == postgres.user
    await provisioner.close()
    await tiers.close()


class NoCounts:
    """Counts nothing."""

    def user_provisioned(self, issuer: str, result: str) -> None: ...
