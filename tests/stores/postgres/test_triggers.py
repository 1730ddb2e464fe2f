"""The notifications of the triggers of migration 0002, statement by statement."""
# ruff: noqa: S608 -- statements as people type them, with values of the tests' own

import asyncio
import secrets
from collections.abc import AsyncIterator
from typing import Literal, TypeAlias
from uuid import uuid4

import asyncpg
import pytest

from gateway.core.revocations import Revocation, Revoked
from gateway.stores.postgres.change_stream.listener import Change, Changed, Everything, PostgresStream
from gateway.stores.postgres.errors import quoted
from gateway.stores.postgres.migrate import migrate
from tests.sql import as_role
from tests.stores.ear import Ear, Rig, rigged
from tests.stores.examples import ISS

Isolation: TypeAlias = Literal["read_committed", "repeatable_read", "serializable"]


@pytest.fixture
async def rig(dsn: str) -> AsyncIterator[Rig]:
    async with rigged(dsn) as rig:
        yield rig


def parts(changes: list[Change]) -> list[tuple[set[str], set[str]]]:
    """Subjects and users of changes of the one issuer."""
    found = []
    for change in changes:
        assert isinstance(change, Changed)
        assert {issuer for issuer, _ in change.identities} <= {ISS}
        found.append(({subject for _, subject in change.identities}, set(change.users)))
    return found


def values(changes: list[Change]) -> list[tuple[str, bool]]:
    """Values of revocations and whether they were lifted."""
    found = []
    for change in changes:
        assert isinstance(change, Revoked)
        found.append((change.revocation.value, change.lifted))
    return found


def only_everything(changes: list[Change]) -> bool:
    return bool(changes) and all(isinstance(change, Everything) for change in changes)


class TestUsers:
    async def test_an_update_reports_user_and_identities(self, rig: Rig) -> None:
        ann = await rig.user("ann", "ann2")
        await rig.user("bob")
        (change,) = await rig.told(f"UPDATE users SET status = 'suspended' WHERE id = '{ann}'")
        assert parts([change]) == [({"ann", "ann2"}, {str(ann)})]

    async def test_a_version_is_the_id_of_the_transaction(self, rig: Rig) -> None:
        await rig.user("ann")
        async with rig.db.transaction():
            await rig.db.execute("UPDATE users SET status = 'suspended'")
            version = await rig.db.fetchval("SELECT pg_current_xact_id()::text::bigint")
        await rig.settle()
        assert [change.version for change in rig.ear.events if isinstance(change, Changed)][-1] == version

    @pytest.mark.parametrize(
        "assignment",
        [
            "status = 'locked'",
            "tenant = 'acme'",
            "email = 'a@b'",
            "display_name = 'A'",
            "roles = '{admin}'",
            "attributes = '{\"a\": 1}'",
            "tokens_valid_after = now()",
            "deleted_at = now()",
        ],
    )
    async def test_changes_of_columns_that_the_gateway_reads_are_reported(
        self, rig: Rig, assignment: str
    ) -> None:
        ann = await rig.user("ann")
        assert parts(await rig.told(f"UPDATE users SET {assignment}")) == [({"ann"}, {str(ann)})]
        assert await rig.told("UPDATE users SET " + assignment.replace("now()", assignment.split()[0])) == []

    async def test_changes_of_other_columns_are_not_reported(self, rig: Rig) -> None:
        await rig.user("ann")
        await rig.db.execute("ALTER TABLE users ADD COLUMN last_seen timestamptz")
        assert await rig.told("UPDATE users SET last_seen = now()", "UPDATE users SET status = status") == []

    async def test_a_new_user_is_not_reported(self, rig: Rig) -> None:
        assert await rig.told("INSERT INTO users DEFAULT VALUES") == []

    async def test_an_upsert_is_reported(self, rig: Rig) -> None:
        ann = await rig.user("ann")
        upsert = (
            f"INSERT INTO users (id, status) VALUES ('{ann}', 'locked')"
            " ON CONFLICT (id) DO UPDATE SET status = excluded.status"
        )
        assert parts(await rig.told(upsert)) == [({"ann"}, {str(ann)})]

    async def test_a_deletion_reports_the_identities_that_it_deletes(self, rig: Rig) -> None:
        ann = await rig.user("ann", "ann2")
        told = parts(await rig.told("DELETE FROM users"))
        assert set.union(*(subjects for subjects, _ in told)) == {"ann", "ann2"}
        assert set.union(*(users for _, users in told)) == {str(ann)}

    async def test_a_thousand_rows_are_everything(self, rig: Rig) -> None:
        await rig.db.execute("INSERT INTO users SELECT FROM generate_series(1, 1000)")
        (change,) = await rig.told("UPDATE users SET status = 'suspended'")
        assert isinstance(change, Everything)

    async def test_five_hundred_rows_are_reported_in_parts(self, rig: Rig) -> None:
        await rig.db.execute("INSERT INTO users SELECT FROM generate_series(1, 500)")
        await rig.db.execute(
            "INSERT INTO identities SELECT $1, 'subject-' || row_number() OVER (), id FROM users", ISS
        )
        told = parts(await rig.told("UPDATE users SET status = 'suspended'"))
        assert len(told) > 1
        assert len(set.union(*(subjects for subjects, _ in told))) == 500
        assert len(set.union(*(users for _, users in told))) == 500

    @pytest.mark.parametrize("character", ["x", '"', "\x01", "ü", "\U0001f600"])
    async def test_long_subjects_are_reported_in_parts_or_as_a_flush(self, rig: Rig, character: str) -> None:
        # As long as the index of the primary key takes them, and longer still when written in JSON.
        subjects = [f"{number}{character * 600}" for number in range(12)]
        await rig.user(*subjects)
        told = await rig.told("UPDATE users SET status = 'suspended'")
        if not only_everything(told):
            assert len(told) > 1
            assert set.union(*(names for names, _ in parts(told))) == set(subjects)

    async def test_a_change_too_long_for_a_message_is_reported_as_everything(self, rig: Rig) -> None:
        await rig.user("x" * 7000)
        assert only_everything(await rig.told("UPDATE users SET status = 'suspended'"))

    async def test_a_truncation_is_everything(self, rig: Rig) -> None:
        assert only_everything(await rig.told("TRUNCATE users CASCADE"))


