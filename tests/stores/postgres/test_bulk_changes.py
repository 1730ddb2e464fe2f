"""Bulk changes: the cost of the triggers of migration 0007, and their notifications."""
# ruff: noqa: S608 -- statements as people type them, with values of the tests' own

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Literal, TypeAlias

import asyncpg
import pytest

from gateway.core.revocations import Revoked
from gateway.stores.postgres.change_stream.listener import Change, Changed, Everything, PostgresStream
from gateway.stores.postgres.migrate import migrate, migrations
from tests.stores.ear import Ear, Rig, rigged
from tests.stores.examples import ISS, eventually

Isolation: TypeAlias = Literal["read_committed", "repeatable_read", "serializable"]

MANY = 600
"""Rows; more than are told one by one."""
USERS = f"INSERT INTO users (display_name) SELECT 'user ' || g FROM generate_series(1, {MANY}) AS g"
LINKS = f"INSERT INTO identities SELECT '{ISS}', 'subject ' || row_number() OVER (), id FROM users"
REVOKE = "INSERT INTO revocations (kind, issuer, value)"
REVOCATIONS = f"{REVOKE} SELECT 'jti', 'main', g FROM generate_series(1, {MANY}) AS g"
ONE_REVOCATION = f"{REVOKE} VALUES ('jti', 'main', 'one')"
SUSPEND = "UPDATE users SET status = 'suspended'"


@pytest.fixture
async def rig(dsn: str) -> AsyncIterator[Rig]:
    async with rigged(dsn) as rig:
        yield rig


def flushes(changes: list[Change]) -> int:
    return sum(isinstance(change, Everything) for change in changes)


class TestOneFlush:
    @pytest.mark.parametrize(
        ("before", "statement"),
        [
            pytest.param([USERS, LINKS], SUSPEND, id="users updated"),
            pytest.param([USERS, LINKS], "DELETE FROM users", id="users deleted, identities with them"),
            pytest.param([USERS, LINKS], "TRUNCATE users CASCADE", id="users truncated"),
            pytest.param(
                [USERS, LINKS],
                "INSERT INTO users (id, status) SELECT id, 'locked' FROM users"
                " ON CONFLICT (id) DO UPDATE SET status = excluded.status",
                id="users upserted",
            ),
            pytest.param([USERS], LINKS, id="identities inserted"),
            pytest.param(
                [USERS, LINKS], "UPDATE identities SET subject = 'x' || subject", id="identities updated"
            ),
            pytest.param(
                [USERS, LINKS],
                "UPDATE identities SET user_id = (SELECT id FROM users LIMIT 1)",
                id="identities moved to one user",
            ),
            pytest.param([USERS, LINKS], "DELETE FROM identities", id="identities deleted"),
            pytest.param(
                [USERS, LINKS],
                "WITH gone AS (DELETE FROM identities RETURNING user_id)"
                " UPDATE users SET status = 'locked' WHERE id IN (SELECT user_id FROM gone)",
                id="two tables in one statement",
            ),
            pytest.param([], REVOCATIONS, id="revocations inserted"),
            pytest.param(
                [REVOCATIONS],
                "UPDATE revocations SET expires_at = now() + interval '1 hour'",
                id="revocations updated",
            ),
            pytest.param(
                [REVOCATIONS], "UPDATE revocations SET value = 'x' || value", id="revocations moved"
            ),
            pytest.param([REVOCATIONS], "DELETE FROM revocations", id="revocations deleted"),
            pytest.param(
                [REVOCATIONS, "CREATE VIEW lost AS SELECT * FROM revocations WHERE kind = 'jti'"],
                "UPDATE lost SET revoked_at = now() - interval '1 day'",
                id="through a view",
            ),
        ],
    )
    async def test_for_a_statement(self, rig: Rig, before: list[str], statement: str) -> None:
        for preparation in before:
            await rig.db.execute(preparation)
        told = await rig.told(statement)
        assert len(told) == flushes(told) == 1

    async def test_for_a_merge(self, rig: Rig) -> None:
        if rig.db.get_server_version().major < 15:
            pytest.skip("MERGE is in Postgres 15 and later")
        await rig.db.execute(USERS)
        await rig.db.execute(f"{LINKS} LIMIT {MANY // 10}")
        told = await rig.told(
            "MERGE INTO identities USING (SELECT id, row_number() OVER () AS n FROM users) AS other"
            " ON identities.user_id = other.id"
            " WHEN MATCHED AND n % 2 = 0 THEN DELETE"
            " WHEN MATCHED THEN UPDATE SET subject = 'moved ' || n"
            f" WHEN NOT MATCHED THEN INSERT VALUES ('{ISS}', 'new ' || n, other.id)"
        )
        assert flushes(told) == 1
        told = await rig.told(
            f"MERGE INTO users USING (SELECT '{await rig.user('ann')}'::uuid AS id) AS other"
            " ON users.id = other.id WHEN MATCHED THEN UPDATE SET status = 'locked'"
        )
        assert [change.identities for change in told if isinstance(change, Changed)] == [((ISS, "ann"),)]

    async def test_for_copy(self, rig: Rig) -> None:
        await rig.settle()
        heard = len(rig.ear.events)
        rows = [("jti", "main", f"copied {number}") for number in range(MANY)]
        await rig.db.copy_records_to_table("revocations", records=rows, columns=["kind", "issuer", "value"])
        await rig.settle()
        assert [type(event) for event in rig.ear.events[heard:]] == [Everything]


