"""What `gateway adopt` prints is pasted as it is: users sign in then, and those who may not are refused."""

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from typer.testing import CliRunner

from gateway.app import serve
from gateway.cli.main import app
from gateway.settings import Settings
from tests import tokens
from tests.harness import House, write_jwks
from tests.sockets import RawUpstream
from tests.sql import execute
from tests.systems.fixtures import SYSTEMS, _system_templates, system, systems
from tests.systems.system import System

__all__ = ["_system_templates", "system", "systems"]

MEMBERS: Final = (
    "CREATE SCHEMA crm",
    "CREATE TYPE crm.state AS ENUM ('active', 'invited', 'blocked')",
    """CREATE TABLE crm."Members" ("memberId" bigint PRIMARY KEY, "eMail" text, state crm.state NOT NULL,"""
    ' "validUntil" timestamp, "tenantId" uuid NOT NULL)',
    "CREATE TABLE crm.member_logins (provider text NOT NULL, external_id text NOT NULL,"
    ' "memberId" bigint REFERENCES crm."Members", UNIQUE (external_id, provider))',
    "CREATE TABLE crm.roles (id int PRIMARY KEY, name text)",
    'CREATE TABLE crm.member_roles (member_id bigint REFERENCES crm."Members",'
    " role_id int REFERENCES crm.roles)",
    """INSERT INTO crm."Members" SELECT i, i || '@example.com', 'active', NULL, gen_random_uuid()"""
    " FROM generate_series(1, 20) i",
    "INSERT INTO crm.member_logins SELECT 'google', 'g' || i, i FROM generate_series(1, 20) i",
    "INSERT INTO crm.roles VALUES (1, 'admin')",
    "INSERT INTO crm.member_roles VALUES (1, 1)",
)
USERS: Final = (
    "CREATE TABLE users (id uuid PRIMARY KEY, auth0_id text UNIQUE, email text NOT NULL,"
    " status text NOT NULL DEFAULT 'active', banned_until timestamptz, roles text[] NOT NULL DEFAULT '{}')",
    "INSERT INTO users (id, auth0_id, email)"
    " SELECT ('00000000-0000-0000-0000-' || lpad(i::text, 12, '0'))::uuid, 'g' || i, i || '@example.com'"
    " FROM generate_series(1, 20) i",
    "UPDATE users SET roles = '{admin}' WHERE auth0_id = 'g1'",
)


async def run(*words: str, stdin: str | None = None) -> str:
    """Run a command of the gateway, which succeeds; return what it wrote to stdout."""
    result = await asyncio.to_thread(CliRunner().invoke, app, words, input=stdin)
    assert result.exit_code == 0, result.output
    return result.stdout


async def configured(folder: Path, dsn: str, redis_url: str, upstream: str, subjects: list[str]) -> Path:
    """Paste what `gateway adopt` prints into a configuration, and run the commands that it names."""
    printed = await run(
        "adopt", "--dsn", dsn, "--issuer", "main", "--subjects", "-", stdin="\n".join(subjects)
    )
    rest: dict[str, Any] = {
        "server": {"listen": "127.0.0.1:0", "workers": 1},
        "admin": {"listen": "127.0.0.1:0"},
        "issuers": [
            {
                "name": name,
                "issuer": tokens.ISSUER if name == "main" else "https://other.example.com",
                "audiences": [tokens.AUDIENCE],
                "keys": {"jwks_file": str(write_jwks(folder / "jwks.json", tokens.rsa_key("main")))},
            }
            for name in ("main", "other")
        ],
        # No schema of the tests' role's own name: its other sessions would find that first.
        "postgres": {"dsn": dsn, "schema": "gateway_own", "pool_min": 1, "statement_timeout": "10s"},
        "redis": {"url": redis_url, "prefix": f"gateway-{uuid.uuid4().hex}:", "timeout": "2s"},
        "upstreams": {"raw": {"urls": [upstream]}},
        "routes": [
            {
                "name": "admin",
                "match": {"path": "/admin"},
                "upstream": "raw",
                "require": {"roles": ["admin"]},
            },
            {"name": "all", "match": {"path": "/**"}, "upstream": "raw"},
        ],
    }
    config = folder / "gateway.yaml"
    config.write_text(yaml.safe_dump(rest) + printed)
    commands = [line.removeprefix("#   ") for line in printed.splitlines() if line.startswith("#   gateway ")]
    assert len(commands) == 3
    for command in [part for line in commands for part in line.split(" && ")]:
        words = command.split()[1:]
        if words != ["check", "--live"]:  # it tries the upstream, which closes such a connection at once
            await run(*words, "--config", str(config))
    return config


