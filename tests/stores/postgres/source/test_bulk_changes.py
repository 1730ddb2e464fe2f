"""Many rows and many statements at once: what is reported of them, at which cost, and what may go unseen."""
# ruff: noqa: S608 -- statements as people type them, with values of the tests' own

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

import asyncpg
import pytest

from gateway.stores.postgres.source.install import install
from tests.stores.postgres.source.ear import Ear, listening
from tests.systems.sources import ISS, ISSUERS, source_of

Isolation: TypeAlias = Literal["read_committed", "repeatable_read", "serializable"]
Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

MANY: Final = 600
"""Rows; more than are reported one by one."""
TABLES: Final = """
CREATE TABLE person (
    id integer PRIMARY KEY, login text UNIQUE, active boolean NOT NULL DEFAULT true, seen timestamptz
);
CREATE TABLE link (
    person integer NOT NULL REFERENCES person ON DELETE CASCADE, uid text PRIMARY KEY, provider text
);
CREATE INDEX ON link (person);
CREATE TABLE member (person integer NOT NULL, team text NOT NULL, PRIMARY KEY (person, team));
CREATE TABLE team (name text PRIMARY KEY, open boolean NOT NULL DEFAULT true);
INSERT INTO team VALUES ('red'), ('blue');
"""
BLOCK: Final[dict[str, Any]] = {
    "table": "person",
    "id": "id",
    "status": [{"when": "NOT active", "is": "suspended"}],
    "roles": {
        "query": "SELECT m.team FROM member m JOIN team t ON t.name = m.team WHERE t.open AND m.person = $1",
        "watch": {"member": "person", "team": "*"},
    },
    "identities": [
        {"subject": "login"},
        {"table": "link", "subject": "uid", "user": "person", "where": "provider = 'oidc'"},
    ],
}
PEOPLE: Final = f"INSERT INTO person SELECT g, 'login ' || g FROM generate_series(1, {MANY}) AS g"
LINKS: Final = "INSERT INTO link SELECT id, 'uid ' || id, 'oidc' FROM person"
MEMBERS: Final = "INSERT INTO member SELECT id, 'red' FROM person"
SUSPEND: Final = "UPDATE person SET active = false"
LINK_ONE: Final = "INSERT INTO link VALUES (1, 'new', 'oidc')"
SUSPEND_ONE: Final = f"{SUSPEND} WHERE id = 1"
ENROL_ONE: Final = "INSERT INTO member VALUES (1, 'blue')"
FLUSH: Final = [{"kind": "all"}]


@dataclass
class Rig:
    db: Connection
    ear: Ear

    async def reported(self, *statements: str) -> list[dict[str, Any]]:
        """Execute statements; return what is reported of them."""
        await self.ear.changes()
        for statement in statements:
            await self.db.execute(statement)
        return shown(await self.ear.changes())


