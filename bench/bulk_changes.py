"""Statements that change many rows, with and without the triggers that notify gateways."""
# ruff: noqa: S608 -- statements with numbers and names of our own

import asyncio
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Final
from urllib.parse import urlsplit

import asyncpg
from rich.console import Console

from bench.processes import moved
from bench.report import Report, Target
from bench.source import create
from bench.stage import Stage
from gateway.stores.postgres.migrate import migrate

ROWS: Final = 200_000
_TIMEOUT: Final = 600.0
_TABLES: Final = ("users", "identities", "revocations")
_SOURCE_TABLES: Final = ("auth_user", "social_auth_usersocialauth", "auth_user_groups")

_USERS: Final = (
    "INSERT INTO users (email, display_name, attributes)"
    " SELECT 'u' || g || '@example.com', 'User ' || g, '{\"plan\": \"pro\"}'"
    f" FROM generate_series(1, {ROWS}) AS g"
)
_IDENTITIES: Final = (
    "INSERT INTO identities SELECT 'https://a.example/', 's' || row_number() OVER (), id FROM users"
)
_REVOCATIONS: Final = (
    "INSERT INTO revocations (kind, issuer, value, expires_at)"
    f" SELECT 'jti', 'main', 'token-' || g, now() + interval '1 hour' FROM generate_series(1, {ROWS}) AS g"
)


_AUTH_USERS: Final = (
    "INSERT INTO auth_user (password, is_superuser, username, first_name, last_name, email, is_staff,"
    " is_active, date_joined) SELECT '!', false, 'u' || g, 'A', 'User', 'u' || g || '@example.com', false,"
    f" true, now() FROM generate_series(1, {ROWS}) AS g"
)
_SOCIAL: Final = (
    "INSERT INTO social_auth_usersocialauth (provider, uid, extra_data, user_id, created, modified)"
    " SELECT 'oidc', username, '{}', id, now(), now() FROM auth_user"
)
_GROUPS: Final = (
    "INSERT INTO auth_user_groups (user_id, group_id) SELECT u.id, g.id FROM auth_user u, auth_group g"
)


_ONE_ROW_IN_A_SOURCE: Final = """
INSERT INTO auth_user (password, is_superuser, username, first_name, last_name, email, is_staff, is_active,
    date_joined) VALUES ('!', false, 'one', '', '', '', false, true, now());
INSERT INTO social_auth_usersocialauth (provider, uid, extra_data, user_id, created, modified)
    SELECT 'oidc', 'one', '{}', id, now(), now() FROM auth_user;
INSERT INTO auth_user_groups (user_id, group_id) SELECT u.id, g.id FROM auth_user u, auth_group g;
UPDATE auth_user SET is_active = false;
UPDATE auth_user SET last_login = now();
UPDATE social_auth_usersocialauth SET uid = 'other';
DELETE FROM auth_user_groups;
DELETE FROM social_auth_usersocialauth;
DELETE FROM auth_user;
"""


@dataclass(frozen=True, slots=True)
class _Case:
    title: str
    before: Sequence[str]
    """Statements that are executed before."""
    statement: str
    source: bool = False
    """Whether the tables are those of another system."""


_CASES: Final = (
    _Case("users: insert", [], _USERS),
    _Case("users: update", [_USERS, _IDENTITIES], "UPDATE users SET status = 'suspended'"),
    _Case("users: delete, identities with them", [_USERS, _IDENTITIES], "DELETE FROM users"),
    _Case("identities: insert", [_USERS], _IDENTITIES),
    _Case("identities: update", [_USERS, _IDENTITIES], "UPDATE identities SET subject = 'x' || subject"),
    _Case("identities: delete", [_USERS, _IDENTITIES], "DELETE FROM identities"),
    _Case("revocations: insert", [], _REVOCATIONS),
    _Case(
        "revocations: update", [_REVOCATIONS], "UPDATE revocations SET expires_at = now() + interval '1 day'"
    ),
    _Case("revocations: delete", [_REVOCATIONS], "DELETE FROM revocations"),
    _Case("a source: users inserted", [], _AUTH_USERS, source=True),
    _Case(
        "a source: users updated",
        [_AUTH_USERS, _SOCIAL],
        "UPDATE auth_user SET is_active = false",
        source=True,
    ),
    _Case(
        "a source: an unused column updated",
        [_AUTH_USERS, _SOCIAL],
        "UPDATE auth_user SET last_login = now()",
        source=True,
    ),
    _Case("a source: identities inserted", [_AUTH_USERS], _SOCIAL, source=True),
    _Case("a source: roles deleted", [_AUTH_USERS, _GROUPS], "DELETE FROM auth_user_groups", source=True),
)