class TestIdentities:
    async def test_new_and_deleted_ones_are_reported(self, rig: Rig) -> None:
        ann = await rig.user()
        insert = f"INSERT INTO identities VALUES ('{ISS}', 'ann', '{ann}')"
        assert parts(await rig.told(insert)) == [({"ann"}, set())]
        assert await rig.told(f"{insert} ON CONFLICT DO NOTHING") == []
        assert parts(await rig.told("DELETE FROM identities")) == [({"ann"}, set())]
        assert await rig.told("DELETE FROM identities") == []

    async def test_a_moved_one_is_reported_and_one_that_stays_is_not(self, rig: Rig) -> None:
        await rig.user("ann", "ann2")
        bob = await rig.user("bob")
        assert parts(await rig.told(f"UPDATE identities SET user_id = '{bob}' WHERE subject = 'ann'")) == [
            ({"ann"}, set())
        ]
        assert parts(await rig.told("UPDATE identities SET subject = 'eve' WHERE subject = 'ann'")) == [
            ({"ann", "eve"}, set())
        ]
        upsert = (
            "INSERT INTO identities SELECT * FROM identities WHERE subject = 'bob'"
            " ON CONFLICT (issuer, subject) DO UPDATE SET user_id = excluded.user_id, created_at = now()"
        )
        assert parts(await rig.told(upsert)) in ([], [({"bob"}, set())])

    async def test_a_truncation_is_everything(self, rig: Rig) -> None:
        assert only_everything(await rig.told("TRUNCATE identities"))

    @pytest.mark.parametrize("isolation", ["read_committed", "repeatable_read", "serializable"])
    @pytest.mark.parametrize("first", ["link", "suspend"])
    async def test_a_change_of_a_user_reports_a_concurrent_link(
        self, rig: Rig, dsn: str, isolation: Isolation, first: str
    ) -> None:
        # Else a gateway that read the new identity between the two would never be told of the change.
        ann = await rig.user()
        other = await asyncpg.connect(dsn)
        link = f"INSERT INTO identities VALUES ('{ISS}', 'ann', '{ann}')"
        suspend = f"UPDATE users SET status = 'suspended' WHERE id = '{ann}'"
        one, two = (link, suspend) if first == "link" else (suspend, link)
        await rig.settle()
        before = len(rig.ear.events)

        async def second() -> None:
            async with other.transaction(isolation=isolation):
                await other.fetchval("SELECT count(*) FROM users")  # takes the snapshot, if there is one
                started.set()
                await changed.wait()
                await other.execute(two)

        started, changed = asyncio.Event(), asyncio.Event()
        async with rig.db.transaction():
            running = asyncio.create_task(second())
            await started.wait()
            await rig.db.execute(one)
            changed.set()
            await asyncio.sleep(0.2)
            assert not running.done()
        try:
            await running
        except asyncpg.SerializationError:
            assert isolation != "read_committed"
            await other.execute(two)
        await other.close()
        await rig.settle()
        told = parts([event for event in rig.ear.events[before:] if not isinstance(event, str)])
        assert told[-1][0] == {"ann"}
        assert told == (
            [({"ann"}, set()), ({"ann"}, {str(ann)})]
            if first == "link"
            else [(set(), {str(ann)}), ({"ann"}, set())]
        )


