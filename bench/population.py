"""Users in tables of their own, with tokens for some of them."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import asyncpg

from bench.tokens import ISSUER, Signer
from gateway.stores.postgres.migrate import migrate

_INSERT: Final = """
WITH made AS (
    INSERT INTO {schema}.users (tenant, email, display_name, roles)
    SELECT 'bench', subject || '@example.com', subject, '{{member}}'
    FROM generate_series(0, $2::integer - 1) AS n, format('user-%s', lpad(n::text, 6, '0')) AS subject
    RETURNING id, display_name
)
INSERT INTO {schema}.identities (issuer, subject, user_id) SELECT $1, display_name, id FROM made
"""


@dataclass(frozen=True, slots=True)
class Population:
    """The number of users, and the tokens that are sent."""

    schema: str
    users: int
    tokens: tuple[str, ...]
    tokens_file: Path
    """One token per line."""
    jwks_file: Path
    algorithm: str


def settle(
    folder: Path, dsn: str, *, schema: str, users: int, signer: Signer, holders: Sequence[int]
) -> Population:
    """Create the tables in a schema, `users` active users, and a token for each of the holders."""
    asyncio.run(_insert(dsn, schema, users))
    tokens = signer.tokens(holders)
    tokens_file, jwks_file = folder / f"{schema}.tokens", folder / f"{schema}.jwks.json"
    tokens_file.write_text("\n".join(tokens))
    jwks_file.write_text(signer.jwks)
    return Population(schema, users, tokens, tokens_file, jwks_file, signer.algorithm)


async def _insert(dsn: str, schema: str, users: int) -> None:
    await migrate(dsn, schema)
    connection = await asyncpg.connect(dsn)
    try:
        # Without triggers and foreign keys: no gateway listens yet, and a million rows are much faster.
        await connection.execute("SET session_replication_role = replica")
        await connection.execute(_INSERT.format(schema=schema), ISSUER, users)
        # Otherwise Postgres would do it by itself in the middle of a measurement.
        await connection.execute(f"VACUUM ANALYZE {schema}.users")
        await connection.execute(f"VACUUM ANALYZE {schema}.identities")
    finally:
        await connection.close()
