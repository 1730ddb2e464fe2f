"""Numbered SQL files → tables. Safe to run concurrently: each migration waits for an advisory lock.

Every migration is one transaction, recorded in `gateway_migrations` with the checksum of its file.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Final

import asyncpg

from gateway.stores.postgres.errors import quoted, translated
from gateway.stores.postgres.hosts import Connector, address_of

_LOCK: Final = 0x67617465776179
"""The advisory lock's number: the bytes of "gateway"."""
_CONNECT_TIMEOUT: Final = 5.0
_NAME: Final = re.compile(r"(\d{4})_([a-z0-9_]+)\.sql")

_CREATE_LEDGER: Final = """
CREATE TABLE gateway_migrations (
    version    integer     PRIMARY KEY,
    name       text        NOT NULL,
    checksum   text        NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
)
"""


class MigrationError(Exception):
    """The database is not in a state that these migrations can continue from. The text says why."""


@dataclass(frozen=True, slots=True)
class Migration:
    """One numbered file."""

    version: int
    name: str
    sql: str

    @property
    def checksum(self) -> str:
        """SHA-256 of the SQL, in hex."""
        return hashlib.sha256(self.sql.encode()).hexdigest()


def migrations() -> tuple[Migration, ...]:
    """Return the migrations of this version, in order."""
    found = []
    for file in resources.files("gateway.migrations").iterdir():
        if match := _NAME.fullmatch(file.name):
            sql = file.read_text(encoding="utf-8").replace("\r\n", "\n")
            found.append(Migration(int(match[1]), match[2], sql))
    return tuple(sorted(found, key=lambda migration: migration.version))


async def migrate(
    dsn: str,
    schema: str = "public",
    *,
    known: Sequence[Migration] | None = None,
    tls_strict: bool = False,
) -> list[str]:
    """Bring the tables up to date; return the applied migrations, as `0001_name`.

    Raises `MigrationError` when the database is ahead of this version, holds another migration
    under one of its numbers or does not allow a change, and `StoreUnavailable` when it cannot be
    reached.
    """
    steps = migrations() if known is None else known
    applied: list[str] = []
    with translated(address_of(dsn)):
        connector = Connector(dsn, primary=True, timeout=_CONNECT_TIMEOUT, tls_strict=tls_strict)
        # Each step is a transaction. Behind a pooler, each may have another session.
        connection = await connector(statement_cache_size=0)
        try:
            while (step := await _step(connection, schema, steps)) is not None:
                applied.append(f"{step.version:04}_{step.name}")
        except asyncpg.InsufficientPrivilegeError as error:
            raise MigrationError(
                f"{error.args[0]}; run this as the owner of schema {quoted(schema)}"
            ) from error
        finally:
            await connection.close(timeout=_CONNECT_TIMEOUT)
    return applied


async def pending(dsn: str, schema: str = "public", *, tls_strict: bool = False) -> list[Migration]:
    """Return the migrations that `migrate` would apply, and change nothing. Raises like `migrate`."""
    known = migrations()
    with translated(address_of(dsn)):
        connector = Connector(dsn, primary=True, timeout=_CONNECT_TIMEOUT, tls_strict=tls_strict)
        connection = await connector(statement_cache_size=0)
        try:
            async with connection.transaction(readonly=True):
                await connection.execute("SELECT set_config('search_path', $1, true)", quoted(schema))
                recorded = await _recorded(connection)
        finally:
            await connection.close(timeout=_CONNECT_TIMEOUT)
    _compare(recorded, known)
    return [migration for migration in known if migration.version not in recorded]


def script(pending: Sequence[Migration], schema: str, *, first: bool) -> str:
    """Return SQL that does what `migrate` does with these migrations. `first`: there is no ledger yet."""
    parts = [f"CREATE SCHEMA IF NOT EXISTS {quoted(schema)};"] if first and pending else []
    for migration in pending:
        ledger = f"{_CREATE_LEDGER.strip()};\n" if first and migration is pending[0] else ""
        parts.append(
            f"-- migration {migration.version:04}_{migration.name}\n"
            f"BEGIN;\nSET LOCAL search_path = {quoted(schema)};\n{ledger}{migration.sql.strip()}\n"
            f"INSERT INTO {quoted(schema)}.gateway_migrations (version, name, checksum) VALUES"
            f" ({migration.version}, '{migration.name}', '{migration.checksum}');\nCOMMIT;"
        )
    return "\n\n".join(parts)


async def _step(
    connection: "asyncpg.Connection[asyncpg.Record]", schema: str, known: Sequence[Migration]
) -> Migration | None:
    """Apply the next migration, if there is one. The transaction holds the lock."""
    async with connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock($1)", _LOCK)
        await connection.execute("SELECT set_config('search_path', $1, true)", quoted(schema))
        await _create_schema_if_missing(connection, schema)
        recorded = await _recorded(connection)
        _compare(recorded, known)
        migration = next((m for m in known if m.version not in recorded), None)
        if migration is None:
            return None
        if not recorded:
            await connection.execute(_CREATE_LEDGER)
        await connection.execute(migration.sql)
        await connection.execute(
            "INSERT INTO gateway_migrations (version, name, checksum) VALUES ($1, $2, $3)",
            migration.version, migration.name, migration.checksum,
        )  # fmt: skip
        return migration


async def _create_schema_if_missing(connection: "asyncpg.Connection[asyncpg.Record]", schema: str) -> None:
    # IF NOT EXISTS would need the right to create a schema even if the schema exists.
    if await connection.fetchval("SELECT to_regnamespace($1)", quoted(schema)) is None:
        await connection.execute(f"CREATE SCHEMA {quoted(schema)}")


async def _recorded(connection: "asyncpg.Connection[asyncpg.Record]") -> dict[int, tuple[str, str]]:
    """Return name and checksum of each applied migration by version."""
    if await connection.fetchval("SELECT to_regclass('gateway_migrations')") is None:
        return {}
    rows = await connection.fetch("SELECT version, name, checksum FROM gateway_migrations")
    return {row["version"]: (row["name"], row["checksum"]) for row in rows}


def _compare(recorded: dict[int, tuple[str, str]], known: Sequence[Migration]) -> None:
    by_version = {migration.version: migration for migration in known}
    for version, (name, checksum) in sorted(recorded.items()):
        migration = by_version.get(version)
        if migration is None:
            raise MigrationError(
                f"the database is ahead: it has migration {version:04}_{name}, which this version of gateway"
                " does not know; run the newer version"
            )
        if migration.checksum != checksum:
            raise MigrationError(
                f"migration {version:04}_{name} was applied with another content than this version of gateway"
                f" has under that number ({migration.name}); the tables may differ from what it expects"
            )