class TestRevocations:
    async def test_a_new_one_is_reported_completely(self, rig: Rig) -> None:
        (change,) = await rig.told(
            "INSERT INTO revocations (kind, issuer, value, revoked_at, expires_at, reason)"
            " VALUES ('jti', 'main', 'a', to_timestamp(1000.5), to_timestamp(4e9), 'hush')"
        )
        assert isinstance(change, Revoked)
        assert change.revocation == Revocation("jti", "main", "a", 1000.5, 4e9)
        assert change.lifted is False

    async def test_users_and_issuers(self, rig: Rig) -> None:
        user = str(uuid4())
        told = await rig.told(
            f"INSERT INTO revocations (kind, value, revoked_at) VALUES ('user', '{user}', to_timestamp(5))",
            "INSERT INTO revocations (kind, issuer, revoked_at, expires_at)"
            " VALUES ('issuer', 'main', to_timestamp(6), 'infinity')",
        )
        assert [change.revocation for change in told if isinstance(change, Revoked)] == [
            Revocation("user", "", user, 5.0),
            Revocation("issuer", "main", "", 6.0),
        ]

    async def test_upserts_updates_and_deletions(self, rig: Rig) -> None:
        insert = "INSERT INTO revocations (kind, issuer, value) VALUES ('jti', 'main', 'a')"
        later = f"{insert} ON CONFLICT (kind, issuer, value) DO UPDATE SET revoked_at = clock_timestamp()"
        assert values(await rig.told(insert)) == [("a", False)]
        assert values(await rig.told(later)) == [("a", False)]
        assert await rig.told("UPDATE revocations SET reason = 'lost'") == []
        assert values(await rig.told("UPDATE revocations SET value = 'b'")) == [("a", True), ("b", False)]
        assert values(await rig.told("DELETE FROM revocations")) == [("b", True)]

    async def test_changes_of_a_row_are_in_order_where_transactions_are_not(self, rig: Rig, dsn: str) -> None:
        other = await asyncpg.connect(dsn)
        before = len(rig.ear.events)
        async with other.transaction():
            # This transaction has the lower id, and changes the row later.
            await other.execute("SELECT pg_current_xact_id()")
            await rig.db.execute("INSERT INTO revocations (kind, issuer, value) VALUES ('jti', 'main', 'a')")
            await other.execute("DELETE FROM revocations")
            await other.execute("INSERT INTO revocations (kind, issuer, value) VALUES ('jti', 'main', 'a')")
        await other.close()
        await rig.settle()
        told = [event for event in rig.ear.events[before:] if isinstance(event, Revoked)]
        assert values([*told]) == [("a", False), ("a", True), ("a", False)]
        assert told[0].version > told[1].version
        assert 0 < told[0].order < told[1].order < told[2].order

    @pytest.mark.parametrize(
        "number",
        [
            # As on a standby that took over without the last numbers, or in a backup.
            pytest.param("1", id="the sequence went back"),
            pytest.param("extract(epoch FROM now() + interval '1 hour') * 1000000", id="the clock did"),
        ],
    )
    async def test_the_order_of_changes_goes_on_where(self, rig: Rig, number: str) -> None:
        insert = "INSERT INTO revocations (kind, issuer, value) VALUES ('jti', 'main', 'a')"
        setval = f"SELECT setval('gateway_revocation_order', ({number})::bigint)"
        events = await rig.told(insert, "DELETE FROM revocations", setval, insert, "DELETE FROM revocations")
        orders = [event.order for event in events if isinstance(event, Revoked)]
        assert len(orders) == 4
        assert orders == sorted(set(orders))

    async def test_to_let_one_expire_is_to_lift_it(self, rig: Rig) -> None:
        await rig.db.execute("INSERT INTO revocations (kind, issuer, value) VALUES ('jti', 'main', 'a')")
        assert values(await rig.told("UPDATE revocations SET expires_at = now()")) == [("a", True)]
        assert values(await rig.told("UPDATE revocations SET expires_at = NULL")) == [("a", False)]

    async def test_one_that_has_expired_is_not_reported(self, rig: Rig) -> None:
        past = "now() - interval '2 hours'"
        assert (
            await rig.told(
                "INSERT INTO revocations (kind, issuer, value, expires_at)"
                f" VALUES ('jti', 'main', 'a', {past})",
                f"UPDATE revocations SET expires_at = {past} - interval '1 hour'",
                "DELETE FROM revocations",
            )
            == []
        )

    async def test_many_are_everything(self, rig: Rig) -> None:
        insert = "INSERT INTO revocations (kind, issuer, value) SELECT 'jti', 'main', generate_series(1, {})"
        assert len(values(await rig.told(insert.format(500)))) == 500
        assert (
            only_everything(await rig.told("DELETE FROM revocations WHERE true", insert.format(501))) is False
        )
        assert only_everything(await rig.told("DELETE FROM revocations"))
        assert only_everything(await rig.told("TRUNCATE revocations"))

    async def test_one_that_is_too_long_is_everything(self, rig: Rig) -> None:
        insert = f"INSERT INTO revocations (kind, issuer, value) VALUES ('jti', 'main', '{'x' * 7000}')"
        assert only_everything(await rig.told(insert))


