"""Two tenants of one issuer with the same subjects and token ids: nothing of one is ever the other's."""

from collections.abc import AsyncIterator, Callable
from dataclasses import replace

import pytest
from redis.asyncio import Redis as Client

from gateway.core.model import Claims, Resolution, Tier, User, UserStatus
from gateway.core.revocations import Revocation, Revocations, Revoked
from gateway.identity.invalidation import Invalidation
from gateway.identity.local_cache import LocalCache
from gateway.identity.revocations.blacklist_sync import under_configured_names
from gateway.identity.revocations.remembered_revocations import targets_of
from gateway.stores.postgres.change_stream.listener import Changed
from gateway.stores.postgres.database import Postgres
from gateway.stores.redis.keys import Keys
from gateway.stores.redis.shared_tier import RedisTier
from gateway.stores.redis.user_documents import CachedUser
from tests.fakes import FakeBlacklist, FakeSharedTier, RecordingInvalidations
from tests.identity.test_invalidation import settled
from tests.stores.examples import claims

PATTERN = "https://login.example.com/{tenant}/v2.0"
ISSUERS = {"entra": PATTERN, "main": "https://idp.example.com/"}
ANN = User("0e5f2a31-7d0c-4d6e-9c2b-1f3a5b7c9d01", UserStatus.ACTIVE)
BOB = User("0e5f2a31-7d0c-4d6e-9c2b-1f3a5b7c9d02", UserStatus.ACTIVE)


def iss(tenant: str) -> str:
    return PATTERN.replace("{tenant}", tenant)


def of(tenant: str) -> Claims:
    """Return the claims of the same subject and `jti` in a tenant."""
    return replace(claims(iss=iss(tenant), issuer_name="entra"), realm=f"entra/{tenant}")


class TestMemory:
    @pytest.fixture
    def memory(self) -> LocalCache:
        memory = LocalCache(ttl=30, max_users=9, max_tokens=9, clock=lambda: 0.0)
        memory.open()
        for tenant, user in (("acme", ANN), ("globex", BOB)):
            memory.fill(memory.ticket(), of(tenant), user, 0.0, Revocations(), 30)
        return memory

    def test_each_has_its_own_user(self, memory: LocalCache) -> None:
        users = [memory.recall(of(tenant)) for tenant in ("acme", "globex", "other")]
        assert users == [
            Resolution(ANN, Tier.LOCAL, None, Tier.LOCAL),
            Resolution(BOB, Tier.LOCAL, None, Tier.LOCAL),
            None,
        ]

    @pytest.mark.parametrize(
        ("change", "left"),
        [
            (lambda memory: memory.forget_identities([(iss("acme"), "ann")]), [False, True]),
            (lambda memory: memory.forget_tokens([("entra/acme", "token-1")]), [False, True]),
            (lambda memory: memory.forget_issuers(["entra/acme"]), [False, True]),
            (lambda memory: memory.forget_tokens([("entra", "token-1")]), [False, False]),
            (lambda memory: memory.forget_issuers(["entra"]), [False, False]),
            (lambda memory: memory.forget_issuers(["main"]), [True, True]),
        ],
    )
    def test_a_change_concerns_one_tenant_or_all(
        self, memory: LocalCache, change: Callable[[LocalCache], None], left: list[bool]
    ) -> None:
        validities = [memory.validity(of(tenant)) for tenant in ("acme", "globex")]
        change(memory)
        assert [memory.recall(of(tenant)) is not None for tenant in ("acme", "globex")] == left
        assert [each is not None and memory.is_valid(each) for each in validities] == left

    def test_a_revocation_of_one_tenant_is_not_remembered_for_another(self, memory: LocalCache) -> None:
        memory.fill(memory.ticket(), of("acme"), ANN, 0.0, Revocations(issuer_at=2_000.0), 30)
        assert memory.recall(of("acme")) is None
        memory.fill(memory.ticket(), of("globex"), BOB, 0.0, Revocations(), 30)
        assert memory.recall(of("acme")) is None
        assert memory.recall(of("globex")) is not None


async def test_a_change_in_postgres_buries_the_user_of_its_tenant() -> None:
    shared = FakeSharedTier()
    local = LocalCache(ttl=30, max_users=9, max_tokens=9, clock=lambda: 0.0)
    invalidation = Invalidation(
        local,
        shared,
        FakeBlacklist(shared),
        ISSUERS,
        keys=Keys("gateway:"),
        observer=RecordingInvalidations(),
    )
    invalidation.start()
    invalidation.listening()
    invalidation.touched_keys.tracking()
    invalidation.heard("beat", own=True)
    await settled()
    for tenant, user in (("acme", ANN), ("globex", BOB)):
        local.fill(local.ticket(), of(tenant), user, 0.0, Revocations(), 30)

    invalidation.changed(Changed(((iss("acme"), "ann"),), (), 7))
    await settled()
    assert shared.tombstones == {("entra/acme", "ann"): 7}
    assert [local.recall(of(tenant)) is not None for tenant in ("acme", "globex")] == [False, True]

    # Another worker hears of the tombstone by Redis.
    local.fill(local.ticket(), of("acme"), ANN, 0.0, Revocations(), 30)
    invalidation.touched_keys.touched(["gateway:tombstone:entra/acme:ann"])
    assert [local.recall(of(tenant)) is not None for tenant in ("acme", "globex")] == [False, True]

    row = Revocation("issuer", iss("globex"), "", 2_000.0)
    invalidation.changed(Revoked(row, lifted=False, version=8))
    assert local.recall(of("globex")) is None
    await invalidation.close()