@asynccontextmanager
async def gateway(folder: Path, dsn: str, redis_url: str, subjects: list[str]) -> AsyncIterator[House]:
    async with RawUpstream() as upstream:
        config = await configured(folder, dsn, redis_url, upstream.url, subjects)
        settings = Settings.model_validate(yaml.safe_load(config.read_text()))
        async with serve(settings) as running:
            yield House(running.url, running.admin_url, upstream, dsn, redis_url, settings.redis.prefix)


def token(subject: str, issuer: str = tokens.ISSUER) -> bytes:
    claims = {**tokens.claims(subject, jti=uuid.uuid4().hex), "iss": issuer}
    return tokens.sign(claims, tokens.rsa_key("main"))


async def code(house: House, subject: str, path: str = "/", issuer: str = tokens.ISSUER) -> str:
    """Return the code of the answer to a token: a reason, or `ok`."""
    response = await house.request(path, token=token(subject, issuer))
    return "ok" if response.status == 200 else str(json.loads(response.content)["code"])


async def refused(house: House, subject: str, act: Callable[[], Awaitable[object]]) -> None:
    """Do what makes the gateway refuse a user whom it knows, and wait until it does."""
    assert await code(house, subject) == "ok"
    await act()
    async with asyncio.timeout(20):
        while await code(house, subject) == "ok":  # noqa: ASYNC110 -- the gateway hears of it
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("system", SYSTEMS, indirect=True)
async def test_a_system_that_is_recognised(system: System, tmp_path: Path, redis_url: str) -> None:
    people = await system.add(20)
    first, second, third, *_ = people
    if system.has_roles:
        await system.grant(first, "admin")
    if system.suspends:
        await system.suspend(third)

    async with gateway(tmp_path, system.dsn, redis_url, [each.subject for each in people]) as house:
        received = await house.forwarded("/", token=token(first.subject))
        assert received.values(b"x-user-id") == [first.id.encode()]
        assert await code(house, first.subject, issuer="https://other.example.com") != "ok"
        assert await code(house, "nobody") != "ok"
        if system.has_roles:
            assert await code(house, first.subject, "/admin") == "ok"
            assert await code(house, second.subject, "/admin") == "role_missing"
        if system.suspends:
            assert await code(house, third.subject) != "ok"
            await refused(house, second.subject, lambda: system.suspend(second))
        await refused(house, first.subject, lambda: system.delete(first))


@pytest.mark.parametrize(
    ("tables", "suspend"),
    [
        (MEMBERS, """UPDATE crm."Members" SET state = 'blocked' WHERE "memberId" = 2"""),
        (MEMBERS, """UPDATE crm."Members" SET "validUntil" = '2020-01-01' WHERE "memberId" = 2"""),
        (USERS, "UPDATE users SET status = 'on leave' WHERE auth0_id = 'g2'"),
        (USERS, "UPDATE users SET banned_until = now() + interval '1 day' WHERE auth0_id = 'g2'"),
    ],
)
async def test_tables_of_ones_own(
    empty_dsn: str, tables: tuple[str, ...], suspend: str, tmp_path: Path, redis_url: str
) -> None:
    await execute(empty_dsn, *tables)

    async with gateway(tmp_path, empty_dsn, redis_url, [f"g{i}" for i in range(1, 15)]) as house:
        assert await code(house, "g1", "/admin") == "ok"
        assert await code(house, "g2", "/admin") == "role_missing"
        assert await code(house, "g2", issuer="https://other.example.com") != "ok"
        await refused(house, "g2", lambda: execute(empty_dsn, suspend))
        assert await code(house, "g1") == "ok"
