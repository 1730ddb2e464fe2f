"""Another `users.source` than before: what Redis still has from the earlier configuration counts no more."""
# ruff: noqa: S608 -- a statement with a name of the tests' own

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from gateway.core.model import JSON
from tests import tokens
from tests.harness import open_house
from tests.sql import execute
from tests.users_elsewhere.gateways import (
    OWN_SCHEMA,
    ROUTES,
    SLOW,
    crowd,
    in_memory,
    install_triggers,
    token,
)

TABLES = f"""
CREATE TABLE person (id integer PRIMARY KEY, subject text UNIQUE, active boolean, role text);
INSERT INTO person VALUES (1, 'ann', false, 'editor'), (2, 'bob', true, 'editor');
INSERT INTO {OWN_SCHEMA}.users (id) VALUES ('00000000-0000-0000-0000-000000000001');
INSERT INTO {OWN_SCHEMA}.identities (issuer, subject, user_id)
    VALUES ('{tokens.ISSUER}', 'ann', '00000000-0000-0000-0000-000000000001'),
        ('{tokens.ISSUER}', 'bob', '00000000-0000-0000-0000-000000000001');
"""
EVERYONE: dict[str, Any] = {
    "table": "person",
    "id": "id",
    "issuer": "main",
    "roles": "role",
    "identities": [{"subject": "subject"}],
}
STRICT = {**EVERYONE, "status": [{"when": "NOT active", "is": "suspended"}]}
WITHOUT_ROLES = {**EVERYONE, "roles": None}

# The triggers of these two are the same.
BY_QUERY = {**EVERYONE, "roles": {"query": "SELECT role FROM person WHERE id = $1"}}
WITHOUT_ROLES_BY_QUERY = {**EVERYONE, "roles": {"query": "SELECT 'reader' WHERE $1 > 0"}}


@pytest.mark.parametrize(
    ("before", "after", "path", "expected"),
    [
        pytest.param(None, STRICT, "/private/x", "user_suspended", id="own tables before"),
        pytest.param(EVERYONE, STRICT, "/private/x", "user_suspended", id="without a status before"),
        pytest.param(EVERYONE, WITHOUT_ROLES, "/editors/x", "role_missing", id="other roles before"),
        pytest.param(
            BY_QUERY, WITHOUT_ROLES_BY_QUERY, "/editors/x", "role_missing", id="another query before"
        ),
        pytest.param(STRICT, None, "/private/x", 200, id="own tables afterwards"),
    ],
)
async def test_users_remembered_for_another_configuration_do_not_count(
    before: Mapping[str, Any] | None,
    after: Mapping[str, Any] | None,
    path: str,
    expected: object,
    shared_dsn: str,
    redis_url: str,
    tmp_path: Path,
) -> None:
    await execute(shared_dsn, TABLES)

    def sections(block: Mapping[str, Any] | None) -> dict[str, Any]:
        users: dict[str, JSON] = {} if block is None else {"source": dict(block)}
        return {"postgres": {"schema": OWN_SCHEMA}, "users": users, "cache": dict(SLOW), "routes": ROUTES}

    # As while a gateway is reloaded: the earlier one still runs, and keeps what it has put into Redis.
    async with open_house(tmp_path, shared_dsn, redis_url, seeded=False, **sections(before)) as first:
        if before is not None:
            await install_triggers(shared_dsn, before)
        await first.ready()
        async with crowd(first.url, 1) as clients:
            await in_memory(first, clients, token("ann"))
        if after is not None:
            await install_triggers(shared_dsn, after)
        async with (
            open_house(
                tmp_path, shared_dsn, redis_url, seeded=False, prefix=first.prefix, **sections(after)
            ) as second,
            crowd(second.url, 2) as clients,
        ):
            # It trusts what is in Redis from then on.
            await in_memory(second, clients, token("bob"))
            for _ in range(20):
                assert await clients.outcomes(token("ann"), path) == {expected}
