"""How tests reach a database as another program does."""

from urllib.parse import urlsplit

import asyncpg


async def execute(dsn: str, *statements: str) -> None:
    """Execute statements over a connection of their own, each in its own transaction."""
    connection = await asyncpg.connect(dsn)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


def as_role(dsn: str, role: str, password: str) -> str:
    """Return the DSN by which another role reaches the same database."""
    parts = urlsplit(dsn)
    return parts._replace(netloc=f"{role}:{password}@{parts.netloc.rpartition('@')[2]}").geturl()
