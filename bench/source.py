"""Users in tables of another system: the cost of a request, compared with the gateway's own tables."""

import asyncio
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final
from urllib.parse import urlsplit

import asyncpg
from rich.console import Console

from bench.gateways import Gateway
from bench.report import Report, Target
from bench.runs import columns, cpu_ratio
from bench.side_by_side import load_in_turn
from bench.stage import USERS, Stage
from bench.tokens import ISSUER, ISSUER_NAME
from gateway.core.model import JSON
from gateway.demo.django_like import TABLES
from gateway.settings import Settings
from gateway.stores.postgres.migrate import migrate
from gateway.stores.postgres.source.install import install
from gateway.stores.postgres.source.triggers import REMOVE
from gateway.translation import user_source

LIMIT: Final = 1.03
"""The target: CPU per request, as a multiple of that with own tables. Rounds differ by as much."""
SOURCE: Final[Mapping[str, JSON]] = {"preset": "django", "provider": "oidc"}
_OWN: Final = "own tables"
_ELSEWHERE: Final = "tables like Django's"

ADD_USERS: Final = """
WITH added AS (
    INSERT INTO auth_user (
        password, is_superuser, username, first_name, last_name, email, is_staff, is_active, date_joined
    ) SELECT '!', false, name, 'Bench', name, name || '@example.com', false, true, now()
    FROM generate_series(0, $1::integer - 1) AS n, format('user-%s', lpad(n::text, 6, '0')) AS name
    RETURNING id, username
), grouped AS (
    INSERT INTO auth_user_groups (user_id, group_id) SELECT added.id, g.id FROM added, auth_group g
)
INSERT INTO social_auth_usersocialauth (provider, uid, extra_data, user_id, created, modified)
SELECT 'oidc', username, '{}', id, now(), now() FROM added
"""


def measure(stage: Stage, console: Console, *, rounds: int, seconds: int, connections: int) -> Report:
    """Load two gateways with the same tokens in turn. Raises Refused."""
    with database(stage.postgres) as dsn:
        gateways = {_OWN: Gateway(stage, upstream=stage.upstream), _ELSEWHERE: over_source(stage, dsn)}
        runs = load_in_turn(stage, console, gateways, rounds=rounds, seconds=seconds, connections=connections)
    ratio = cpu_ratio(runs["repeat", _ELSEWHERE], runs["repeat", _OWN])
    return Report(
        title=f"Users in own tables and in those of another system, {connections} connections; median of"
        f" {rounds} × {seconds} s",
        rows=[{"users": title, **columns(own)} for (_, title), own in runs.items()],
        targets=[Target(f"CPU per request ≤ {LIMIT} × own tables", f"{ratio:.3f} ×", met=ratio <= LIMIT)],
    )


def over_source(stage: Stage, dsn: str, *, workers: int = 1, **source: JSON) -> Gateway:
    """Return a gateway whose users are in the tables of `database`; `source` changes `users.source`."""
    return Gateway(
        stage,
        upstream=stage.upstream,
        workers=workers,
        prefix=f"source-{uuid.uuid4().hex}:",
        postgres=dsn,
        source={**SOURCE, **source},
    )


@contextmanager
def database(dsn: str) -> Iterator[str]:
    """Create a database with both kinds of tables, and with the users of the stage in those like Django's."""
    name = f"source_{uuid.uuid4().hex}"
    target = urlsplit(dsn)._replace(path=f"/{name}").geturl()
    asyncio.run(_execute(dsn, f"CREATE DATABASE {name}"))
    try:
        asyncio.run(_settle(target))
        yield target
    finally:
        asyncio.run(_execute(dsn, f"DROP DATABASE {name} WITH (FORCE)"))


def remove_triggers(dsn: str) -> None:
    """Remove the triggers of `database`. Also a gateway that polls would hear what they report."""
    asyncio.run(_execute(dsn, REMOVE))


async def _execute(dsn: str, statement: str) -> None:
    connection = await asyncpg.connect(dsn)
    await connection.execute(statement)
    await connection.close()


async def _settle(dsn: str) -> None:
    await create(dsn)
    connection = await asyncpg.connect(dsn)
    await connection.execute(ADD_USERS, USERS)
    for table in ("auth_user", "social_auth_usersocialauth", "auth_user_groups"):
        await connection.execute(f"VACUUM ANALYZE {table}")
    await connection.close()


async def create(dsn: str) -> None:
    """Create both kinds of tables, without users, and install the triggers."""
    await migrate(dsn)
    await _execute(dsn, TABLES)
    await _execute(dsn, "INSERT INTO auth_group (name) VALUES ('member')")
    content = {
        "issuers": [{"name": ISSUER_NAME, "issuer": ISSUER, "audiences": ["api"]}],
        "postgres": {"dsn": dsn},
        "redis": {"url": "redis://localhost"},
        "upstreams": {"service": {"urls": ["http://localhost"]}},
        "routes": [{"name": "all", "match": {"path": "/**"}, "upstream": "service"}],
        "users": {"source": dict(SOURCE)},
    }
    source = user_source(Settings.model_validate(content))
    if source is not None:
        await install(dsn, source, {ISSUER_NAME: ISSUER})
