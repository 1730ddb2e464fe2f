import asyncio
import socket
from collections.abc import AsyncIterator
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import asyncpg
import pytest

from gateway.backends.directory import IdentityTaken, StatusRefused, UserDirectory, UserNotFound
from gateway.backends.postgres import Postgres
from gateway.backends.postgres_errors import address_of
from gateway.backends.revocations import Revocation, Revocations
from gateway.core.model import Identity, StoreUnavailable, Tier, User, UserStatus
from tests.backends.cable import Cable
from tests.backends.examples import ISS, claims

ANN = Identity(ISS, "ann")


@pytest.fixture
async def postgres(dsn: str) -> AsyncIterator[Postgres]:
    postgres = Postgres(dsn)
    yield postgres
    await postgres.close()


@pytest.fixture
def directory(postgres: Postgres) -> UserDirectory:
    return UserDirectory(postgres)


async def execute(postgres: Postgres, statement: str, *values: object) -> None:
    async with postgres.connection() as connection:
        await connection.execute(statement, *values)


class TestHotPath:
    async def test_finds_the_user_behind_an_identity(self, postgres: Postgres) -> None:
        user_id = uuid4()
        await execute(
            postgres,
            "INSERT INTO users"
            " (id, status, tenant, email, display_name, roles, attributes, tokens_valid_after)"
            " VALUES ($1, 'locked', 'acme', 'ann@example.com', 'Ann', '{a,b}', '{\"plan\": [1, null]}',"
            " to_timestamp(1234.5))",
            user_id,
        )
        await execute(
            postgres,
            "INSERT INTO identities (issuer, subject, user_id) VALUES ($1, $2, $3)",
            ISS,
            "ann",
            user_id,
        )
        assert await postgres.find_user(ANN) == User(
            id=str(user_id),
            status=UserStatus.LOCKED,
            tenant="acme",
            email="ann@example.com",
            display_name="Ann",
            roles=("a", "b"),
            attributes={"plan": [1, None]},
            tokens_valid_after=1234.5,
        )

    async def test_an_identity_is_issuer_and_subject_exactly(
        self, postgres: Postgres, directory: UserDirectory
    ) -> None:
        await directory.add(ANN)
        for other in [
            Identity(ISS, "Ann"),
            Identity(ISS, "ann "),
            Identity(ISS.rstrip("/"), "ann"),
            Identity(ISS, "' OR 1=1 --"),
        ]:
            assert await postgres.find_user(other) is None

    @pytest.mark.parametrize("subject", ["a\x00b", "a\ud800b"])
    async def test_what_postgres_cannot_hold_is_not_a_miss(self, postgres: Postgres, subject: str) -> None:
        with pytest.raises(StoreUnavailable):
            await postgres.find_user(Identity(ISS, subject))

    async def test_a_status_out_of_the_catalogue_is_not_a_miss(
        self, postgres: Postgres, directory: UserDirectory
    ) -> None:
        await directory.add(ANN)
        await execute(postgres, "ALTER TABLE users DROP CONSTRAINT users_status_known")
        await execute(postgres, "UPDATE users SET status = 'zombie'")
        with pytest.raises(StoreUnavailable):
            await postgres.find_user(ANN)

    async def test_user_and_revocations_in_one_query(
        self, postgres: Postgres, directory: UserDirectory
    ) -> None:
        record = await directory.add(ANN)
        assert await postgres.find_user_and_revocations(claims()) == (record.user, Revocations())
        await execute(
            postgres,
            "INSERT INTO revocations (kind, issuer, value, revoked_at) VALUES"
            " ('jti', 'main', 'token-1', now()), ('user', '', $1, to_timestamp(5)),"
            " ('issuer', 'main', '', to_timestamp(6)), ('issuer', $2, '', to_timestamp(7))",
            record.user.id,
            ISS,
        )
        assert await postgres.find_user_and_revocations(claims()) == (
            record.user,
            Revocations(True, 5.0, 7.0),
        )
        user, revocations = await postgres.find_user_and_revocations(claims("ghost", jti=None))
        assert user is None
        assert revocations == Revocations(False, None, 7.0)

    async def test_other_revocations_do_not_count(self, postgres: Postgres, directory: UserDirectory) -> None:
        record = await directory.add(ANN)
        await execute(
            postgres,
            "INSERT INTO revocations (kind, issuer, value, expires_at) VALUES"
            " ('jti', 'other', 'token-1', NULL), ('jti', 'main', 'token-2', NULL), ('user', '', $1, NULL),"
            " ('user', '', $2, now() - interval '1 second'), ('issuer', 'other', '', NULL)",
            str(uuid4()),
            record.user.id,
        )
        assert await postgres.find_user_and_revocations(claims()) == (record.user, Revocations())
        assert {row.value for row in await postgres.counting_revocations()} > {"token-1", "token-2"}
        assert record.user.id not in {row.value for row in await postgres.counting_revocations()}

    async def test_a_jti_revoked_under_the_iss_counts(
        self, postgres: Postgres, directory: UserDirectory
    ) -> None:
        await directory.revoke("jti", issuer=ISS, value="token-1")
        assert (await postgres.find_user_and_revocations(claims()))[1].token is True

    async def test_the_hot_path_needs_select_alone(self, postgres: Postgres, dsn: str) -> None:
        role = f"runtime_{uuid4().hex}"
        await execute(postgres, f"CREATE ROLE {role} LOGIN PASSWORD 'p'")
        parts = urlsplit(dsn)
        address = parts.netloc.rpartition("@")[2]
        limited = Postgres(parts._replace(netloc=f"{role}:p@{address}").geturl())
        try:
            with pytest.raises(StoreUnavailable, match="permission denied for table"):
                await limited.ping()
            await execute(postgres, f"GRANT SELECT ON users, identities, revocations TO {role}")
            await limited.ping()
            await limited.find_user_and_revocations(claims())
            await limited.counting_revocations()
        finally:
            await limited.close()
            await execute(postgres, f"DROP OWNED BY {role}; DROP ROLE {role}")