class TestCost:
    @pytest.mark.parametrize(
        "statement",
        [
            SUSPEND,
            f"INSERT INTO identities SELECT '{ISS}', 'more', id FROM users",
            "UPDATE identities SET subject = 'x' || subject",
            "UPDATE revocations SET expires_at = now() + interval '1 hour'",
        ],
    )
    async def test_no_plan_compares_each_row_with_each_other(self, rig: Rig, statement: str) -> None:
        await rig.user("ann")
        await rig.db.execute(ONE_REVOCATION)
        plans: list[str] = []
        rig.db.add_log_listener(lambda _, message: plans.append(str(message.detail)))
        await rig.db.execute("SET client_min_messages = log; SET debug_print_plan = on")
        # A session keeps the plans of its first statement, which is of one row here.
        await rig.db.execute(statement)
        await rig.db.execute("RESET debug_print_plan; RESET client_min_messages")
        over_changes = [plan for plan in plans if "{NAMEDTUPLESTORESCAN" in plan]
        assert over_changes
        assert not [plan for plan in over_changes if "{NESTLOOP" in plan]


class TestTransactions:
    async def test_many_statements_send_five_hundred_notices_and_a_flush(self, rig: Rig) -> None:
        await rig.user("ann")
        statements = [f"{REVOKE} VALUES ('jti', 'main', '{number}')" for number in range(MANY)]
        told = await rig.told("BEGIN", *statements, SUSPEND, "TRUNCATE identities", "COMMIT")
        assert [type(change) for change in told] == [*[Revoked] * 500, Everything]

    async def test_so_are_statements_with_a_savepoint_each(self, rig: Rig) -> None:
        user = await rig.user()
        link = f"SAVEPOINT s; INSERT INTO identities VALUES ('{ISS}', '{{}}', '{user}'); RELEASE s"
        told = await rig.told("BEGIN", *(link.format(number) for number in range(MANY)), "COMMIT")
        assert [type(change) for change in told] == [*[Changed] * 500, Everything]

    async def test_the_next_transaction_notifies_again(self, rig: Rig) -> None:
        await rig.db.execute(REVOCATIONS)
        told = await rig.told("DELETE FROM revocations", ONE_REVOCATION)
        assert [type(change) for change in told] == [Everything, Revoked]

    @pytest.mark.parametrize(
        ("statements", "expected"),
        [
            pytest.param(
                ["SAVEPOINT s", REVOCATIONS, "ROLLBACK TO s", ONE_REVOCATION], [Revoked], id="undone"
            ),
            pytest.param(
                ["SAVEPOINT s", REVOCATIONS, "RELEASE s", ONE_REVOCATION], [Everything], id="released"
            ),
            pytest.param(
                [
                    "SAVEPOINT s",
                    "SAVEPOINT t",
                    REVOCATIONS,
                    "RELEASE t",
                    ONE_REVOCATION,
                    "ROLLBACK TO s",
                    ONE_REVOCATION,
                ],
                [Revoked],
                id="released and undone with what is around it",
            ),
            pytest.param(
                [REVOCATIONS, "SAVEPOINT s", ONE_REVOCATION, "ROLLBACK TO s"], [Everything], id="before it"
            ),
            pytest.param(
                [
                    f"DO $$ BEGIN BEGIN {REVOCATIONS}; RAISE EXCEPTION 'x';"
                    f" EXCEPTION WHEN raise_exception THEN NULL; END; {ONE_REVOCATION}; END $$"
                ],
                [Revoked],
                id="in a block that caught an error",
            ),
            pytest.param([REVOCATIONS, "RESET ALL", ONE_REVOCATION], [Everything, Revoked], id="forgotten"),
        ],
    )
    async def test_a_flush_counts_as_long_as_its_savepoint(
        self, rig: Rig, statements: list[str], expected: list[type[Change]]
    ) -> None:
        told = await rig.told("BEGIN", *statements, "COMMIT")
        assert [type(change) for change in told] == expected

    async def test_no_setting_of_a_client_suppresses_a_notification(self, rig: Rig) -> None:
        setting = await rig.db.fetchval("SELECT gateway_told_setting()")
        other = await rig.db.fetchval("SELECT pg_current_xact_id()::text")
        for value in ("x", "", f"{other} 501", "501", f"{other} 99999999999"):
            await rig.db.execute(f"SET {setting} = '{value}'")
            told = await rig.told(ONE_REVOCATION, "DELETE FROM revocations")
            assert [type(change) for change in told] == [Revoked, Revoked]

    async def test_the_flush_of_one_schema_silences_no_other(self, rig: Rig, dsn: str) -> None:
        await migrate(dsn, "other")
        ear = Ear()
        stream = PostgresStream(dsn, "other", ear, connect_timeout=2)
        stream.start()
        await ear.has("listening")
        elsewhere = ONE_REVOCATION.replace("revocations", "other.revocations")
        assert flushes(await rig.told("BEGIN", REVOCATIONS, elsewhere, "COMMIT")) == 1
        await Rig(rig.db, ear).settle()
        assert [type(event) for event in ear.events] == [str, Revoked]
        await stream.close()


