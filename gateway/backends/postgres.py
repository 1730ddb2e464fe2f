"""Postgres, the system of record: the pool, the hot path's two statements, one place for its errors.

The hot path reads `users`, `identities` and `revocations` and writes nothing. Behind PgBouncer in
transaction mode, let PgBouncer track prepared statements (`max_prepared_statements`) and give the
role its `search_path` and `statement_timeout`, which PgBouncer must be told to ignore at start-up.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Final, TypeAlias

import asyncpg
import orjson

from gateway.backends.availability import Availability
from gateway.backends.migrate import migrate
from gateway.backends.postgres_errors import address_of, quoted, translated
from gateway.backends.revocations import Revocation, Revocations
from gateway.core.model import Claims, Identity, StoreUnavailable, User, UserStatus

__all__ = ["USER_COLUMNS", "Connection", "Postgres", "migrate", "user_from_row"]

Connection: TypeAlias = "asyncpg.pool.PoolConnectionProxy[asyncpg.Record]"

_GRACE: Final = 0.25
"""Seconds beyond the server's own statement timeout until the client stops waiting."""

USER_COLUMNS: Final = """
u.id::text AS id, u.status, u.tenant, u.email, u.display_name, u.roles, u.attributes,
extract(epoch FROM u.tokens_valid_after)::float8 AS tokens_valid_after
"""

_FIND_USER: Final = f"""
SELECT {USER_COLUMNS}
FROM identities i JOIN users u ON u.id = i.user_id
WHERE i.issuer = $1 AND i.subject = $2
"""  # noqa: S608 -- a constant list of columns; values travel as parameters

_FIND_USER_AND_REVOCATIONS: Final = f"""
WITH counting AS (
    SELECT kind, issuer, value, extract(epoch FROM revoked_at)::float8 AS revoked_at
    FROM revocations WHERE expires_at IS NULL OR expires_at > now()
)
SELECT found.*,
    EXISTS (SELECT FROM counting WHERE kind = 'jti' AND issuer IN ($3, $1) AND value = $4) AS token_revoked,
    (SELECT max(revoked_at) FROM counting WHERE kind = 'user' AND issuer = '' AND value = found.id)
        AS user_revoked_at,
    (SELECT max(revoked_at) FROM counting WHERE kind = 'issuer' AND issuer IN ($3, $1) AND value = '')
        AS issuer_revoked_at
FROM (VALUES (true)) AS always LEFT JOIN (
    SELECT {USER_COLUMNS}
    FROM identities i JOIN users u ON u.id = i.user_id
    WHERE i.issuer = $1 AND i.subject = $2
) AS found ON true
"""  # noqa: S608 -- a constant list of columns; values travel as parameters

_COUNTING_REVOCATIONS: Final = """
SELECT kind, issuer, value,
    extract(epoch FROM revoked_at)::float8 AS revoked_at,
    extract(epoch FROM expires_at)::float8 AS expires_at
FROM revocations WHERE expires_at IS NULL OR expires_at > now()
"""


