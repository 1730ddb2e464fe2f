import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, replace
from uuid import UUID

import pytest
from redis.asyncio import Redis as Client
from structlog.testing import capture_logs

from gateway.core.model import (
    Claims,
    Identity,
    RecordUnusable,
    Resolution,
    StoreUnavailable,
    Tier,
    User,
    UserStatus,
)
from gateway.core.reasons import REVOCATION_UNAVAILABLE, USER_STORE_UNAVAILABLE, Denial, Reason
from gateway.core.revocations import Revocation, Revocations
from gateway.identity.local_cache import LocalCache
from gateway.identity.resolver import IdentityResolver
from gateway.identity.revocations.blacklist_sync import BlacklistSync, under_configured_names
from gateway.stores.postgres.database import Postgres
from gateway.stores.postgres.directory.revocation_rows import RevocationRows
from gateway.stores.postgres.directory.users import UserDirectory
from gateway.stores.postgres.look_ups import FoundUser
from gateway.stores.redis.answers import Epoch, SharedAnswer
from gateway.stores.redis.shared_tier import RedisTier
from gateway.stores.redis.user_documents import CachedUser
from tests.fakes import FakeBlacklist, FakeSharedTier
from tests.stores.cable import Cable
from tests.stores.examples import ISS, ISSUERS, claims, eventually

ANN = Identity(ISS, "ann")


class CountingPostgres(Postgres):
    """The real one, counting what it is asked."""

    queries = 0

    async def find_user(self, identity: Identity, *, primary: bool = False) -> FoundUser:
        self.queries += 1
        return await super().find_user(identity, primary=primary)

    async def find_user_and_revocations(self, claims: Claims) -> tuple[FoundUser, Revocations]:
        self.queries += 1
        return await super().find_user_and_revocations(claims)


@dataclass
class World:
    """Both stores behind cables, the tiers on top, and an operator at the stores themselves."""

    postgres: CountingPostgres
    redis: RedisTier
    sync: BlacklistSync
    postgres_cable: Cable
    redis_cable: Cable
    directory: UserDirectory
    revocations: RevocationRows
    client: "Client"
    epoch: str
    now: float = 1_000_000.0

    def __post_init__(self) -> None:
        self.joined: str | None = self.epoch
        """The epoch of which this process has heard every change."""

    def local(self) -> LocalCache:
        """Return a memory that does not answer, because it receives no changes."""
        return LocalCache(ttl=30, max_users=100, max_tokens=100, clock=lambda: self.now)

    def tiers(self, *, unchecked_allowed: bool = False, local: LocalCache | None = None) -> IdentityResolver:
        return IdentityResolver(
            local or self.local(),
            self.redis,
            self.postgres,
            self.sync,
            believes=lambda epoch: epoch == self.joined,
            user_ttl=300,
            negative_ttl=5,
            stale_if_error=60,
            unchecked_allowed=unchecked_allowed,
            clock=lambda: self.now,
        )

    def hold_answers(self, monkeypatch: pytest.MonkeyPatch) -> tuple[asyncio.Event, asyncio.Event]:
        """Return what tells that Postgres has answered, and what lets its answers arrive."""
        answered, landing = asyncio.Event(), asyncio.Event()
        user, both = self.postgres.find_user, self.postgres.find_user_and_revocations

        async def find_user(identity: Identity, *, primary: bool = False) -> FoundUser:
            found = await user(identity, primary=primary)
            answered.set()
            await landing.wait()
            return found

        async def find_user_and_revocations(token: Claims) -> tuple[FoundUser, Revocations]:
            found = await both(token)
            answered.set()
            await landing.wait()
            return found

        monkeypatch.setattr(self.postgres, "find_user", find_user)
        monkeypatch.setattr(self.postgres, "find_user_and_revocations", find_user_and_revocations)
        return answered, landing

    async def store(self, user: User, stored_at: float, *, ttl: float = 60) -> None:
        """Have Redis remember a user, as of the current epoch."""
        cached = CachedUser(user, stored_at, self.epoch)
        assert await self.redis.store_user(claims(), cached, ttl, horizon=2**53)

    async def postgres_back(self) -> bool:
        """Tell whether Postgres is asked again, which it is not for a moment after it was down."""
        with suppress(StoreUnavailable):
            await self.postgres.ping()
            return True
        return False

    async def add(self, subject: str = "ann") -> User:
        return (await self.directory.add(Identity(ISS, subject))).user

    async def asked(self) -> bool:
        return self.postgres.queries > 0

    async def marked(self) -> bool:
        return bool(await self.client.exists("gateway:revocations:loaded"))

    async def trusted(self) -> bool:
        return self.sync.trusted


@pytest.fixture
async def world(dsn: str, redis_url: str) -> AsyncIterator[World]:
    async with Cable(dsn) as postgres_cable, Cable(redis_url) as redis_cable:
        operator = Postgres(dsn, statement_timeout=10)
        postgres = CountingPostgres(postgres_cable.url)
        redis = RedisTier(redis_cable.url, timeout=2.0)
        sync = BlacklistSync(postgres, redis, ISSUERS)
        await sync.load()
        epoch = await redis.begin_epoch("beat")
        async with Client.from_url(redis_url) as client:
            # In this test, no worker keeps it alive, and it does not lapse.
            await client.persist("gateway:epoch")
            yield World(
                postgres,
                redis,
                sync,
                postgres_cable,
                redis_cable,
                UserDirectory(operator),
                RevocationRows(operator),
                client,
                epoch.name,
            )
        await sync.close()
        with suppress(StoreUnavailable):
            await redis.close()
        await postgres.close()
        await operator.close()


