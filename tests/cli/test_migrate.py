"""`gateway migrate` with a source of users."""

import asyncio
import json
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from typer.testing import CliRunner, Result

from gateway.cli.main import app
from tests.systems.fixtures import SYSTEMS
from tests.systems.sources import BLOCKS, configuration
from tests.systems.system import System


def written(folder: Path, dsn: str, block: Mapping[str, Any]) -> Path:
    file = folder / "gateway.json"
    text = json.dumps(configuration(block, postgres={"dsn": dsn, "schema": "gateway"}))
    file.write_text(text, encoding="utf-8")
    return file


async def run(*words: str) -> Result:
    """Run a command in a thread, since it has an event loop of its own."""
    return await asyncio.to_thread(CliRunner().invoke, app, words)


OBJECTS = """
SELECT 'trigger' AS kind, tgrelid::regclass::text || ' ' || pg_get_triggerdef(oid) AS text
FROM pg_trigger WHERE NOT tgisinternal
UNION ALL
SELECT 'function', pg_get_functiondef(p.oid) FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
WHERE n.nspname IN ('gateway', 'gateway_source') AND p.prokind = 'f'
UNION ALL
SELECT 'rights', p.oid::regprocedure::text || ' ' || coalesce(p.proacl::text, '') FROM pg_proc p
JOIN pg_namespace n ON n.oid = p.pronamespace WHERE n.nspname IN ('gateway', 'gateway_source')
UNION ALL
SELECT 'column', attrelid::regclass::text || ' ' || attname || ' ' || format_type(atttypid, atttypmod)
FROM pg_attribute a JOIN pg_class c ON c.oid = attrelid WHERE c.relnamespace = to_regnamespace('gateway')
UNION ALL
SELECT 'migration', version || ' ' || name || ' ' || checksum FROM gateway.gateway_migrations
ORDER BY 1, 2
"""


@pytest.mark.parametrize("system", SYSTEMS, indirect=True)
async def test_the_printed_sql_does_what_the_command_does(tmp_path: Path, system: System) -> None:
    block = {**BLOCKS[system.name], "changes": "triggers"}
    file = written(tmp_path, system.dsn, block)
    printed = await run("migrate", "--print-sql", "--config", str(file))
    assert printed.exit_code == 0, printed.output
    # As a DBA pastes it, with a search path of its own.
    role = f"reader_{uuid.uuid4().hex}"
    await system.sql(f"CREATE ROLE {role}")
    script = printed.stdout.replace("gateway_runtime", role)
    connection = await asyncpg.connect(system.dsn)
    try:
        # All but an index that cannot be created together with others.
        lines = [line for line in script.splitlines() if " CONCURRENTLY " not in line]
        await connection.execute("\n".join(lines))
        pasted = await connection.fetch(OBJECTS)
        again = await run("migrate", "--json", "--config", str(file))
        assert again.exit_code == 0, again.output
        assert json.loads(again.stdout)["applied"] == []
        assert json.loads(again.stdout)["source"]["installed"] is False
        await connection.execute("DROP SCHEMA gateway_source CASCADE; DROP SCHEMA gateway CASCADE")
        done = await run("migrate", "--json", "--config", str(file))
        assert json.loads(done.stdout)["source"]["installed"] is True
        assert await connection.fetch(OBJECTS) == pasted
    finally:
        await connection.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")
        await connection.close()