class Postgres:
    """A pool of connections that opens when first needed and recovers by itself.

    Durations are seconds. `pool_min` connections are opened by `warm`; idle ones are closed after
    five minutes. Every method raises `StoreUnavailable` when the database cannot answer, and never
    takes that for an answer.
    """

    def __init__(
        self,
        dsn: str,
        *,
        schema: str = "public",
        pool_min: int = 0,
        pool_max: int = 10,
        connect_timeout: float = 2.0,
        statement_timeout: float = 1.0,
        availability: Availability | None = None,
    ) -> None:
        self._dsn = dsn
        self.address = address_of(dsn)
        """Host and port, for messages."""
        self.availability = availability or Availability()
        self._schema = schema
        self._pool_min = min(pool_min, pool_max)
        self._pool_max = pool_max
        self._connect_timeout = connect_timeout
        self._statement_timeout = statement_timeout
        self._pool: asyncpg.Pool[asyncpg.Record] | None = None

    async def find_user(self, identity: Identity) -> User | None:
        """Return the user behind an identity, or None when there is none."""
        async with self.connection() as connection:
            row = await connection.fetchrow(_FIND_USER, identity.issuer, identity.subject)
            return None if row is None else user_from_row(row)

    async def find_user_and_revocations(self, claims: Claims) -> tuple[User | None, Revocations]:
        """Return the user behind a token and what is known against it, both by one query."""
        async with self.connection() as connection:
            row = await connection.fetchrow(
                _FIND_USER_AND_REVOCATIONS, claims.issuer, claims.subject, claims.issuer_name, claims.jti
            )
            if row is None:
                raise ValueError("a query that always has one row had none")
            user = None if row["id"] is None else user_from_row(row)
            revocations = Revocations(row["token_revoked"], row["user_revoked_at"], row["issuer_revoked_at"])
            return user, revocations

    async def counting_revocations(self) -> list[Revocation]:
        """Return every revocation that has not expired, without reason and author."""
        async with self.connection() as connection:
            return [Revocation(**dict(row)) for row in await connection.fetch(_COUNTING_REVOCATIONS)]

    async def ping(self) -> None:
        """Find out whether the hot path could be served: connected, migrated, permitted."""
        async with self.connection() as connection:
            await connection.fetchrow(_FIND_USER, "", "")

    async def warm(self) -> None:
        """Open the pool's first connections ahead of the requests that need them."""
        with self._observed(answers=False):
            pool = await self._opened()
            waiting = (pool.acquire(timeout=self._connect_timeout) for _ in range(self._pool_min))
            opened = await asyncio.gather(*waiting, return_exceptions=True)
            failures = [result for result in opened if isinstance(result, BaseException)]
            for result in opened:
                if not isinstance(result, BaseException):
                    await pool.release(result)
            if failures:
                raise failures[0]

    async def close(self) -> None:
        """Close all connections."""
        pool, self._pool = self._pool, None
        if pool is not None:
            with suppress(TimeoutError):
                # A pool whose closing is given up terminates its connections.
                await asyncio.wait_for(pool.close(), self._statement_timeout + _GRACE)

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """Lend a connection; whatever goes wrong with it is raised as `StoreUnavailable`."""
        with self._observed():
            pool = await self._opened()
            async with pool.acquire(timeout=self._connect_timeout) as connection:
                yield connection

    @contextmanager
    def _observed(self, *, answers: bool = True) -> Iterator[None]:
        """Translate errors, and note them; unless `answers`, success says nothing of the tables."""
        try:
            with translated(self.address):
                yield
        except StoreUnavailable as error:
            self.availability.failed(error.detail)
            raise
        if answers:
            self.availability.answered()

    async def _opened(self) -> "asyncpg.Pool[asyncpg.Record]":
        if self._pool is None:
            # Without a minimum a pool opens without connecting, and so while the server is down.
            self._pool = await asyncpg.create_pool(
                self._dsn,
                min_size=0,
                max_size=self._pool_max,
                timeout=self._connect_timeout,
                command_timeout=self._statement_timeout + _GRACE,
                reset=_leave_as_it_is,
                server_settings={
                    "application_name": "gateway",
                    "search_path": quoted(self._schema),
                    "statement_timeout": str(max(1, round(self._statement_timeout * 1000))),
                },
            )
        return self._pool


async def _leave_as_it_is(_: "asyncpg.Connection[asyncpg.Record]") -> None:
    """Spare the round trip that resets a session: nothing here changes one."""


def user_from_row(row: asyncpg.Record) -> User:
    """Read `USER_COLUMNS`. Raises ValueError on a row that the migrations do not allow."""
    return User(
        id=row["id"],
        status=UserStatus(row["status"]),
        tenant=row["tenant"],
        email=row["email"],
        display_name=row["display_name"],
        roles=tuple(row["roles"]),
        attributes=orjson.loads(row["attributes"]),
        tokens_valid_after=row["tokens_valid_after"],
    )