class TestTransactions:
    async def test_a_rolled_back_change_is_not_reported(self, rig: Rig) -> None:
        await rig.user("ann")
        assert await rig.told("BEGIN", "UPDATE users SET status = 'suspended'", "ROLLBACK") == []

    async def test_reported_in_the_order_of_commits(self, rig: Rig, dsn: str) -> None:
        ann, bob = await rig.user("ann"), await rig.user("bob")
        other = await asyncpg.connect(dsn)
        await rig.settle()
        before = len(rig.ear.events)
        await rig.db.execute("BEGIN")
        await rig.db.execute(f"UPDATE users SET status = 'locked' WHERE id = '{ann}'")
        await other.execute(f"UPDATE users SET status = 'locked' WHERE id = '{bob}'")
        await rig.db.execute("COMMIT")
        await rig.settle()
        await other.close()
        first, second = (event for event in rig.ear.events[before:] if isinstance(event, Changed))
        assert (first.users, second.users) == ((str(bob),), (str(ann),))
        assert first.version > second.version

    async def test_any_client_with_any_search_path_and_rights(self, rig: Rig, dsn: str) -> None:
        role = f"writer_{secrets.token_hex(8)}"
        ann = await rig.user("ann")
        await rig.db.execute(
            f"CREATE ROLE {role} LOGIN PASSWORD 'p'; GRANT SELECT, UPDATE ON users TO {role};"
            f" GRANT SELECT, INSERT ON identities TO {role}"
        )
        login = as_role(dsn, role, "p")
        writer = await asyncpg.connect(login, server_settings={"search_path": "pg_temp"})
        try:
            # Tables of the same names, before the real ones wherever the path of the client counts.
            await writer.execute("CREATE TEMP TABLE users (id int); CREATE TEMP TABLE identities (id int)")
            await writer.execute("CREATE TEMP TABLE before (id int); CREATE TEMP TABLE after (id int)")
            suspend = f"UPDATE public.users SET status = 'suspended' WHERE id = '{ann}'"
            assert parts(await rig.told(suspend, db=writer)) == [({"ann"}, {str(ann)})]
            link = f"INSERT INTO public.identities VALUES ('{ISS}', 'ann2', '{ann}')"
            assert parts(await rig.told(link, db=writer)) == [({"ann2"}, set())]
            for function in ("gateway_users_changed()", "gateway_table_truncated()"):
                with pytest.raises(asyncpg.InsufficientPrivilegeError):
                    await writer.execute(
                        "CREATE TRIGGER own AFTER UPDATE ON pg_temp.users"
                        f" FOR EACH STATEMENT EXECUTE FUNCTION public.{function}"
                    )
        finally:
            await writer.close()
            await rig.db.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")

    async def test_each_schema_reports_only_its_own_changes(self, rig: Rig, dsn: str) -> None:
        schema = 'odd "name"; --'
        await migrate(dsn, schema)
        ear = Ear()
        stream = PostgresStream(dsn, schema, ear, connect_timeout=2)
        stream.start()
        await ear.has("listening")
        elsewhere = quoted(schema)
        user = uuid4()
        assert (
            await rig.told(
                f"INSERT INTO {elsewhere}.users (id) VALUES ('{user}')",
                f"INSERT INTO {elsewhere}.identities VALUES ('{ISS}', 'ann', '{user}')",
                f"TRUNCATE {elsewhere}.revocations",
            )
            == []
        )
        await Rig(rig.db, ear).settle()
        assert [type(event) for event in ear.events] == [str, Changed, Everything]
        await stream.close()