# A session keeps its query plans. These statements make it plan for one row.
_ONE_ROW_EACH: Final = """
INSERT INTO users DEFAULT VALUES;
INSERT INTO identities SELECT 'one', 'one', id FROM users;
UPDATE users SET status = 'locked';
UPDATE identities SET subject = 'other';
INSERT INTO revocations (kind, issuer, value) VALUES ('jti', 'one', 'one');
UPDATE revocations SET expires_at = now() + interval '1 hour';
DELETE FROM revocations;
DELETE FROM identities;
DELETE FROM users;
"""


def measure(stage: Stage, console: Console) -> Report:
    """Change all rows of a table in one statement. No gateway runs, because only Postgres is measured."""
    with moved(stage.cores.all):
        return asyncio.run(_measure(stage.postgres, console))


async def _measure(dsn: str, console: Console) -> Report:
    rows: list[dict[str, str | int | float]] = []
    targets = []
    for case in _CASES:
        console.print(f"  {case.title}", style="dim")
        without, _ = await _run(dsn, case, triggers=False)
        took, notices = await _run(dsn, case, triggers=True)
        limit = 2 * without + 1
        rows.append(
            {
                "statement": case.title,
                "without s": without,
                "with s": took,
                "÷": took / without,
                "notices": notices,
            }
        )
        targets.append(
            Target(
                f"{case.title}: ≤ 2 × without, and 1 s", f"{took:.2f} s of {limit:.2f} s", met=took <= limit
            )
        )
    return Report(
        title=f"One statement that changes {ROWS:,} rows", rows=rows, targets=targets,
        notes=[
            "without: ALTER TABLE … DISABLE TRIGGER USER; foreign keys and indexes are there in both",
            "the session has changed one row of each table before, and keeps the plans that it made for that",
        ],
    )  # fmt: skip


async def _run(dsn: str, case: _Case, *, triggers: bool) -> tuple[float, int]:
    """Execute a statement in a new database; return its seconds, and the number of notices it sent."""
    name = f"bulk_{uuid.uuid4().hex}"
    target = urlsplit(dsn)._replace(path=f"/{name}").geturl()
    server = await asyncpg.connect(dsn)
    await server.execute(f"CREATE DATABASE {name}")
    try:
        await (create(target) if case.source else migrate(target))
        return await _time(target, case, triggers=triggers)
    finally:
        await server.execute(f"DROP DATABASE {name} WITH (FORCE)")
        await server.close()


async def _time(dsn: str, case: _Case, *, triggers: bool) -> tuple[float, int]:
    heard: list[object] = []
    ear = await asyncpg.connect(dsn)
    session = await asyncpg.connect(dsn, command_timeout=_TIMEOUT)
    try:
        tables = _SOURCE_TABLES if case.source else _TABLES
        await session.execute(_ONE_ROW_IN_A_SOURCE if case.source else _ONE_ROW_EACH)
        await _set_triggers(session, tables, enabled=False)
        for statement in case.before:
            await session.execute(statement)
        await _set_triggers(session, tables, enabled=triggers)
        await session.execute("VACUUM")
        await session.execute("CHECKPOINT")
        await ear.add_listener("gateway_changes", lambda *notice: heard.append(notice))
        began = perf_counter()
        await session.execute(case.statement)
        took = perf_counter() - began
        # Notices that were sent before the answer to a statement have arrived with it.
        await ear.execute("SELECT")
        return took, len(heard)
    finally:
        await session.close()
        await ear.close()


async def _set_triggers(
    session: "asyncpg.Connection[asyncpg.Record]", tables: Sequence[str], *, enabled: bool
) -> None:
    for table in tables:
        await session.execute(f"ALTER TABLE {table} {'ENABLE' if enabled else 'DISABLE'} TRIGGER USER")