class TestLinks:
    @pytest.mark.parametrize("isolation", ["read_committed", "repeatable_read", "serializable"])
    async def test_a_change_of_a_user_reports_links_outside_its_snapshot(
        self, rig: Rig, dsn: str, isolation: Isolation
    ) -> None:
        await rig.db.execute(USERS)
        user = await rig.db.fetchval("SELECT id FROM users LIMIT 1")
        other = await asyncpg.connect(dsn)
        async with other.transaction(isolation=isolation):
            await other.fetchval("SELECT count(*) FROM users")  # takes the snapshot, if there is one
            async with rig.db.transaction():
                await rig.db.execute(LINKS)
                waiting = asyncio.create_task(other.execute(f"{SUSPEND} WHERE id = '{user}'"))
                await asyncio.sleep(0.2)
                assert not waiting.done()
            await rig.settle()
            heard = len(rig.ear.events)
            await waiting
        await other.close()
        await rig.settle()
        (told,) = rig.ear.events[heard:]
        if isolation == "read_committed":
            assert isinstance(told, Changed)
            assert (len(told.identities), told.users) == (1, (str(user),))
        else:
            assert isinstance(told, Everything)

    async def test_a_later_snapshot_sees_them(self, rig: Rig) -> None:
        await rig.db.execute(USERS)
        await rig.db.execute(LINKS)
        user = await rig.db.fetchval("SELECT id FROM users LIMIT 1")
        statuses = iter(["suspended", "locked"] * 50)

        async def listed() -> bool:
            # A transaction from before the links, of any database of the server, still costs a flush.
            change = f"UPDATE users SET status = '{next(statuses)}' WHERE id = '{user}'"
            (told,) = await rig.told("BEGIN ISOLATION LEVEL SERIALIZABLE", change, "COMMIT")
            return isinstance(told, Changed) and len(told.identities) == 1

        await eventually(listed)

    @pytest.mark.parametrize("number", [2**60, 2**60 + 5])
    async def test_in_a_restored_database_the_numbers_of_the_other_count_for_nothing(
        self, rig: Rig, number: int
    ) -> None:
        await rig.db.execute(f"SELECT setval('gateway_linked_many', {number})")
        await rig.user("ann")
        (told,) = await rig.told("BEGIN ISOLATION LEVEL REPEATABLE READ", SUSPEND, "COMMIT")
        assert isinstance(told, Changed)
        await rig.db.execute(USERS)
        await rig.db.execute(f"DELETE FROM identities; {LINKS}")
        assert await rig.db.fetchval("SELECT last_value < 1000000000 FROM gateway_linked_many")

    async def test_the_latest_of_many_transactions_is_kept(self, rig: Rig, dsn: str) -> None:
        await rig.db.execute(USERS)
        other = await asyncpg.connect(dsn)
        async with other.transaction():
            await other.execute("SELECT pg_current_xact_id()")
            async with rig.db.transaction():
                latest = await rig.db.fetchval("SELECT pg_current_xact_id()::text::bigint")
                await rig.db.execute(LINKS)
            await other.execute("UPDATE identities SET subject = 'x' || subject")
        await other.close()
        assert await rig.db.fetchval("SELECT last_value FROM gateway_linked_many") == latest

    async def test_two_loads_with_the_same_users_wait_for_each_other(self, rig: Rig, dsn: str) -> None:
        await rig.db.execute(USERS.replace(str(MANY), "3000"))
        link = "INSERT INTO identities SELECT '{}', id::text, id FROM users ORDER BY users.id {}"

        async def load(issuer: str, order: str) -> None:
            connection = await asyncpg.connect(dsn)
            try:
                await connection.execute(link.format(issuer, order))
            finally:
                await connection.close()

        loads = [(f"{direction} {number}", direction) for number in range(3) for direction in ("ASC", "DESC")]
        await asyncio.gather(*(load(*each) for each in loads))
        assert await rig.db.fetchval("SELECT count(*) FROM identities") == 6 * 3000

    async def test_few_links_move_updated_at_and_many_do_not(self, rig: Rig) -> None:
        await rig.db.execute(
            USERS.replace("(display_name) SELECT", "(updated_at, display_name) SELECT '-infinity',")
        )
        moved = "SELECT count(*) FROM users WHERE updated_at > '-infinity'"
        await rig.db.execute(f"{LINKS} LIMIT 500")
        assert await rig.db.fetchval(moved) == 500
        await rig.db.execute(f"DELETE FROM identities; {LINKS}")
        assert await rig.db.fetchval(moved) == 500

    async def test_the_users_of_this_transaction_are_not_written_again(self, rig: Rig) -> None:
        async with rig.db.transaction():
            user = await rig.user("ann")
            place = await rig.db.fetchval("SELECT ctid FROM users WHERE id = $1", user)
        assert place == (0, 1)


