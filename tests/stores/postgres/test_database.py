import asyncio
from collections.abc import AsyncIterator
from uuid import UUID, uuid4

import orjson
import pytest
from structlog.testing import capture_logs

from gateway.core.model import Claims, Identity, StoreUnavailable, User, UserStatus
from gateway.core.revocations import Revocations
from gateway.stores.postgres.database import Postgres
from gateway.stores.postgres.directory.revocation_rows import RevocationRows
from gateway.stores.postgres.directory.users import IdentityTaken, StatusRefused, UserDirectory, UserNotFound
from gateway.stores.postgres.migrate import migrate, migrations
from gateway.stores.redis.user_documents import CachedUser, decode, encode
from tests.sql import as_role
from tests.stores.examples import ISS, claims

ANN = Identity(ISS, "ann")


@pytest.fixture
async def postgres(dsn: str) -> AsyncIterator[Postgres]:
    postgres = Postgres(dsn, statement_timeout=10)
    yield postgres
    await postgres.close()


@pytest.fixture
def directory(postgres: Postgres) -> UserDirectory:
    return UserDirectory(postgres)


async def execute(postgres: Postgres, statement: str, *values: object) -> None:
    async with postgres.connection() as connection:
        await connection.execute(statement, *values)


async def everything(postgres: Postgres, claims: Claims) -> tuple[User | None, Revocations]:
    found, revocations = await postgres.find_user_and_revocations(claims)
    return found.user, revocations


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
        assert (await postgres.find_user(ANN)).user == User(
            id=str(user_id),
            status=UserStatus.LOCKED,
            tenant="acme",
            email="ann@example.com",
            display_name="Ann",
            roles=("a", "b"),
            attributes={"plan": [1, None]},
            tokens_valid_after=1234.5,
        )

    @pytest.mark.parametrize(
        "odd",
        [
            "1e999",
            "1e400",
            "9" * 5000,
            "[" * 65 + "]" * 65,
            "[" * 1000 + "]" * 1000,
            '{"a":' * 1000 + "1" + "}" * 1000,
        ],
        ids=["exponent", "barely", "digits", "list-65", "list-1000", "object-1000"],
    )  # fmt: skip
    async def test_an_attribute_beyond_all_bounds_is_left_out(self, postgres: Postgres, odd: str) -> None:
        """The column takes it; neither JSON in its usual form nor Redis does."""
        await execute(
            postgres,
            "WITH u AS (INSERT INTO users (status, attributes) VALUES ('active', $1::jsonb) RETURNING id)"
            " INSERT INTO identities (issuer, subject, user_id) SELECT $2, 'ann', id FROM u",
            f'{{"odd": {odd}, "plan": {{"name": "pro"}}}}',
            ISS,
        )
        with capture_logs() as logs:
            user = (await postgres.find_user(ANN)).user
        assert user is not None
        assert user.attributes == {"plan": {"name": "pro"}}
        assert [line["event"] for line in logs] == ["user_attributes_left_out"]
        assert decode(encode(CachedUser(user, 1.0, "e"), ISS), ISS) == CachedUser(user, 1.0, "e")

    async def test_attributes_of_the_greatest_depth_are_kept_everywhere(self, postgres: Postgres) -> None:
        deep = '{"a":' * 63 + "[1]" + "}" * 63
        await execute(
            postgres,
            "WITH u AS (INSERT INTO users (status, attributes) VALUES ('active', $1::jsonb) RETURNING id)"
            " INSERT INTO identities (issuer, subject, user_id) SELECT $2, 'ann', id FROM u",
            deep,
            ISS,
        )
        user = (await postgres.find_user(ANN)).user
        assert user is not None
        assert user.attributes == orjson.loads(deep)
        assert decode(encode(CachedUser(user, 1.0, "e"), ISS), ISS) == CachedUser(user, 1.0, "e")

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
            assert (await postgres.find_user(other)).user is None

    @pytest.mark.parametrize("subject", ["a\x00b", "a\ud800b"])
    async def test_a_subject_that_postgres_cannot_hold_is_not_a_miss(
        self, postgres: Postgres, subject: str
    ) -> None:
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
        assert await everything(postgres, claims()) == (record.user, Revocations())
        await execute(
            postgres,
            "INSERT INTO revocations (kind, issuer, value, revoked_at) VALUES"
            " ('jti', 'main', 'token-1', now()), ('user', '', $1, to_timestamp(5)),"
            " ('issuer', 'main', '', to_timestamp(6)), ('issuer', $2, '', to_timestamp(7))",
            record.user.id,
            ISS,
        )
        assert await everything(postgres, claims()) == (record.user, Revocations(True, 5.0, 7.0))
        assert await everything(postgres, claims("ghost", jti=None)) == (None, Revocations(False, None, 7.0))

    async def test_the_horizon_separates_visible_from_invisible_transactions(
        self, postgres: Postgres, directory: UserDirectory
    ) -> None:
        await directory.add(ANN)
        suspend = "UPDATE users SET status = 'suspended' RETURNING pg_current_xact_id()::text::bigint"
        async with postgres.connection() as connection:
            async with connection.transaction():
                version = await connection.fetchval(suspend)
                await execute(postgres, "INSERT INTO users DEFAULT VALUES")  # a later one, committed before
                before = [
                    await postgres.find_user(ANN),
                    (await postgres.find_user_and_revocations(claims()))[0],
                ]
            after = [await postgres.find_user(ANN), (await postgres.find_user_and_revocations(claims()))[0]]
            nobody = await postgres.find_user(Identity(ISS, "ghost"))
        assert [found.user and found.user.status for found in before] == ["active", "active"]
        assert [found.user and found.user.status for found in after] == ["suspended", "suspended"]
        assert all(found.horizon <= version for found in before)
        assert all(found.horizon > version for found in (*after, nobody))

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
        assert await everything(postgres, claims()) == (record.user, Revocations())
        assert {row.value for row in await postgres.counting_revocations()} > {"token-1", "token-2"}
        assert record.user.id not in {row.value for row in await postgres.counting_revocations()}

    async def test_a_jti_revoked_under_the_iss_counts(self, postgres: Postgres) -> None:
        await RevocationRows(postgres).revoke("jti", issuer=ISS, value="token-1")
        assert (await postgres.find_user_and_revocations(claims()))[1].token is True

    async def test_the_hot_path_needs_select_alone(self, postgres: Postgres, dsn: str) -> None:
        role = f"runtime_{uuid4().hex}"
        await execute(postgres, f"CREATE ROLE {role} LOGIN PASSWORD 'p'")
        limited = Postgres(as_role(dsn, role, "p"))
        try:
            with pytest.raises(StoreUnavailable, match="permission denied for table"):
                await limited.ping()
            await execute(postgres, f"GRANT SELECT ON users, identities, revocations TO {role}")
            await limited.ping()
            await limited.find_user_and_revocations(claims())
            await limited.counting_revocations()
            assert await limited.prune() == 0
        finally:
            await limited.close()
            await execute(postgres, f"DROP OWNED BY {role}; DROP ROLE {role}")