def shown(changes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return reports without what is the same in all."""
    assert all(change.pop("schema") == "gateway_source" for change in changes)
    assert all(change.pop("version") > 0 for change in changes)
    return changes


def named(*subjects: str, users: tuple[str, ...] = ()) -> dict[str, Any]:
    identities = sorted([ISS, subject] for subject in subjects)
    return {"kind": "identities", "identities": identities, "users": list(users)}


@pytest.fixture
async def rig(empty_dsn: str) -> AsyncIterator[Rig]:
    db = await asyncpg.connect(empty_dsn)
    await db.execute(TABLES)
    await install(empty_dsn, source_of(BLOCK), ISSUERS)
    async with listening(empty_dsn) as ear:
        yield Rig(db, ear)
    await db.close()


class TestOneReport:
    @pytest.mark.parametrize(
        ("before", "statement"),
        [
            pytest.param([], PEOPLE, id="people inserted"),
            pytest.param([PEOPLE, LINKS], SUSPEND, id="people updated"),
            pytest.param([PEOPLE, LINKS], "DELETE FROM person", id="people deleted, links with them"),
            pytest.param([PEOPLE, LINKS], "TRUNCATE person CASCADE", id="people truncated"),
            pytest.param(
                [PEOPLE, LINKS],
                f"{PEOPLE} ON CONFLICT (id) DO UPDATE SET active = false",
                id="people upserted",
            ),
            pytest.param([PEOPLE], LINKS, id="links inserted"),
            pytest.param([PEOPLE, LINKS], "UPDATE link SET uid = 'x' || uid", id="links updated"),
            pytest.param([PEOPLE, LINKS], "UPDATE link SET person = 1", id="links moved to one user"),
            pytest.param([PEOPLE, LINKS], "DELETE FROM link", id="links deleted"),
            pytest.param([PEOPLE, LINKS], MEMBERS, id="members inserted"),
            pytest.param([PEOPLE, LINKS, MEMBERS], "UPDATE member SET team = 'blue'", id="members updated"),
            pytest.param([PEOPLE, LINKS, MEMBERS], "DELETE FROM member", id="members deleted"),
            pytest.param([], "UPDATE team SET open = false WHERE name = 'red'", id="one row of all users"),
            pytest.param(
                [PEOPLE, LINKS],
                "WITH gone AS (DELETE FROM link RETURNING person)"
                " UPDATE person SET active = false WHERE id IN (SELECT person FROM gone)",
                id="two tables in one statement",
            ),
        ],
    )
    async def test_for_a_statement(self, rig: Rig, before: list[str], statement: str) -> None:
        for preparation in before:
            await rig.db.execute(preparation)
        reported = await rig.reported(statement)
        assert reported == FLUSH

    @pytest.mark.parametrize(
        "statement",
        [
            "UPDATE person SET seen = now()",
            "UPDATE person SET active = active",
            "UPDATE link SET uid = uid",
            "UPDATE member SET team = team",
            "UPDATE team SET open = true",
            f"{SUSPEND} WHERE id < 0",
            "DELETE FROM team WHERE name = 'green'",
        ],
    )
    async def test_a_change_that_alters_no_answer_is_not_reported(self, rig: Rig, statement: str) -> None:
        for preparation in (PEOPLE, LINKS, MEMBERS):
            await rig.db.execute(preparation)
        assert await rig.reported(statement) == []

    async def test_few_of_many_rows_are_named(self, rig: Rig) -> None:
        for preparation in (PEOPLE, LINKS):
            await rig.db.execute(preparation)
        reported = await rig.reported("UPDATE person SET seen = now(), active = id > 2")
        assert reported == [named("login 1", "login 2", "uid 1", "uid 2", users=("1", "2"))]

    async def test_a_user_whose_id_and_subject_change_is_named_by_both(self, rig: Rig) -> None:
        await rig.db.execute("INSERT INTO person VALUES (1, 'before')")
        reported = await rig.reported("UPDATE person SET id = 2, login = 'after'")
        assert reported == [named("after", "before", users=("1", "2"))]


class TestCost:
    @pytest.mark.parametrize(
        "statement",
        [
            SUSPEND,
            "UPDATE person SET seen = now(), active = NOT active",
            "INSERT INTO link SELECT id, 'more ' || id, 'oidc' FROM person",
            "UPDATE link SET uid = 'x' || uid",
            "UPDATE member SET team = 'blue'",
            "UPDATE team SET open = false",
            "DELETE FROM person",
        ],
    )
    async def test_no_plan_compares_each_row_with_each_other(self, rig: Rig, statement: str) -> None:
        await rig.db.execute("INSERT INTO person VALUES (1, 'one'); INSERT INTO member VALUES (1, 'red')")
        await rig.db.execute("INSERT INTO link VALUES (1, 'one', 'oidc')")
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
    async def test_thousands_of_statements_send_five_hundred_reports_and_a_flush(self, rig: Rig) -> None:
        await rig.db.execute(PEOPLE.replace(str(MANY), "3000"))
        statements = [f"UPDATE person SET active = false WHERE id = {number}" for number in range(1, 3001)]
        reported = await rig.reported("BEGIN", *statements, "COMMIT")
        assert len(reported) == 501
        assert reported[:2] == [named("login 1", users=("1",)), named("login 2", users=("2",))]
        assert reported[-1:] == FLUSH
        # The next transaction reports by name again.
        assert await rig.reported("UPDATE person SET active = true WHERE id = 7") == [
            named("login 7", users=("7",))
        ]

    async def test_so_are_statements_with_a_savepoint_each(self, rig: Rig) -> None:
        await rig.db.execute(PEOPLE)
        statement = "SAVEPOINT s; UPDATE person SET active = false WHERE id = {}; RELEASE s"
        reported = await rig.reported("BEGIN", *(statement.format(n) for n in range(1, MANY + 1)), "COMMIT")
        assert len(reported) == 501
        assert reported[-1:] == FLUSH

    @pytest.mark.parametrize(
        ("statements", "expected"),
        [
            pytest.param(["SAVEPOINT s", SUSPEND, "ROLLBACK TO s", SUSPEND_ONE], 1, id="undone"),
            pytest.param(["SAVEPOINT s", SUSPEND, "RELEASE s", ENROL_ONE], 0, id="released"),
            pytest.param([SUSPEND, "SAVEPOINT s", ENROL_ONE, "ROLLBACK TO s"], 0, id="before it"),
            pytest.param(
                [
                    f"DO $$ BEGIN BEGIN {SUSPEND}; RAISE EXCEPTION 'x';"
                    f" EXCEPTION WHEN raise_exception THEN NULL; END; {SUSPEND_ONE}; END $$"
                ],
                1,
                id="in a block that caught an error",
            ),
        ],
    )
    async def test_a_flush_counts_as_long_as_its_savepoint(
        self, rig: Rig, statements: list[str], expected: int
    ) -> None:
        await rig.db.execute(PEOPLE)
        reported = await rig.reported("BEGIN", *statements, "COMMIT")
        assert reported == ([named("login 1", users=("1",))] if expected else FLUSH)

    async def test_no_setting_of_a_client_suppresses_a_notification(self, rig: Rig) -> None:
        await rig.db.execute(PEOPLE)
        xid = await rig.db.fetchval("SELECT pg_current_xact_id()::text")
        for number, value in enumerate(("x", "", f"{xid} 501", "501", f"{xid} 99999999999"), start=1):
            await rig.db.execute(f"SET gateway_source.told = '{value}'")
            assert await rig.reported(f"UPDATE person SET active = false WHERE id = {number}") == [
                named(f"login {number}", users=(str(number),))
            ]


class TestConcurrency:
    """A link and a change of its user, in two transactions at once.

    The report of the one that is committed last must concern the identity: by its name, or all users.
    """

    @pytest.mark.parametrize("second", ["read_committed", "repeatable_read", "serializable"])
    @pytest.mark.parametrize("first", ["read_committed", "repeatable_read"])
    @pytest.mark.parametrize(
        ("earlier", "later"),
        [
            pytest.param(LINK_ONE, SUSPEND_ONE, id="link, suspend"),
            pytest.param(SUSPEND_ONE, LINK_ONE, id="suspend, link"),
            pytest.param(LINK_ONE, ENROL_ONE, id="link, enrol"),
            pytest.param(ENROL_ONE, LINK_ONE, id="enrol, link"),
        ],
    )
    async def test_the_last_report_concerns_the_identity(
        self, rig: Rig, empty_dsn: str, earlier: str, later: str, first: Isolation, second: Isolation
    ) -> None:
        await rig.db.execute("INSERT INTO person VALUES (1, 'login 1')")
        await rig.ear.changes()
        other = await asyncpg.connect(empty_dsn)
        async with other.transaction(isolation=second):
            await other.fetchval("SELECT count(*) FROM person")  # takes the snapshot, if there is one
            async with rig.db.transaction(isolation=first):
                await rig.db.execute(earlier)
                waiting = asyncio.create_task(other.execute(later))
                await asyncio.wait([waiting], timeout=0.1)
                assert not waiting.done()
            await waiting
            await rig.ear.changes()
        await other.close()
        (last,) = shown(await rig.ear.changes())
        assert last == FLUSH[0] or [ISS, "new"] in last["identities"]

    @pytest.mark.parametrize("later", [SUSPEND_ONE, ENROL_ONE])
    async def test_an_old_snapshot_does_not_see_the_link(self, rig: Rig, empty_dsn: str, later: str) -> None:
        await rig.db.execute("INSERT INTO person VALUES (1, 'login 1')")
        other = await asyncpg.connect(empty_dsn)
        async with other.transaction(isolation="repeatable_read"):
            await other.fetchval("SELECT count(*) FROM person")
            await rig.db.execute(LINK_ONE)
            await other.execute(later)
            await rig.ear.changes()
        await other.close()
        assert shown(await rig.ear.changes()) == FLUSH

    async def test_a_link_that_was_rolled_back_to_a_savepoint_keeps_its_lock(
        self, rig: Rig, empty_dsn: str
    ) -> None:
        await rig.db.execute("INSERT INTO person VALUES (1, 'login 1')")
        await rig.ear.changes()
        other = await asyncpg.connect(empty_dsn)
        async with rig.db.transaction():
            await rig.db.execute(f"SAVEPOINT s; {LINK_ONE}; ROLLBACK TO s; {LINK_ONE}")
            suspending = asyncio.create_task(other.execute(SUSPEND_ONE))
            await asyncio.wait([suspending], timeout=0.1)
            assert not suspending.done()
        await suspending
        await other.close()
        assert shown(await rig.ear.changes())[-1] == named("login 1", "new", users=("1",))

    async def test_two_loads_with_the_same_users_wait_for_each_other(self, rig: Rig, empty_dsn: str) -> None:
        await rig.db.execute(PEOPLE)

        async def load(name: str, order: str) -> None:
            connection = await asyncpg.connect(empty_dsn)
            try:
                await connection.execute(
                    f"INSERT INTO link SELECT id, '{name} ' || id, 'oidc' FROM person ORDER BY id {order}"
                )
            finally:
                await connection.close()

        await asyncio.gather(*(load(f"{order} {n}", order) for n in range(3) for order in ("ASC", "DESC")))
        assert await rig.db.fetchval("SELECT count(*) FROM link") == 6 * MANY