class TestWhatIsTold:
    async def test_an_equal_but_different_value_is_reported(self, rig: Rig) -> None:
        await rig.user("ann")
        await rig.db.execute("""UPDATE users SET attributes = '{"level": 1}'""")
        assert len(await rig.told("""UPDATE users SET attributes = '{"level": 1.0}'""")) == 1

    async def test_a_user_whose_id_changes_is_reported_under_both(self, rig: Rig) -> None:
        user = await rig.user()
        (told,) = await rig.told("UPDATE users SET id = gen_random_uuid()")
        assert isinstance(told, Changed)
        assert len(told.users) == 2
        assert str(user) in told.users


class TestUpgrades:
    async def test_with_rows_in_place(self, empty_dsn: str) -> None:
        before = [migration for migration in migrations() if migration.version < 7]
        await migrate(empty_dsn, known=before)
        async with rigged(empty_dsn) as rig:
            ann = await rig.user("ann")
            await rig.db.execute(ONE_REVOCATION)
            # A session that has planned with the functions as they were.
            suspend = await rig.told(f"{SUSPEND} WHERE id = '{ann}'")
            await migrate(empty_dsn)
            activate = await rig.told(f"UPDATE users SET status = 'active' WHERE id = '{ann}'")
            expected = [(((ISS, "ann"),), (str(ann),))]
            for told in (suspend, activate):
                found = [(change.identities, change.users) for change in told if isinstance(change, Changed)]
                assert found == expected
            assert len(await rig.told("DELETE FROM revocations")) == 1

    async def test_the_functions_are_for_triggers_alone(self, rig: Rig) -> None:
        public = await rig.db.fetch(
            "SELECT proname FROM pg_proc JOIN pg_namespace n ON n.oid = pronamespace"
            " WHERE nspname = 'public' AND proname LIKE 'gateway%'"
            " AND 0 IN (SELECT grantee FROM aclexplode(coalesce(proacl, acldefault('f', proowner))))"
        )
        own = re.compile("told|hold|begun|linked|links|identities_of|watch")
        assert not [row["proname"] for row in public if own.search(row["proname"])]