class TestPruning:
    async def test_revocations_that_expired_an_hour_ago_are_deleted(self, postgres: Postgres) -> None:
        await execute(
            postgres,
            "INSERT INTO revocations (kind, issuer, value, expires_at) VALUES"
            " ('jti', 'main', 'for ever', NULL),"
            " ('jti', 'main', 'valid', now() + interval '1 second'),"
            " ('jti', 'main', 'just expired', now() - interval '59 minutes'),"
            " ('jti', 'main', 'old', now() - interval '61 minutes'),"
            " ('user', '', gen_random_uuid()::text, now() - interval '1 day')",
        )
        assert await postgres.prune() == 2
        async with postgres.connection() as connection:
            rows = await connection.fetch("SELECT value FROM revocations")
        assert {row["value"] for row in rows} == {"for ever", "valid", "just expired"}

    async def test_many_go_in_batches(self, postgres: Postgres) -> None:
        await execute(
            postgres,
            "INSERT INTO revocations (kind, issuer, value, expires_at)"
            " SELECT 'jti', 'main', n, now() - interval '1 day' FROM generate_series(1, 12000) n",
        )
        assert sum(await asyncio.gather(postgres.prune(), postgres.prune())) == 12000

    async def test_does_not_wait_for_a_locked_row(self, postgres: Postgres) -> None:
        await execute(
            postgres,
            "INSERT INTO revocations (kind, issuer, value, expires_at)"
            " SELECT 'jti', 'main', n, now() - interval '1 day' FROM generate_series(1, 3) n",
        )
        async with postgres.connection() as connection, connection.transaction():
            await connection.execute("SELECT FROM revocations WHERE value = '2' FOR UPDATE")
            assert await postgres.prune() == 2

    async def test_an_older_database_names_the_command(self, empty_dsn: str) -> None:
        await migrate(empty_dsn, known=migrations()[:1])
        postgres = Postgres(empty_dsn)
        with pytest.raises(StoreUnavailable, match=r"function .* does not exist: run `gateway migrate`"):
            await postgres.prune()
        await postgres.close()


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
        assert (await directory.change(user_id, {"status": UserStatus.SUSPENDED})).user.status == "suspended"
        with pytest.raises(StatusRefused):
            await directory.restore(user_id)
        deleted = await directory.delete(user_id)
        assert deleted.deleted_at is not None
        assert deleted.identities == (ANN,)
        with pytest.raises(StatusRefused):
            await directory.change(user_id, {"status": UserStatus.SUSPENDED})
        restored = await directory.restore(user_id)
        assert (restored.user.status, restored.deleted_at) == (UserStatus.ACTIVE, None)
        with pytest.raises(UserNotFound):
            await directory.restore(uuid4())