class TestFailures:
    async def test_missing_tables_name_the_command(self, empty_dsn: str) -> None:
        postgres = Postgres(empty_dsn)
        with pytest.raises(StoreUnavailable, match="tables are missing: run `gateway migrate`") as caught:
            await postgres.find_user(ANN)
        assert isinstance(caught.value.__cause__, asyncpg.UndefinedTableError)
        await postgres.close()

    async def test_refused_connection(self) -> None:
        postgres = Postgres("postgresql://ann:hunter2@127.0.0.1:1/gateway")
        with pytest.raises(StoreUnavailable) as caught:
            await postgres.ping()
        assert caught.value.store is Tier.POSTGRES
        assert caught.value.detail == "127.0.0.1:1: connection refused"

    async def test_a_server_that_says_nothing_is_given_up(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            port = silent.getsockname()[1]
            postgres = Postgres(f"postgresql://ann@127.0.0.1:{port}/gateway", connect_timeout=0.2)
            async with asyncio.timeout(2):
                with pytest.raises(StoreUnavailable, match="no answer in time"):
                    await postgres.ping()
            await postgres.close()

    async def test_a_slow_query_is_given_up(self, dsn: str) -> None:
        postgres = Postgres(dsn, statement_timeout=0.1)
        with pytest.raises(StoreUnavailable, match="statement_timeout"):
            await execute(postgres, "SELECT pg_sleep(5)")
        await postgres.ping()
        await postgres.close()

    async def test_a_busy_pool_is_given_up(self, dsn: str) -> None:
        postgres = Postgres(dsn, pool_max=1, connect_timeout=0.2)
        async with postgres.connection():
            with pytest.raises(StoreUnavailable, match="no answer in time"):
                await postgres.ping()
        await postgres.ping()
        await postgres.close()

    async def test_recovers_by_itself(self, dsn: str) -> None:
        async with Cable(dsn) as cable:
            await cable.pull()
            postgres = Postgres(cable.url)
            with pytest.raises(StoreUnavailable):
                await postgres.ping()
            await cable.plug()
            await postgres.ping()
            await cable.pull()
            with pytest.raises(StoreUnavailable):
                await postgres.ping()
            await cable.plug()
            await postgres.ping()
            await postgres.close()

    async def test_a_network_that_swallows_everything_is_given_up(self, dsn: str) -> None:
        async with Cable(dsn) as cable:
            postgres = Postgres(cable.url, statement_timeout=0.2, connect_timeout=0.5)
            await postgres.ping()
            cable.freeze()
            for _ in range(3):
                started = asyncio.get_running_loop().time()
                with pytest.raises(StoreUnavailable, match="no answer in time"):
                    await postgres.ping()
                assert asyncio.get_running_loop().time() - started < 1.3
            cable.thaw()
            await postgres.ping()
            await postgres.close()

    async def test_a_database_without_tables_has_not_answered(self, empty_dsn: str) -> None:
        postgres = Postgres(empty_dsn, pool_min=1)
        await postgres.warm()
        assert (postgres.availability.up, postgres.availability.ever_up) == (None, False)
        with pytest.raises(StoreUnavailable, match="gateway migrate"):
            await postgres.ping()
        assert (postgres.availability.up, postgres.availability.ever_up) == (False, False)
        await postgres.close()

    async def test_warm_opens_the_first_connections(self, dsn: str) -> None:
        postgres = Postgres(dsn, pool_min=3)
        await postgres.warm()
        async with postgres.connection() as connection:
            mine = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
            assert await connection.fetchval(mine) == 3
        await postgres.close()

    async def test_warm_says_when_it_cannot(self) -> None:
        with pytest.raises(StoreUnavailable):
            await Postgres("postgresql://ann@127.0.0.1:1/gateway", pool_min=2).warm()

    @pytest.mark.parametrize(
        ("dsn", "address"),
        [
            ("postgresql://ann:hunter2@db.example.com/x", "db.example.com:5432"),
            ("postgresql://ann:hunter2@[::1]:6000/x", "[::1]:6000"),
            ("postgresql:///x?host=/run/postgresql&port=6000", "/run/postgresql:6000"),
            ("postgresql://ann:hunt/er2@db.example.com/x", "the configured DSN"),
            ("postgresql://ann:12#34@db.example.com/x", "the configured DSN"),
            ("postgresql://", "localhost:5432"),
        ],
    )
    def test_addresses_hold_no_password(self, dsn: str, address: str) -> None:
        assert address_of(dsn) == address

    async def test_a_dsn_that_the_driver_refuses_is_told_from_a_bad_query(self) -> None:
        with pytest.raises(
            StoreUnavailable, match=r"^postgres is unavailable: h:5432: the DSN cannot be used"
        ):
            await Postgres("postgresql://ann@h/x?sslmode=hunter2").ping()

    async def test_a_value_that_cannot_be_held_is_not_repeated(self, postgres: Postgres) -> None:
        with pytest.raises(StoreUnavailable) as caught:
            await postgres.find_user(Identity(ISS, "a\ud800b"))
        assert caught.value.detail.endswith(": a value is of a kind that Postgres cannot hold")

    async def test_an_unreadable_dsn_is_not_repeated(self) -> None:
        with pytest.raises(StoreUnavailable) as caught:
            await Postgres("postgresql://ann:hunt/er2@db.example.com/x").ping()
        assert "er2" not in str(caught.value)


class TestDirectory:
    async def test_add_and_find(self, directory: UserDirectory) -> None:
        added = await directory.add(
            ANN,
            status=UserStatus.PENDING,
            tenant="acme",
            email="Ann@example.com",
            display_name="Ann",
            roles=["a"],
        )
        assert added.user.status is UserStatus.PENDING
        assert added.user.roles == ("a",)
        assert added.identities == (ANN,)
        assert await directory.get(UUID(added.user.id)) == added
        assert await directory.find(ANN) == added
        assert await directory.find(Identity(ISS, "bob")) is None
        assert await directory.with_email("ann@EXAMPLE.com") == [added]

    async def test_an_identity_leads_to_one_user(self, directory: UserDirectory) -> None:
        ann = await directory.add(ANN)
        with pytest.raises(IdentityTaken) as caught:
            await directory.add(ANN)
        assert caught.value.user_id == ann.user.id
        assert len(await directory.page()) == 1

    async def test_link(self, directory: UserDirectory) -> None:
        ann = await directory.add(ANN)
        other = Identity("https://other.example.com", "4711")
        linked = await directory.link(UUID(ann.user.id), other)
        assert linked.identities == (ANN, other)
        with pytest.raises(IdentityTaken):
            await directory.link(UUID(ann.user.id), other)
        with pytest.raises(UserNotFound):
            await directory.link(uuid4(), Identity(ISS, "new"))

    async def test_pages(self, directory: UserDirectory) -> None:
        added = [await directory.add(Identity(ISS, f"user-{n}"), tenant=f"t{n % 2}") for n in range(5)]
        first = await directory.page(limit=2)
        rest = await directory.page(limit=10, after=UUID(first[-1].user.id))
        assert first + rest == added
        assert await directory.page(tenant="t1") == added[1::2]
        assert await directory.page(status=UserStatus.LOCKED) == []

    async def test_a_deleted_user_is_only_restored(self, directory: UserDirectory) -> None:
        user_id = UUID((await directory.add(ANN)).user.id)
        assert (await directory.set_status(user_id, UserStatus.SUSPENDED)).user.status == "suspended"
        with pytest.raises(StatusRefused):
            await directory.restore(user_id)
        deleted = await directory.set_status(user_id, UserStatus.DELETED)
        assert deleted.deleted_at is not None
        assert deleted.identities == (ANN,)
        with pytest.raises(StatusRefused):
            await directory.set_status(user_id, UserStatus.SUSPENDED)
        restored = await directory.restore(user_id)
        assert (restored.user.status, restored.deleted_at) == (UserStatus.ACTIVE, None)
        with pytest.raises(UserNotFound):
            await directory.restore(uuid4())

    async def test_a_revocation_only_grows(self, directory: UserDirectory) -> None:
        first = await directory.revoke(
            "jti", issuer="main", value="x", expires_at=4e9, reason="lost", revoked_by="ann"
        )
        assert first == Revocation("jti", "main", "x", first.revoked_at, 4e9, "lost", "ann")
        shorter = await directory.revoke("jti", issuer="main", value="x", expires_at=3e9)
        assert (shorter.expires_at, shorter.reason) == (4e9, "lost")
        assert shorter.revoked_at >= first.revoked_at
        assert (await directory.revoke("jti", issuer="main", value="x")).expires_at is None
        assert (await directory.revoke("jti", issuer="main", value="x", expires_at=3e9)).expires_at is None

    async def test_expired_revocations_are_listed_apart_and_pruned(self, directory: UserDirectory) -> None:
        await directory.revoke("jti", issuer="main", value="old", expires_at=1.0)
        await directory.revoke("issuer", issuer="main")
        assert [row.kind for row in await directory.revocations()] == ["issuer"]
        assert len(await directory.revocations(expired=True)) == 2
        assert await directory.prune_revocations() == 1
        assert len(await directory.revocations(expired=True)) == 1
