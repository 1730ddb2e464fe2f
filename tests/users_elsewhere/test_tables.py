"""Sources of every shape: views, partitions, several tables of identities, several issuers."""
# ruff: noqa: S608 -- statements as people type them, with values of the tests' own

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

import asyncpg
import pytest

from tests.harness import SECOND_ISSUER, House
from tests.sql import execute
from tests.users_elsewhere.gateways import (
    Crowd,
    in_memory,
    install_triggers,
    one_process,
    reports,
    token,
)

Opened: TypeAlias = Callable[[str, Mapping[str, Any]], AbstractAsyncContextManager[tuple[House, Crowd]]]

PERSON = "CREATE TABLE person (id integer PRIMARY KEY, subject text UNIQUE, active boolean DEFAULT true);"
ACTIVE = [{"when": "NOT active", "is": "suspended"}]
PLAIN: dict[str, Any] = {
    "table": "person",
    "id": "id",
    "issuer": "main",
    "status": ACTIVE,
    "identities": [{"subject": "subject"}],
}


@pytest.fixture
def gateway(shared_dsn: str, redis_url: str, tmp_path: Path) -> Opened:
    """Create tables, install the triggers of a source, and run a gateway."""

    @asynccontextmanager
    async def opened(tables: str, block: Mapping[str, Any]) -> AsyncIterator[tuple[House, Crowd]]:
        await execute(shared_dsn, tables)
        await install_triggers(shared_dsn, block)
        async with one_process(tmp_path, shared_dsn, redis_url, block) as started:
            yield started

    return opened


async def remembered(house: House, clients: Crowd, *subjects: str) -> None:
    """Have users answered from memory, so that what follows is known from a report of the triggers."""
    for subject in subjects:
        await clients.agree(200, token(subject))
        await in_memory(house, clients, token(subject))


class TestViews:
    TABLES = """
    CREATE TABLE account (id integer PRIMARY KEY, login text UNIQUE);
    CREATE TABLE block (account_id integer REFERENCES account ON DELETE CASCADE, reason text);
    CREATE VIEW member AS SELECT a.id, a.login, NOT EXISTS (
        SELECT FROM block b WHERE b.account_id = a.id
    ) AS active FROM account a;
    INSERT INTO account VALUES (1, 'ann'), (2, 'bob');
    """
    BLOCK: ClassVar[dict[str, Any]] = {
        "table": "member",
        "id": "id",
        "issuer": "main",
        "status": ACTIVE,
        "identities": [{"subject": "login"}],
        "watch": {"account": "id", "block": "account_id"},
    }

    async def test_the_tables_behind_a_view_are_watched(self, gateway: Opened) -> None:
        async with gateway(self.TABLES, self.BLOCK) as (house, clients):
            await remembered(house, clients, "ann", "bob")
            await clients.agree("user_not_found", token("eve"))
            await house.sql("INSERT INTO block VALUES (1, 'spam')")
            await clients.agree("user_suspended", token("ann"))
            await house.sql("DELETE FROM block")
            await clients.agree(200, token("ann"))
            await house.sql("UPDATE account SET login = 'eve' WHERE id = 2")
            await clients.agree("user_not_found", token("bob"))
            await clients.agree(200, token("eve"))
            await house.sql("DELETE FROM account WHERE id = 2")
            await clients.agree("user_not_found", token("eve"))

    async def test_a_user_who_is_linked_while_the_table_behind_the_view_changes(
        self, gateway: Opened, shared_dsn: str
    ) -> None:
        """The rows of a view cannot be locked: the change does not see the identity, and names the user."""
        tables = """
        CREATE TABLE link (account_id integer, login text UNIQUE);
        CREATE INDEX ON link (account_id);
        """
        block = {
            **self.BLOCK,
            "identities": [{"table": "link", "subject": "login", "user": "account_id"}],
        }
        async with gateway(self.TABLES + tables, block) as (house, clients):
            other = await asyncpg.connect(shared_dsn)
            async with other.transaction():
                await other.execute("INSERT INTO block VALUES (1, 'spam')")
                await house.sql("INSERT INTO link VALUES (1, 'new')")
                await remembered(house, clients, "new")
            await other.close()
            await clients.agree("user_suspended", token("new"))

    async def test_a_view_of_identities_too(self, gateway: Opened) -> None:
        tables = """
        CREATE TABLE link (account_id integer, issuer text, login text);
        CREATE VIEW google AS SELECT account_id, login FROM link WHERE issuer = 'google';
        INSERT INTO link VALUES (1, 'google', 'ann'), (2, 'other', 'bob');
        """
        block = {
            **PLAIN,
            "identities": [{"table": "google", "subject": "login", "user": "account_id"}],
            "watch": {"link": "account_id"},
        }
        async with gateway(PERSON + tables + "INSERT INTO person VALUES (1), (2);", block) as (
            house,
            clients,
        ):
            await remembered(house, clients, "ann")
            await clients.agree("user_not_found", token("bob"))
            await house.sql("UPDATE link SET issuer = 'google'")
            await clients.agree(200, token("bob"))
            await house.sql("UPDATE link SET issuer = 'none' WHERE account_id = 1")
            await clients.agree("user_not_found", token("ann"))
            await house.sql("DELETE FROM link WHERE account_id = 2")
            await clients.agree("user_not_found", token("bob"))