def test_rows_are_put_under_the_realm_of_their_iss() -> None:
    rows = [
        Revocation("jti", iss("acme"), "j", 1.0),
        Revocation("jti", "entra/acme", "k", 1.0),
        Revocation("issuer", "entra", "", 1.0),
        Revocation("issuer", PATTERN, "", 1.0),
        Revocation("issuer", "https://elsewhere.example.com/", "", 1.0),
    ]
    assert [row.issuer for row in under_configured_names(rows, ISSUERS)] == [
        "entra/acme", "entra/acme", "entra", "entra", "https://elsewhere.example.com/",
    ]  # fmt: skip


def test_all_that_hits_a_token_of_a_tenant() -> None:
    assert set(targets_of(of("acme"), ANN)) == {
        ("jti", "entra/acme", "token-1"),
        ("jti", "entra", "token-1"),
        ("user", "", ANN.id),
        ("issuer", "entra/acme", ""),
        ("issuer", "entra", ""),
    }


class TestRedis:
    async def test_each_has_its_own_entry(self, redis: RedisTier, client: "Client") -> None:
        for tenant, user in (("acme", ANN), ("globex", BOB)):
            await redis.store_user(of(tenant), CachedUser(user, 1.0, ""), 60, horizon=1)
        assert await client.exists("gateway:user:entra/acme:ann", "gateway:user:entra/globex:ann") == 2
        await redis.bury([("entra/acme", "ann")], 5)
        cached = [(await redis.read(of(tenant), None)).cached for tenant in ("acme", "globex")]
        assert [None if each is None else each.user for each in cached] == [None, BOB]
        assert [await redis.buried(of(tenant)) for tenant in ("acme", "globex")] == [True, False]

    @pytest.mark.parametrize(
        ("key", "value", "hits"),
        [
            ("jti:entra/acme:token-1", b"", [True, False]),
            ("jti:entra:token-1", b"", [True, True]),
            ("jti:main:token-1", b"", [False, False]),
            ("issuer:entra/acme", b"2000", [True, False]),
            ("issuer:entra", b"2000", [True, True]),
            ("issuer:entra/acme", b"500", [False, False]),
        ],
    )
    async def test_revocations(
        self, redis: RedisTier, client: "Client", key: str, value: bytes, hits: list[bool]
    ) -> None:
        await client.set(f"gateway:revoked:{key}", value)
        for user_id in (None, ANN.id):
            read = [await redis.read(of(tenant), user_id) for tenant in ("acme", "globex")]
            assert [each.revocations.against(1_000.0) is not None for each in read] == hits

    async def test_of_two_instants_the_later_counts(self, redis: RedisTier, client: "Client") -> None:
        await client.set("gateway:revoked:issuer:entra", b"500")
        await client.set("gateway:revoked:issuer:entra/acme", b"1500")
        assert (await redis.read(of("acme"), None)).revocations.issuer_at == 1500.0
        assert (await redis.read(of("globex"), None)).revocations.issuer_at == 500.0


class TestPostgres:
    @pytest.fixture
    async def postgres(self, dsn: str) -> AsyncIterator[Postgres]:
        postgres = Postgres(dsn, statement_timeout=10)
        yield postgres
        await postgres.close()

    @pytest.mark.parametrize(
        ("kind", "issuer", "value", "hits"),
        [
            ("jti", "entra/acme", "token-1", [True, False]),
            ("jti", iss("acme"), "token-1", [True, False]),
            ("jti", "entra", "token-1", [True, True]),
            ("issuer", "entra/acme", "", [True, False]),
            ("issuer", iss("acme"), "", [True, False]),
            ("issuer", "entra", "", [True, True]),
            ("issuer", "main", "", [False, False]),
        ],
    )
    async def test_revocations(
        self, postgres: Postgres, kind: str, issuer: str, value: str, hits: list[bool]
    ) -> None:
        async with postgres.connection() as connection:
            await connection.execute(
                "INSERT INTO revocations (kind, issuer, value) VALUES ($1, $2, $3)", kind, issuer, value
            )
        found = [await postgres.find_user_and_revocations(of(tenant)) for tenant in ("acme", "globex")]
        assert [each[1].against(1_000.0) is not None for each in found] == hits