async def denied(tiers: IdentityResolver, token: Claims) -> Reason:
    with pytest.raises(Denial) as caught:
        await tiers.resolve(token)
    return caught.value.reason


class TestTiers:
    async def test_postgres_then_redis(self, world: World) -> None:
        ann = await world.add()
        tiers = world.tiers()
        assert await tiers.resolve(claims()) == Resolution(ann, Tier.POSTGRES, None, Tier.REDIS)
        assert await tiers.resolve(claims()) == Resolution(ann, Tier.REDIS, None, Tier.REDIS)
        assert await world.tiers().resolve(claims()) == Resolution(ann, Tier.REDIS, None, Tier.REDIS)
        assert world.postgres.queries == 1

    async def test_thousand_first_requests_make_one_query(self, world: World) -> None:
        ann = await world.add()
        tiers = world.tiers()
        # The connection and the statement are there: a thousand tasks at once may take as long as a timeout.
        await tiers.resolve(claims("bob"))
        resolutions = await asyncio.gather(*(tiers.resolve(claims()) for _ in range(1000)))
        assert {resolution.user and resolution.user.id for resolution in resolutions} == {ann.id}
        assert world.postgres.queries == 2

    async def test_thousand_requests_of_an_unknown_subject_make_one_query(self, world: World) -> None:
        tiers = world.tiers()
        await tiers.resolve(claims("bob"))
        resolutions = await asyncio.gather(*(tiers.resolve(claims("ghost")) for _ in range(1000)))
        assert {resolution.user for resolution in resolutions} == {None}
        assert world.postgres.queries == 2

    async def test_thousand_requests_without_redis_make_one_query_at_a_time(self, world: World) -> None:
        ann = await world.add()
        tiers = world.tiers()
        await world.redis_cable.pull()
        resolutions = await asyncio.gather(*(tiers.resolve(claims()) for _ in range(1000)))
        assert {resolution.user and resolution.user.id for resolution in resolutions} == {ann.id}
        assert world.postgres.queries < 100

    @pytest.mark.parametrize("redis_is_up", [True, False])
    async def test_a_request_after_a_change_of_the_user_gets_no_earlier_answer(
        self, world: World, monkeypatch: pytest.MonkeyPatch, redis_is_up: bool
    ) -> None:
        ann = await world.add()
        answered, landing = world.hold_answers(monkeypatch)
        local = world.local()
        local.open()
        tiers = world.tiers(local=local)
        if not redis_is_up:
            await world.redis_cable.pull()
        early = asyncio.create_task(tiers.resolve(claims()))
        await answered.wait()
        await world.directory.delete(UUID(ann.id))
        local.forget_users([ann.id])
        late = asyncio.create_task(tiers.resolve(claims()))
        await asyncio.sleep(0.05)
        landing.set()
        assert (await early).user == ann
        user = (await late).user
        assert user is not None
        assert user.status is UserStatus.DELETED

    async def test_a_worker_without_changes_shares_no_old_query(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ann = await world.add()
        answered, landing = world.hold_answers(monkeypatch)
        tiers = world.tiers()
        early = [asyncio.create_task(tiers.resolve(claims())) for _ in range(10)]
        await answered.wait()
        assert world.postgres.queries == 1
        await world.directory.delete(UUID(ann.id))
        world.now += 0.2
        late = asyncio.create_task(tiers.resolve(claims()))
        await asyncio.sleep(0.05)
        landing.set()
        assert [resolution.user for resolution in await asyncio.gather(*early)] == [ann] * 10
        user = (await late).user
        assert user is not None
        assert user.status is UserStatus.DELETED

    @pytest.mark.parametrize("came_back", [False, True])
    async def test_a_change_that_other_workers_received_voids_the_memory_of_a_deaf_worker(
        self, world: World, came_back: bool
    ) -> None:
        await world.add()
        local = world.local()
        tiers = world.tiers(local=local)
        await tiers.resolve(claims())
        assert local.last_known(claims()) is not None
        await world.redis.bury([("main", "ann")], 2**53)
        if came_back:
            local.open()
        await world.postgres_cable.pull()
        assert await denied(tiers, claims()) is USER_STORE_UNAVAILABLE

    async def test_a_complete_memory_replaces_an_evicted_document(self, world: World) -> None:
        ann = await world.add()
        local = world.local()
        local.open()
        tiers = world.tiers(local=local)
        await tiers.resolve(claims())
        await world.client.delete("gateway:user:main:ann")
        await world.postgres_cable.pull()
        expected = Resolution(ann, Tier.LOCAL, None, Tier.REDIS, stale=True)
        assert await tiers.resolve(claims()) == expected

    async def test_an_answer_that_came_while_redis_was_asked_is_used(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ann = await world.add()
        tiers = world.tiers()
        read, has_read, may_go_on = world.redis.read, asyncio.Event(), asyncio.Event()

        async def read_and_wait(token: Claims, user_id: str | None) -> SharedAnswer:
            answer = await read(token, user_id)
            if not has_read.is_set():
                has_read.set()
                await may_go_on.wait()
            return answer

        monkeypatch.setattr(world.redis, "read", read_and_wait)
        slow = asyncio.create_task(tiers.resolve(claims()))
        await has_read.wait()
        await tiers.resolve(claims())
        may_go_on.set()
        assert await slow == Resolution(ann, Tier.LOCAL, None, Tier.REDIS)
        assert world.postgres.queries == 1

    @pytest.mark.parametrize("down", [False, True])
    async def test_identities_that_are_asked_about_at_once_share_no_query(
        self, world: World, *, down: bool
    ) -> None:
        ann, bob = await world.add(), await world.add("bob")
        if down:
            await world.redis_cable.pull()
        tiers = world.tiers()
        tokens = (claims(), claims("bob"), claims(issuer_name="other", iss="https://other.example.com/"))
        answers = await asyncio.gather(*map(tiers.resolve, tokens))
        assert [answer.user for answer in answers] == [ann, bob, None]

    async def test_a_cancelled_caller_does_not_end_the_query_of_others(self, world: World) -> None:
        ann = await world.add()
        tiers = world.tiers()
        async with world.directory._postgres.connection() as connection, connection.transaction():
            await connection.execute("LOCK TABLE users")
            impatient = asyncio.create_task(tiers.resolve(claims()))
            patient = asyncio.create_task(tiers.resolve(claims()))
            await eventually(world.asked)
            impatient.cancel()
            await asyncio.sleep(0.05)
        resolution = await patient
        assert impatient.cancelled()
        assert (resolution.user, world.postgres.queries) == (ann, 1)

    async def test_after_its_time_an_entry_is_asked_for_again(self, world: World) -> None:
        ann = await world.add()
        tiers = world.tiers()
        await tiers.resolve(claims())
        await world.directory.change(UUID(ann.id), {"status": UserStatus.SUSPENDED})
        world.now += 299
        resolution = await tiers.resolve(claims())
        assert (resolution.user, resolution.tier) == (ann, Tier.REDIS)
        world.now += 1
        resolution = await tiers.resolve(claims())
        assert resolution.user is not None
        assert (resolution.user.status, resolution.tier) == (UserStatus.SUSPENDED, Tier.POSTGRES)

    async def test_a_user_that_redis_has_anew_replaces_the_one_that_was_known(self, world: World) -> None:
        ann = await world.add()
        tiers = world.tiers()
        known = (await tiers.resolve(claims())).user
        # An equal user is the same object, so that others may compare users by identity.
        assert (await tiers.resolve(claims())).user is known == ann
        changed = replace(ann, status=UserStatus.SUSPENDED)
        await world.store(changed, world.now + 1)
        resolution = await tiers.resolve(claims())
        assert (resolution.user, resolution.tier) == (changed, Tier.REDIS)

    async def test_a_dropped_entry_is_asked_for_again(self, world: World) -> None:
        ann = await world.add()
        tiers = world.tiers()
        await tiers.resolve(claims())
        await world.directory.change(UUID(ann.id), {"status": UserStatus.LOCKED})
        await world.client.delete("gateway:user:main:ann")
        resolution = await tiers.resolve(claims())
        assert resolution.user is not None
        assert (resolution.user.status, resolution.tier) == (UserStatus.LOCKED, Tier.POSTGRES)

    @pytest.mark.parametrize(("ahead", "tier"), [(4, Tier.REDIS), (6, Tier.POSTGRES)])
    async def test_the_clock_of_the_machine_that_stored_may_be_a_little_ahead(
        self, world: World, ahead: float, tier: Tier
    ) -> None:
        ann = await world.add()
        await world.store(ann, world.now + ahead)
        assert (await world.tiers().resolve(claims())).tier is tier

    async def test_a_miss_is_believed_for_a_moment_only(self, world: World) -> None:
        tiers = world.tiers()
        assert await tiers.resolve(claims()) == Resolution(None, Tier.POSTGRES, None, Tier.REDIS)
        ann = await world.add()
        world.now += 4.9
        assert await tiers.resolve(claims()) == Resolution(None, Tier.REDIS, None, Tier.REDIS)
        world.now += 0.1
        assert await tiers.resolve(claims()) == Resolution(ann, Tier.POSTGRES, None, Tier.REDIS)

    async def test_subjects_of_two_issuers_are_two_identities(self, world: World) -> None:
        ann = await world.add()
        tiers = world.tiers()
        other = claims(issuer_name="other", iss="https://other.example.com/")
        assert (await tiers.resolve(claims())).user == ann
        assert (await tiers.resolve(other)).user is None


class TestRevocations:
    async def test_a_jti_in_redis_is_honoured_at_once(self, world: World) -> None:
        await world.add()
        tiers = world.tiers()
        assert (await tiers.resolve(claims())).revoked is None
        await world.client.set("gateway:revoked:jti:main:token-1", "")
        resolution = await tiers.resolve(claims())
        assert (resolution.revoked, resolution.revocation_tier) == ("jti", Tier.REDIS)
        assert (await tiers.resolve(claims(jti="token-2"))).revoked is None

    @pytest.mark.parametrize(
        ("issued_at", "hit"), [(999.0, True), (1000.0, True), (1000.5, False), (None, True)]
    )
    async def test_user_and_issuer_revocations_go_by_the_time_of_issue(
        self, world: World, issued_at: float | None, hit: bool
    ) -> None:
        ann = await world.add()
        tiers = world.tiers()
        token = claims(issued_at=issued_at)
        await world.client.set(f"gateway:revoked:user:{ann.id}", "1000")
        # First from Postgres, then from Redis with the id known from memory, then without.
        for directory in (tiers, tiers, world.tiers()):
            assert (await directory.resolve(token)).revoked == ("user" if hit else None)
        await world.client.delete(f"gateway:revoked:user:{ann.id}")
        await world.client.set("gateway:revoked:issuer:main", "1000")
        assert (await tiers.resolve(token)).revoked == ("issuer" if hit else None)

    async def test_a_guess_at_the_user_is_checked(self, world: World) -> None:
        ann, bob = await world.add(), await world.add("bob")
        tiers = world.tiers()
        await tiers.resolve(claims())
        async with world.directory._postgres.connection() as connection:
            await connection.execute("UPDATE identities SET user_id = $1 WHERE subject = 'ann'", bob.id)
        await world.client.delete("gateway:user:main:ann")
        await world.client.set(f"gateway:revoked:user:{ann.id}", "inf")
        resolution = await tiers.resolve(claims())
        assert (resolution.user, resolution.revoked) == (bob, None)
        await world.client.set(f"gateway:revoked:user:{bob.id}", "inf")
        assert (await tiers.resolve(claims())).revoked == "user"

    async def test_a_revocation_of_a_user_is_remembered_for_the_other_tokens(self, world: World) -> None:
        """Also if Redis was asked before it was known whose token it is."""
        ann = await world.add()
        await world.client.set(f"gateway:revoked:user:{ann.id}", "1000")
        local = world.local()
        local.open()
        tiers = world.tiers(local=local)
        assert (await tiers.resolve(claims(issued_at=1001.0))).revoked is None
        assert tiers.recall(claims(issued_at=1001.0)) is not None
        assert tiers.recall(claims(issued_at=1000.0)) is None

    async def test_a_blacklist_that_is_doubted_during_a_read_does_not_vouch_for_its_answer(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await world.add()
        tiers, read = world.tiers(), world.redis.read
        await tiers.resolve(claims())
        assert (await tiers.resolve(claims())).revocation_tier is Tier.REDIS

        async def doubted(token: Claims, user_id: str | None) -> SharedAnswer:
            answer = await read(token, user_id)
            world.sync.doubt()
            return answer

        monkeypatch.setattr(world.redis, "read", doubted)
        assert (await tiers.resolve(claims())).revocation_tier is Tier.POSTGRES

    async def test_redis_down_between_two_reads_vouches_for_nothing(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await world.add()

        async def redis_down(_: str) -> float | None:
            raise StoreUnavailable(Tier.REDIS, "down")

        async def postgres_down(_: Claims) -> tuple[FoundUser, Revocations]:
            raise StoreUnavailable(Tier.POSTGRES, "down")

        monkeypatch.setattr(world.redis, "user_revoked_at", redis_down)
        assert (await world.tiers().resolve(claims())).revocation_tier is Tier.POSTGRES
        assert not world.sync.trusted
        await world.sync.load()
        await world.client.delete("gateway:user:main:ann")
        monkeypatch.setattr(world.postgres, "find_user_and_revocations", postgres_down)
        assert await denied(world.tiers(), claims()) is REVOCATION_UNAVAILABLE

    async def test_losing_all_of_redis_loses_no_revocation(self, world: World) -> None:
        await world.add()
        tiers = world.tiers()
        await world.revocations.revoke("jti", issuer="main", value="token-1")
        await world.client.flushdb()
        resolution = await tiers.resolve(claims())
        assert (resolution.revoked, resolution.revocation_tier) == ("jti", Tier.POSTGRES)
        # One rebuild in the background; from then on Redis is asked again.
        await eventually(world.marked)
        resolution = await tiers.resolve(claims())
        assert (resolution.revoked, resolution.revocation_tier) == ("jti", Tier.REDIS)

    async def test_without_the_marker_revocations_in_redis_still_count(self, world: World) -> None:
        ann = await world.add()
        await world.client.flushdb()
        await world.client.set("gateway:revoked:jti:main:token-1", "1")
        await world.client.set(f"gateway:revoked:user:{ann.id}", "inf")
        assert (await world.tiers().resolve(claims())).revoked == "jti"
        await world.client.delete("gateway:revocations:loaded")
        assert (await world.tiers().resolve(claims(jti=None))).revoked == "user"

    async def test_without_the_marker_and_postgres_no_store_vouches(self, world: World) -> None:
        ann = await world.add()
        await world.store(ann, world.now)
        await world.client.delete("gateway:revocations:loaded")
        await world.postgres_cable.pull()
        assert await denied(world.tiers(), claims()) is REVOCATION_UNAVAILABLE
        allowed = await world.tiers(unchecked_allowed=True).resolve(claims())
        assert allowed == Resolution(ann, Tier.REDIS, None, None, stale=True)

    async def test_a_revocation_during_an_outage_of_redis_counts_afterwards(self, world: World) -> None:
        await world.add()
        tiers = world.tiers()
        await tiers.resolve(claims())
        await world.redis_cable.pull()
        assert (await tiers.resolve(claims())).revoked is None
        await world.revocations.revoke("jti", issuer="main", value="token-1")
        await world.redis_cable.plug()
        assert (await tiers.resolve(claims())).revoked == "jti"
        await eventually(world.trusted)
        resolution = await tiers.resolve(claims())
        assert (resolution.revoked, resolution.revocation_tier) == ("jti", Tier.REDIS)

    async def test_a_redis_that_missed_a_revocation_is_never_trusted(self, world: World) -> None:
        await world.add()
        tiers, careless = world.tiers(), world.tiers(unchecked_allowed=True)
        assert (await tiers.resolve(claims())).revoked is None
        await world.redis_cable.pull()
        await world.revocations.revoke("jti", issuer="main", value="token-1")
        assert (await tiers.resolve(claims())).revoked == "jti"
        await world.postgres_cable.pull()
        await world.redis_cable.plug()
        for _ in range(3):
            assert await denied(tiers, claims()) is REVOCATION_UNAVAILABLE
            assert (await careless.resolve(claims())).revocation_tier is None
        await world.postgres_cable.plug()
        await eventually(world.postgres_back)
        assert (await tiers.resolve(claims())).revoked == "jti"

    async def test_a_filling_that_ends_during_a_read_does_not_vouch_for_its_answer(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await world.add()
        tiers = world.tiers()
        await tiers.resolve(claims())
        read = world.redis.read

        async def read_and_fill(token: Claims, user_id: str | None) -> SharedAnswer:
            answer = await read(token, user_id)
            await world.sync.load()
            return answer

        monkeypatch.setattr(world.redis, "read", read_and_fill)
        world.sync.doubt()
        await world.revocations.revoke("jti", issuer="main", value="token-1")
        assert (await tiers.resolve(claims())).revoked == "jti"


class TestStoresDown:
    async def test_redis_down_postgres_answers_both(self, world: World) -> None:
        ann = await world.add()
        tiers = world.tiers()
        await world.redis_cable.pull()
        assert await tiers.resolve(claims()) == Resolution(ann, Tier.POSTGRES, None, Tier.POSTGRES)
        assert (await tiers.resolve(claims("ghost"))).user is None
        await world.revocations.revoke("user", value=ann.id)
        assert (await tiers.resolve(claims())).revoked == "user"
        await world.revocations.revoke("issuer", issuer="main")
        assert (await tiers.resolve(claims("ghost"))).revoked == "issuer"

    async def test_postgres_down_a_known_user_is_served_until_stale(self, world: World) -> None:
        ann = await world.add()
        tiers = world.tiers()
        await tiers.resolve(claims())
        await world.postgres_cable.pull()
        assert await tiers.resolve(claims()) == Resolution(ann, Tier.REDIS, None, Tier.REDIS)
        world.now += 300
        stale = Resolution(ann, Tier.REDIS, None, Tier.REDIS, stale=True)
        assert await tiers.resolve(claims()) == stale
        assert await world.tiers().resolve(claims()) == stale
        await world.client.set("gateway:revoked:jti:main:token-1", "")
        assert (await tiers.resolve(claims())).revoked == "jti"
        world.now += 60
        assert await denied(tiers, claims(jti=None)) is USER_STORE_UNAVAILABLE

    async def test_with_postgres_down_memory_serves_users_that_redis_lost(self, world: World) -> None:
        ann = await world.add()
        tiers = world.tiers()
        await tiers.resolve(claims())
        await world.client.delete("gateway:user:main:ann")
        await world.postgres_cable.pull()
        local = Resolution(ann, Tier.LOCAL, None, Tier.REDIS, stale=True)
        assert await tiers.resolve(claims()) == local
        world.now += 359
        assert await tiers.resolve(claims()) == local
        world.now += 1
        assert await denied(tiers, claims()) is USER_STORE_UNAVAILABLE

    async def test_postgres_down_an_unknown_user_is_no_miss(self, world: World) -> None:
        tiers = world.tiers()
        await world.postgres_cable.pull()
        assert await denied(tiers, claims()) is USER_STORE_UNAVAILABLE
        ann = await world.add()
        await world.postgres_cable.plug()
        await eventually(world.postgres_back)
        assert await tiers.resolve(claims()) == Resolution(ann, Tier.POSTGRES, None, Tier.REDIS)

    async def test_an_entry_redis_could_not_replace_is_not_preferred_to_memory(self, world: World) -> None:
        ann = await world.add()
        tiers = world.tiers()
        await world.store(ann, world.now - 310, ttl=600)
        await world.directory.change(UUID(ann.id), {"status": UserStatus.SUSPENDED})
        await world.redis_cable.pull()
        await tiers.resolve(claims())
        await world.redis_cable.plug()
        await world.sync.load()
        await world.postgres_cable.pull()
        resolution = await tiers.resolve(claims())
        assert resolution.user is not None
        assert (resolution.user.status, resolution.tier) == (UserStatus.SUSPENDED, Tier.LOCAL)

    async def test_a_removed_user_is_not_served(self, world: World) -> None:
        await world.add()
        tiers = world.tiers()
        await tiers.resolve(claims())
        async with world.directory._postgres.connection() as connection:
            await connection.execute("DELETE FROM identities")
        world.now += 300
        assert (await tiers.resolve(claims())).user is None
        await world.postgres_cable.pull()
        world.now += 5
        assert await denied(tiers, claims()) is USER_STORE_UNAVAILABLE

    async def test_a_user_whose_time_is_over_is_not_served(self, world: World) -> None:
        """A ban may have begun."""
        ann = replace(await world.add(), valid_until=world.now + 10)
        await world.store(ann, world.now)
        await world.postgres_cable.pull()
        tiers = world.tiers()
        world.now += 9
        assert (await tiers.resolve(claims())).user == ann
        world.now += 1
        assert await denied(tiers, claims()) is USER_STORE_UNAVAILABLE

    @pytest.mark.parametrize("down", [False, True])
    async def test_no_earlier_answer_takes_the_place_of_a_row_that_cannot_be_read(
        self, world: World, monkeypatch: pytest.MonkeyPatch, *, down: bool
    ) -> None:
        ann = await world.add()
        tiers = world.tiers(unchecked_allowed=True)
        assert (await tiers.resolve(claims())).user == ann
        world.now += 300
        failure: StoreUnavailable = StoreUnavailable(Tier.POSTGRES, "down")

        async def fail(*_: object, **__: object) -> FoundUser:
            raise failure

        monkeypatch.setattr(world.postgres, "find_user", fail)
        monkeypatch.setattr(world.postgres, "find_user_and_revocations", fail)
        if down:
            await world.redis_cable.pull()
        assert (await tiers.resolve(claims())).stale
        failure = RecordUnusable(Tier.POSTGRES, "two rows")
        assert await denied(tiers, claims()) is USER_STORE_UNAVAILABLE

    async def test_a_created_user_is_served_after_a_miss(self, world: World) -> None:
        tiers = world.tiers(unchecked_allowed=True)
        await tiers.resolve(claims())
        ann = await world.add()
        await world.redis_cable.pull()
        await tiers.resolve(claims())
        await world.postgres_cable.pull()
        assert (await tiers.resolve(claims())).user == ann

    async def test_both_down_fails_closed(self, world: World) -> None:
        await world.add()
        tiers = world.tiers()
        await tiers.resolve(claims())
        await world.postgres_cable.pull()
        await world.redis_cable.pull()
        assert await denied(tiers, claims()) is REVOCATION_UNAVAILABLE

    async def test_both_down_known_users_pass_where_the_operator_allows(self, world: World) -> None:
        ann = await world.add()
        tiers = world.tiers(unchecked_allowed=True)
        await tiers.resolve(claims())
        await tiers.resolve(claims("ghost"))
        await world.postgres_cable.pull()
        await world.redis_cable.pull()
        assert await tiers.resolve(claims()) == Resolution(ann, Tier.LOCAL, None, None, stale=True)
        # Who was not there may be there by this time.
        assert await denied(tiers, claims("ghost")) is USER_STORE_UNAVAILABLE
        assert await denied(tiers, claims("new")) is USER_STORE_UNAVAILABLE
        world.now += 360
        assert await denied(tiers, claims()) is USER_STORE_UNAVAILABLE

    async def test_after_the_recovery_of_both_stores_requests_are_admitted(self, world: World) -> None:
        ann = await world.add()
        tiers = world.tiers()
        await world.postgres_cable.pull()
        await world.redis_cable.pull()
        await denied(tiers, claims())
        await world.postgres_cable.plug()
        await world.redis_cable.plug()
        await eventually(world.postgres_back)
        assert (await tiers.resolve(claims())).user == ann


class TestEpochs:
    async def test_without_an_epoch_postgres_answers_both(self, world: World) -> None:
        ann = await world.add()
        tiers = world.tiers()
        await tiers.resolve(claims())
        await world.client.delete("gateway:epoch")
        assert await tiers.resolve(claims()) == Resolution(ann, Tier.POSTGRES, None, Tier.POSTGRES)
        await world.revocations.revoke("jti", issuer="main", value="token-1")
        assert (await tiers.resolve(claims())).revoked == "jti"

    async def test_a_revocation_in_redis_alone_counts_without_an_epoch(self, world: World) -> None:
        ann = await world.add()
        await world.client.delete("gateway:epoch")
        await world.client.set(f"gateway:revoked:user:{ann.id}", "inf")
        assert (await world.tiers().resolve(claims())).revoked == "user"

    async def test_a_user_of_another_epoch_is_asked_for_again(self, world: World) -> None:
        ann = await world.add()
        tiers = world.tiers()
        await tiers.resolve(claims())
        await world.redis.end_epoch(1)
        epoch = await world.redis.epoch()
        assert epoch is not None
        world.joined = epoch.name
        assert (await tiers.resolve(claims())).tier is Tier.POSTGRES
        assert await tiers.resolve(claims()) == Resolution(ann, Tier.REDIS, None, Tier.REDIS)

    async def test_a_worker_without_changes_trusts_no_document(self, world: World) -> None:
        """Nor the blacklist's silence: those who fill Redis may be as deaf."""
        ann = await world.add()
        tiers = world.tiers()
        await tiers.resolve(claims())
        world.joined = None
        assert await tiers.resolve(claims()) == Resolution(ann, Tier.POSTGRES, None, Tier.POSTGRES)
        await world.revocations.revoke("jti", issuer="main", value="token-1")
        assert (await tiers.resolve(claims())).revoked == "jti"
        await world.directory.change(UUID(ann.id), {"status": UserStatus.SUSPENDED})
        known = (await tiers.resolve(claims(jti=None))).user
        assert known is not None
        assert known.status is UserStatus.SUSPENDED

    async def test_nor_while_postgres_is_down_but_marked_stale(self, world: World) -> None:
        ann = await world.add()
        await world.tiers().resolve(claims())
        world.joined = None
        await world.postgres_cable.pull()
        tiers = world.tiers()
        assert await tiers.resolve(claims()) == Resolution(ann, Tier.REDIS, None, Tier.REDIS, stale=True)

    @pytest.mark.parametrize("left", ["another", "none"])
    async def test_postgres_down_a_user_of_another_epoch_serves_marked_stale(
        self, world: World, left: str
    ) -> None:
        ann = await world.add()
        await world.tiers().resolve(claims())
        if left == "another":
            await world.redis.end_epoch(1)
        else:
            await world.client.delete("gateway:epoch")
        await world.postgres_cable.pull()
        tiers = world.tiers()
        assert await tiers.resolve(claims()) == Resolution(ann, Tier.REDIS, None, Tier.REDIS, stale=True)
        await world.client.set("gateway:revoked:jti:main:token-1", "")
        assert (await tiers.resolve(claims())).revoked == "jti"
        assert await denied(tiers, claims("ghost", jti=None)) is USER_STORE_UNAVAILABLE

    async def test_a_miss_is_served_while_a_worker_guards_it_and_no_longer(self, world: World) -> None:
        tiers = world.tiers()
        await tiers.resolve(claims())
        await world.postgres_cable.pull()
        assert (await tiers.resolve(claims())).user is None
        await world.client.delete("gateway:epoch")
        assert await denied(tiers, claims()) is USER_STORE_UNAVAILABLE


class TestMemory:
    async def test_an_answer_of_redis_or_postgres_is_recalled(self, world: World) -> None:
        ann = await world.add()
        for _ in range(2):
            local = world.local()
            local.open()
            tiers = world.tiers(local=local)
            assert tiers.recall(claims()) is None
            told = await tiers.resolve(claims())
            assert tiers.recall(claims()) == Resolution(ann, Tier.LOCAL, None, Tier.LOCAL)
            validity = tiers.validity(claims())
            assert validity is not None
            # The caller may use it from then on, without asking again.
            assert validity.answer.user is told.user
            assert await tiers.find(claims()) == tiers.recall(claims())
        assert world.postgres.queries == 1

    async def test_an_answer_that_redis_refused_is_not_recalled(self, world: World) -> None:
        await world.add()
        local = world.local()
        local.open()
        tiers = world.tiers(local=local)
        await world.redis.bury([("main", "ann")], 2**53)
        assert (await tiers.find(claims())).tier is Tier.POSTGRES
        assert tiers.recall(claims()) is None

    async def test_redis_down_nothing_is_remembered(self, world: World) -> None:
        await world.add()
        local = world.local()
        local.open()
        tiers = world.tiers(local=local)
        await world.redis_cable.pull()
        await tiers.resolve(claims())
        assert tiers.recall(claims()) is None

    async def test_an_answer_that_redis_could_not_take_is_not_remembered(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await world.add()
        local = world.local()
        local.open()
        tiers = world.tiers(local=local)

        async def down(*_: object, **__: object) -> bool:
            raise StoreUnavailable(Tier.REDIS, "down")

        monkeypatch.setattr(world.redis, "store_user", down)
        assert (await tiers.resolve(claims())).tier is Tier.POSTGRES
        assert tiers.recall(claims()) is None

    @pytest.mark.parametrize(("issued", "seconds"), [(8.5, 1.0), (11.0, 5.0)])
    async def test_a_miss_counts_for_a_second_if_the_token_is_fresh(
        self, world: World, issued: float, seconds: float
    ) -> None:
        token = claims("ghost", issued_at=world.now - issued)
        local = world.local()
        local.open()
        tiers = world.tiers(local=local)
        await tiers.resolve(token)
        world.now += seconds - 0.1
        local.prove()
        assert tiers.recall(token) is not None
        assert (await tiers.resolve(token)).tier is Tier.REDIS
        ttl = await world.client.pttl("gateway:user:main:ghost")
        assert seconds * 1000 - 900 < ttl <= seconds * 1000
        world.now += 0.1
        local.prove()
        assert tiers.recall(token) is None
        assert (await tiers.resolve(token)).tier is Tier.POSTGRES

    async def test_a_user_that_redis_learnt_long_ago_is_recalled_for_the_rest_of_its_time(
        self, world: World
    ) -> None:
        await world.store(await world.add(), world.now - 290)
        local = world.local()
        local.open()
        tiers = world.tiers(local=local)
        await tiers.resolve(claims())
        for seconds, known in ((9.9, True), (0.1, False)):
            world.now += seconds
            local.prove()
            assert (tiers.recall(claims()) is not None) is known

    async def test_a_received_change_begins_another_query(self, world: World) -> None:
        ann = await world.add()
        local = world.local()
        local.open()
        tiers = world.tiers(local=local)
        async with world.directory._postgres.connection() as connection, connection.transaction():
            await connection.execute("LOCK TABLE users")
            before = asyncio.create_task(tiers.resolve(claims()))
            await eventually(world.asked)
            local.forget_identities([(ISS, "ann")])
            after = asyncio.create_task(tiers.resolve(claims()))
            await asyncio.sleep(0.05)
        assert (await before).user == (await after).user == ann
        assert world.postgres.queries == 2


class TestReplica:
    """A replica is played here; that it lags behind is all that matters."""

    def tiers(
        self, primary: User | None, replica: User | None, horizon: int
    ) -> tuple[IdentityResolver, list[bool]]:
        asked: list[bool] = []

        class System:
            has_replica = True

            async def find_user(self, identity: Identity, *, primary: bool = False) -> FoundUser:  # noqa: ARG002 -- the Protocol's
                asked.append(primary)
                return FoundUser(users[primary], 100 if primary else horizon)

            async def find_user_and_revocations(self, claims: Claims) -> tuple[FoundUser, Revocations]:  # noqa: ARG002 -- the Protocol's
                raise AssertionError("not for this test")

        users = {True: primary, False: replica}
        shared = FakeSharedTier()
        shared.current = Epoch("epoch", "beat")
        shared.tombstones["main", "ann"] = 50
        local = LocalCache(ttl=30, max_users=10, max_tokens=10, clock=lambda: 1_000_000.0)
        return IdentityResolver(
            local, shared, System(), FakeBlacklist(shared), believes=lambda _: True, clock=lambda: 1_005.0
        ), asked

    ANN = User("ann-id", UserStatus.ACTIVE)

    async def test_it_answers(self) -> None:
        tiers, asked = self.tiers(None, self.ANN, horizon=51)
        assert (await tiers.resolve(claims())).user == self.ANN
        assert asked == [False]

    async def test_the_primary_is_asked_if_the_replica_may_lack_a_change(self) -> None:
        locked = User("ann-id", UserStatus.LOCKED)
        tiers, asked = self.tiers(locked, self.ANN, horizon=50)
        assert (await tiers.resolve(claims())).user == locked
        assert asked == [False, True]

    @pytest.mark.parametrize(("issued_at", "found"), [(1_000.0, True), (990.0, False), (None, False)])
    async def test_the_primary_is_asked_for_a_new_user_that_the_replica_lacks(
        self, issued_at: float | None, found: bool
    ) -> None:
        tiers, asked = self.tiers(self.ANN, None, horizon=51)
        resolution = await tiers.resolve(claims(issued_at=issued_at))
        assert resolution.user == (self.ANN if found else None)
        assert asked == [False, True] if found else [False]


class TestMirror:
    def test_rows_go_under_the_configured_name(self) -> None:
        rows = [Revocation("jti", issuer, "x", 1.0) for issuer in (ISS, "main", "elsewhere")]
        rows.append(Revocation("user", "", "id", 1.0))
        assert [row.issuer for row in under_configured_names(rows, ISSUERS)] == [
            "main",
            "main",
            "elsewhere",
            "",
        ]

    async def test_a_row_that_was_written_to_postgres_alone_arrives(self, world: World) -> None:
        await world.add()
        tiers = world.tiers()
        world.sync.start(interval=0.05)
        await world.revocations.revoke("jti", issuer=ISS, value="token-1")

        async def honoured() -> bool:
            return (await tiers.resolve(claims())).revoked == "jti"

        await eventually(honoured)
        assert await world.client.exists("gateway:revoked:jti:main:token-1")

    async def test_an_outage_of_redis_between_requests_makes_it_untrusted(self, world: World) -> None:
        world.sync.start(interval=60, watch=0.02)
        await eventually(world.trusted)
        await world.redis_cable.pull()

        async def doubted() -> bool:
            return not world.sync.trusted

        await eventually(doubted)
        await world.revocations.revoke("jti", issuer="main", value="token-1")
        await world.redis_cable.plug()
        await eventually(world.trusted)
        assert await world.client.exists("gateway:revoked:jti:main:token-1")

    async def test_a_defect_in_a_filling_is_logged_and_tried_again(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def broken(_: object, __: object) -> None:
            raise ZeroDivisionError("odd")

        with monkeypatch.context() as patch, capture_logs() as logs:
            patch.setattr(world.redis.revoked, "fill", broken)
            world.sync.doubt()
            world.sync.start(interval=0.02)

            async def logged() -> bool:
                return bool(logs)

            await eventually(logged)
        assert (logs[0]["event"], logs[0]["log_level"]) == ("revocations_not_loaded", "error")
        assert logs[0]["exc_info"]
        await eventually(world.trusted)

    async def test_a_revocation_lifted_during_a_filling_is_not_brought_back(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await world.revocations.revoke("jti", issuer="main", value="token-1")
        await world.sync.load()
        rows = world.postgres.counting_revocations

        async def rows_then_lift() -> list[Revocation]:
            found = await rows()
            await world.revocations.lift("jti", issuers=["main"], value="token-1")
            assert await world.redis.revoked.lift([Revocation("jti", "main", "token-1", 0.0)]) == 1
            return found

        with monkeypatch.context() as patch:
            patch.setattr(world.postgres, "counting_revocations", rows_then_lift)
            with pytest.raises(StoreUnavailable, match="lifted"):
                await world.sync.load()
        assert not await world.client.exists("gateway:revoked:jti:main:token-1")
        await world.sync.load()
        assert not await world.client.exists("gateway:revoked:jti:main:token-1")


async def test_the_sync_closes_even_when_a_cancellation_is_lost(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = asyncio.Event()

    async def deaf_ping() -> None:
        asked.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            # What a client does whose own timeout comes at that very moment.
            raise StoreUnavailable(Tier.REDIS, "no answer in time") from None

    monkeypatch.setattr(world.redis, "ping", deaf_ping)
    sync = BlacklistSync(world.postgres, world.redis, {})
    sync.start(interval=60.0, watch=0.01)
    await asked.wait()
    async with asyncio.timeout(2):
        await sync.close()