class TestPartitions:
    TABLES = """
    CREATE TABLE person (
        id integer, region text, subject text, active boolean DEFAULT true, PRIMARY KEY (id, region)
    ) PARTITION BY LIST (region);
    CREATE TABLE person_eu PARTITION OF person FOR VALUES IN ('eu');
    CREATE TABLE person_us PARTITION OF person FOR VALUES IN ('us');
    CREATE INDEX ON person (subject);
    INSERT INTO person VALUES (1, 'eu', 'ann'), (2, 'us', 'bob');
    """

    async def test_each_way_into_a_partition_is_watched(self, gateway: Opened) -> None:
        async with gateway(self.TABLES, PLAIN) as (house, clients):
            await remembered(house, clients, "ann", "bob")
            await house.sql("UPDATE person SET active = false WHERE id = 1")
            await clients.agree("user_suspended", token("ann"))
            await house.sql("UPDATE person_us SET active = false")
            await clients.agree("user_suspended", token("bob"))
            await house.sql("UPDATE person SET active = true, region = 'us'")
            await clients.agree(200, token("ann"))
            await clients.agree(200, token("bob"))
            await house.sql("TRUNCATE person_us")
            await clients.agree("user_not_found", token("ann"))

    async def test_a_new_partition_is_noticed_and_mended_by_migrate(
        self, gateway: Opened, shared_dsn: str
    ) -> None:
        async with gateway(self.TABLES, PLAIN) as (house, clients):
            await remembered(house, clients, "ann")
            await house.sql("CREATE TABLE person_asia PARTITION OF person FOR VALUES IN ('asia')")
            await house.sql("INSERT INTO person_asia VALUES (3, 'asia', 'eve')")
            await clients.agree(200, token("eve"))
            await house.sql("UPDATE person_asia SET active = false")
            await clients.agree("user_suspended", token("eve"))
            assert await install_triggers(shared_dsn, PLAIN)
            await house.ready()
            await house.sql("UPDATE person_asia SET active = true")
            await clients.agree(200, token("eve"))
            await remembered(house, clients, "eve")
            await house.sql("UPDATE person_asia SET active = false")
            await clients.agree("user_suspended", token("eve"))


class TestIdentities:
    TABLES = (
        PERSON
        + """
    CREATE TABLE google (person integer, sub text, PRIMARY KEY (sub));
    CREATE TABLE github (person integer, login text, provider text, PRIMARY KEY (login));
    CREATE INDEX ON google (person);
    CREATE INDEX ON github (person);
    INSERT INTO person VALUES (1, 'ann'), (2, 'bob');
    INSERT INTO google VALUES (1, 'g-ann'), (2, '1');
    INSERT INTO github VALUES (1, 'gh-ann', 'github'), (2, 'gh-bob', 'gitlab');
    """
    )
    BLOCK: ClassVar[dict[str, Any]] = {
        **PLAIN,
        "identities": [
            {"subject": "id::text"},
            {"table": "google", "subject": "sub", "user": "person", "issuer": ["main", "second"]},
            {"table": "github", "subject": "login", "user": "person", "where": "provider = 'github'"},
        ],
    }

    async def test_one_user_has_identities_in_several_tables(self, gateway: Opened) -> None:
        block = {**self.BLOCK, "identities": self.BLOCK["identities"][1:]}
        async with gateway(self.TABLES, block) as (house, clients):
            second = token("g-ann", issuer=SECOND_ISSUER, key="second")
            await remembered(house, clients, "g-ann", "gh-ann")
            await clients.agree(200, second)
            await clients.agree("user_not_found", token("gh-bob"))
            await clients.agree("user_not_found", token("gh-ann", issuer=SECOND_ISSUER, key="second"))
            await house.sql("UPDATE person SET active = false WHERE id = 1")
            for bearer in (token("g-ann"), token("gh-ann"), second):
                await clients.agree("user_suspended", bearer)
            await house.sql("UPDATE person SET active = true WHERE id = 1")
            await clients.agree(200, second)
            await house.sql("UPDATE google SET person = 2 WHERE sub = 'g-ann'")
            await clients.agree(200, second)
            assert house.upstream.requests[-1].values(b"x-user-id") == [b"2"]
            await house.sql("UPDATE github SET provider = 'github'")
            await clients.agree(200, token("gh-bob"))
            await house.sql("DELETE FROM google WHERE sub = 'g-ann'")
            await clients.agree("user_not_found", token("g-ann"))
            await clients.agree("user_not_found", second)
            await clients.agree(200, token("gh-ann"))

    async def test_an_ambiguous_subject_is_no_user(self, gateway: Opened) -> None:
        async with gateway(self.TABLES, self.BLOCK) as (house, clients):
            # "1" is the id of one user, and the subject of the other.
            await clients.agree("user_store_unavailable", token("1"))
            await clients.agree(200, token("2"))
            await house.sql("DELETE FROM google WHERE sub = '1'")
            await clients.agree(200, token("1"))
            assert house.upstream.requests[-1].values(b"x-user-id") == [b"1"]

    async def test_two_issuers_with_one_subject_are_two_users(self, gateway: Opened) -> None:
        tables = (
            PERSON
            + """
        CREATE TABLE link (person integer, provider text, sub text, UNIQUE (provider, sub));
        CREATE INDEX ON link (person);
        INSERT INTO person VALUES (1), (2);
        INSERT INTO link VALUES (1, 'a', 'same'), (2, 'b', 'same');
        """
        )
        link = {"table": "link", "subject": "sub", "user": "person"}
        block = {
            **PLAIN,
            "identities": [
                {**link, "issuer": "main", "where": "provider = 'a'"},
                {**link, "issuer": "second", "where": "provider = 'b'"},
            ],
        }
        mine, theirs = token("same"), token("same", issuer=SECOND_ISSUER, key="second")
        async with gateway(tables, block) as (house, clients):
            for bearer, user_id in ((mine, b"1"), (theirs, b"2")):
                await clients.agree(200, bearer)
                assert house.upstream.requests[-1].values(b"x-user-id") == [user_id]
                await in_memory(house, clients, bearer)
            await house.sql("UPDATE person SET active = false WHERE id = 2")
            await clients.agree("user_suspended", theirs)
            await clients.agree(200, mine)
            await house.sql("UPDATE link SET provider = 'c' WHERE person = 1")
            await clients.agree("user_not_found", mine)
            await house.sql("UPDATE link SET provider = 'a' WHERE person = 2")
            await clients.agree("user_suspended", mine)
            await clients.agree("user_not_found", theirs)


class TestNames:
    """Columns that are called as what the gateway's own SQL calls something."""

    async def test_columns_may_have_any_name(self, gateway: Opened, shared_dsn: str) -> None:
        names = "changed linked identities label ids key state found after before status roles u".split()  # noqa: SIM905
        columns = ", ".join(f'"{name}" integer DEFAULT 1' for name in names)
        conditions = " AND ".join(f'"{name}" = 1' for name in names)
        tables = f"""
        CREATE TABLE person (id integer PRIMARY KEY, {columns});
        CREATE TABLE link (person integer, sub text UNIQUE, {columns});
        CREATE INDEX ON link (person);
        CREATE TABLE role (person integer, role text, {columns});
        INSERT INTO person (id) VALUES (1), (2);
        INSERT INTO link (person, sub) VALUES (1, 'ann'), (2, 'bob');
        INSERT INTO role (person, role) VALUES (1, 'editor'), (2, 'editor');
        """
        block = {
            "table": "person",
            "id": "id",
            "issuer": "main",
            "status": [{"when": f"NOT ({conditions})", "is": "suspended"}],
            "roles": {
                "query": f"SELECT role FROM role r WHERE r.person = $1 AND {conditions}",
                "watch": {"role": "person"},
            },
            "identities": [{"table": "link", "subject": "sub", "user": "person", "where": conditions}],
        }
        async with gateway(tables, block) as (house, clients), reports(shared_dsn) as reported:
            await remembered(house, clients, "ann", "bob")
            for name in names:
                await house.sql(f'UPDATE person SET "{name}" = 2 WHERE id = 1')
                await clients.agree("user_suspended", token("ann"))
                await clients.agree(200, token("bob"))
                await house.sql(f'UPDATE person SET "{name}" = 1 WHERE id = 1')
                await clients.agree(200, token("ann"))
            for name in names:
                await house.sql(f'UPDATE link SET "{name}" = 2 WHERE person = 1')
                await clients.agree("user_not_found", token("ann"))
                await house.sql(f'UPDATE link SET "{name}" = 1 WHERE person = 1')
                await clients.agree(200, token("ann"), "/editors/x")
            for name in names:
                await house.sql(f'UPDATE role SET "{name}" = 2 WHERE person = 1')
                await clients.agree("role_missing", token("ann"), "/editors/x")
                await house.sql(f'UPDATE role SET "{name}" = 1 WHERE person = 1')
                await clients.agree(200, token("ann"), "/editors/x")
        assert len(reported) >= 6 * len(names)
        assert {report["kind"] for report in reported} == {"identities"}
