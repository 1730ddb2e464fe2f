"""Postgres, the system of record: the hot path's two statements, and what else a running gateway asks.

The hot path reads `users`, `identities` and `revocations` and writes nothing.
How they are sent behind a pooler is in `statements`.
"""

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Final

import asyncpg
import orjson
import structlog

from gateway.core import json_text
from gateway.core.model import (
    JSON,
    NO_ATTRIBUTES,
    Claims,
    Identity,
    RecordUnusable,
    StoreUnavailable,
    Tier,
    User,
    UserStatus,
    shared,
)
from gateway.core.revocations import Learning, Learnt, Revocation, Revocations, Target
from gateway.stores.availability import Availability
from gateway.stores.postgres.errors import is_lasting
from gateway.stores.postgres.migrate import migrate
from gateway.stores.postgres.pool import Connection, Pool
from gateway.stores.postgres.requirements import Shortcoming, shortcomings
from gateway.stores.postgres.statements import PreparedStatements
from gateway.stores.system_of_record import SystemOfRecord

__all__ = ["USER_COLUMNS", "Connection", "FoundUser", "Postgres", "migrate", "user_from_row"]

log: structlog.stdlib.BoundLogger = structlog.get_logger()

USER_COLUMNS: Final = """
u.id::text AS id, u.status, u.tenant, u.email, u.display_name, u.roles, u.attributes,
extract(epoch FROM u.tokens_valid_after)::float8 AS tokens_valid_after
"""

# Where `row_security = off` does not reach, since a pooler drops it, filtered rows would look like no rows.
_FILTERED: Final = """
CASE WHEN row_security_active('users'::regclass) THEN 'users'
    WHEN row_security_active('identities'::regclass) THEN 'identities' END AS filtered
"""

# One row always, so that the absence of a user has its horizon too: that of the statement's snapshot.
_FOUND: Final = f"""
pg_snapshot_xmin(pg_current_snapshot())::text::bigint AS horizon, {_FILTERED}, found.*
FROM (VALUES (true)) AS always LEFT JOIN (
    SELECT {USER_COLUMNS}
    FROM identities i JOIN users u ON u.id = i.user_id
    WHERE i.issuer = $1 AND i.subject = $2
) AS found ON true
"""  # noqa: S608 -- a constant list of columns; values travel as parameters

_FIND_USER: Final = f"SELECT {_FOUND}"

# Each look-up is by the primary key: what is used three times would be read whole first, and stored.
_FIND_USER_AND_REVOCATIONS: Final = f"""
WITH counting AS NOT MATERIALIZED (
    SELECT kind, issuer, value, extract(epoch FROM revoked_at)::float8 AS revoked_at
    FROM revocations WHERE gateway_counts(expires_at)
)
SELECT
    row_security_active('revocations'::regclass) AS revocations_filtered,
    EXISTS (SELECT FROM counting WHERE kind = 'jti' AND issuer IN ($3, $1) AND value = $4)
        OR learnt.of_token AS token_revoked,
    greatest(
        (SELECT max(revoked_at) FROM counting WHERE kind = 'user' AND issuer = '' AND value = found.id),
        learnt.of_user
    ) AS user_revoked_at,
    greatest(
        (SELECT max(revoked_at) FROM counting WHERE kind = 'issuer' AND issuer IN ($3, $1) AND value = ''),
        learnt.of_issuer
    ) AS issuer_revoked_at,
    {_FOUND}
LEFT JOIN LATERAL (
    SELECT coalesce(bool_or(kind = 'jti'), false) AS of_token,
        extract(epoch FROM max(revoked_at) FILTER (WHERE kind = 'user'))::float8 AS of_user,
        extract(epoch FROM max(revoked_at) FILTER (WHERE kind = 'issuer'))::float8 AS of_issuer
    FROM gateway_learnt_revocations(
        ARRAY['jti', 'jti', 'user', 'issuer', 'issuer'],
        ARRAY[$3, $1, '', $3, $1],
        ARRAY[$4, $4, found.id, '', '']
    ) WHERE gateway_counts(expires_at)
) AS learnt ON true
"""  # noqa: S608 -- a constant list of columns; values travel as parameters

_COUNTING: Final = """
SELECT kind, issuer, value,
    extract(epoch FROM revoked_at)::float8 AS revoked_at,
    extract(epoch FROM nullif(expires_at, 'infinity') - now())::float8 AS expires_in
"""
_COUNTING_REVOCATIONS: Final = f"""
{_COUNTING} FROM revocations WHERE gateway_counts(expires_at)
UNION ALL
{_COUNTING} FROM gateway_learnt_revocations(NULL, NULL, NULL) WHERE gateway_counts(expires_at)
"""
_COUNTING_AMONG: Final = f"""
{_COUNTING} FROM revocations WHERE gateway_counts(expires_at)
AND (kind, issuer, value) IN (SELECT * FROM unnest($1::text[], $2::text[], $3::text[]))
UNION ALL
{_COUNTING} FROM gateway_learnt_revocations($1, $2, $3) WHERE gateway_counts(expires_at)
"""  # noqa: S608 -- a constant query; values travel as parameters
_REVOCATIONS_FILTERED: Final = "SELECT row_security_active('revocations'::regclass)"


# What the role may not call fails before the query begins, so that is asked first.
_IDENTIFIABLE: Final = """
SELECT oid::bigint, datname::text AS database,
    coalesce(has_function_privilege(to_regprocedure('pg_control_system()'), 'EXECUTE'), false) AS has_system,
    coalesce(has_function_privilege(to_regprocedure('gateway_database_copy()'), 'EXECUTE'), false) AS has_copy
FROM pg_database WHERE datname = current_database()
"""

_STATUSES: Final = frozenset(UserStatus)
_NO_IDENTITY: Final = Identity("", "")
"""Whom no row can be about: an `iss` is not empty."""


@dataclass(frozen=True, slots=True)
class FoundUser:
    """What Postgres knows of one identity, and as of when."""

    user: User | None
    """None: no user is behind it."""
    horizon: int
    """The changes of every transaction with a lower id are in `user` (`pg_snapshot_xmin`)."""


class Postgres:
    """The primary and, if there is one, a replica; their connections open when first needed.

    Durations are seconds. `pool_min` connections are opened by `warm`. Every method raises
    `StoreUnavailable` when the database cannot answer, and never takes that for an answer.
    """

    def __init__(
        self,
        dsn: str,
        *,
        replica_dsn: str | None = None,
        schema: str = "public",
        pool_min: int = 0,
        pool_max: int = 10,
        connect_timeout: float = 2.0,
        statement_timeout: float = 1.0,
        prepared_statements: PreparedStatements = "auto",
        availability: Availability | None = None,
        replica_availability: Availability | None = None,
        tls_strict: bool = False,
        heard: Callable[[SystemOfRecord], None] | None = None,
    ) -> None:
        """`heard` is told which system of record the primary is, whenever a connection to it is opened."""
        self._heard = heard
        self._schema = schema

        def pool(dsn: str, availability: Availability | None, *, primary: bool) -> Pool:
            return Pool(
                dsn,
                primary=primary,
                schema=schema,
                size=pool_max,
                connect_timeout=connect_timeout,
                statement_timeout=statement_timeout,
                prepared_statements=prepared_statements,
                availability=availability or Availability(),
                tls_strict=tls_strict,
                opened=self._introduce if primary and heard is not None else None,
            )

        self._primary = pool(dsn, availability, primary=True)
        self._replica = (
            None if replica_dsn is None else pool(replica_dsn, replica_availability, primary=False)
        )
        self._pool_min = min(pool_min, pool_max)
        self.address = self._primary.address
        """Hosts and ports of the primary, for messages."""
        self.availability = self._primary.availability
        self.replica_availability = None if self._replica is None else self._replica.availability

    @property
    def has_replica(self) -> bool:
        """Whether an answer of `find_user` may be one that lags behind."""
        return self._replica is not None

    async def find_user(self, identity: Identity, *, primary: bool = False) -> FoundUser:
        """Return the user behind an identity.

        The replica is asked, if there is one, unless `primary`; the primary when the replica fails.
        What the replica says may be old: whether it is too old, its horizon tells.
        """
        if self._replica is not None and not primary:
            with suppress(StoreUnavailable):
                return await self._replica.ask(lambda connection: _find(connection, identity))
        found = await self._primary.ask(lambda connection: _find(connection, identity))
        self.availability.ever_served = True
        return found

    async def find_user_and_revocations(self, claims: Claims) -> tuple[FoundUser, Revocations]:
        """Return the user behind a token and what is known against it, both by one query."""
        found = await self._primary.ask(
            lambda connection: _find_both(connection, claims.identity, claims.issuer_name, claims.jti)
        )
        self.availability.ever_served = True
        return found

    async def counting_revocations(self, among: Sequence[Revocation] | None = None) -> list[Revocation]:
        """Return every revocation that has not expired, without reason and author.

        Or those that are there of some, given by kind, issuer as it is spelt in the row, and value. They
        expire by our clock when they do by that of Postgres.
        """
        async with self._primary.lend(serving=True) as connection:
            asked_at = time.time()
            if await connection.fetchval(_REVOCATIONS_FILTERED):
                raise _hidden("revocations")
            if among is None:
                rows = await connection.fetch(_COUNTING_REVOCATIONS)
            else:
                targets = zip(*(row.target for row in among), strict=True)
                rows = await connection.fetch(_COUNTING_AMONG, *map(list, targets))
        return [
            Revocation(
                row["kind"],
                row["issuer"],
                row["value"],
                row["revoked_at"],
                None if row["expires_in"] is None else asked_at + row["expires_in"],
            )
            for row in rows
        ]

    async def learn(self, revocations: Sequence[Learnt]) -> Learning | None:
        """Write down what Redis alone revokes, as learnt; None: there are as many rows as may be.

        What is there is only ever extended. What a row of an operator says is not learnt: lifting that row
        is to lift it.
        """
        now = time.time()
        kinds, issuers, values = zip(*(each.target for each in revocations), strict=True)
        async with self.connection() as connection:
            row = await connection.fetchrow(
                "SELECT written, said FROM gateway_learn_revocations($1, $2, $3, $4, $5, $6, $7)",
                kinds,
                issuers,
                values,
                [each.until for each in revocations],
                [None if each.expires_at is None else each.expires_at - now for each in revocations],
                [each.iss for each in revocations],
                [each.seen for each in revocations],
            )
        if row is None or row["written"] is None:
            return None
        return Learning(row["written"], tuple(row["said"]))

    async def unlearn(self, targets: Sequence[Target]) -> int:
        """Delete what was learnt, and no row of an operator; returns how many rows that were."""
        kinds, issuers, values = zip(*targets, strict=True)
        async with self.connection() as connection:
            return int(
                await connection.fetchval(
                    "SELECT gateway_unlearn_revocations($1, $2, $3)", kinds, issuers, values
                )
            )

    async def prune(self) -> int:
        """Delete the revocations that expired more than an hour ago; returns how many there were."""
        pruned = 0
        while True:
            async with self.connection() as connection:
                batch = await connection.fetchval("SELECT gateway_prune_revocations()")
            if not batch:
                return pruned
            pruned += batch

    async def latest_transaction(self) -> int:
        """Return a number that every transaction that has ended is below, as the primary counts them."""
        async with self.connection() as connection:
            return int(await connection.fetchval("SELECT pg_snapshot_xmax(pg_current_snapshot())::text"))

    async def identify(self) -> SystemOfRecord:
        """Find out which system of record the primary is, and tell `heard`."""
        async with self.connection() as connection:
            return await self._identify(connection)

    async def _introduce(self, connection: Connection) -> None:
        await self._identify(connection, self.availability.heard)

    async def _identify(
        self, connection: Connection, heard: Callable[[], None] = lambda: None
    ) -> SystemOfRecord:
        row = await connection.fetchrow(_IDENTIFIABLE)
        if row is None:
            raise ValueError("a query that always has one row had none")
        system = copy = None
        if row["has_system"]:
            system = await connection.fetchval("SELECT system_identifier::text FROM pg_control_system()")
            heard()
        if row["has_copy"]:
            with suppress(
                asyncpg.PostgresError
            ):  # a table that was dropped must not keep all else from Postgres
                copy = await connection.fetchval("SELECT gateway_database_copy()::text")
        record = SystemOfRecord(row["oid"], row["database"], self._schema, system, copy)
        if self._heard is not None:
            self._heard(record)
        return record

    async def ping(self) -> None:
        """Find out whether requests could be served, by running each of their statements on the primary.

        What the catalogs know of the cause of a refusal is in the text of the error.
        """
        heard = self._primary.availability.heard

        async def run(connection: Connection) -> None:
            await _find(connection, _NO_IDENTITY)
            heard()
            await _find_both(connection, _NO_IDENTITY, "", None)
            heard()
            await connection.fetch(_COUNTING_AMONG, [], [], [])

        await self._try_statements(self._primary, run)
        self._primary.availability.proven()

    async def ping_replica(self) -> None:
        """Find out whether the replica could serve requests, by running their statement there."""

        async def run(connection: Connection) -> None:
            await _find(connection, _NO_IDENTITY)

        if self._replica is not None:
            await self._try_statements(self._replica, run)
            self._replica.availability.proven()

    async def _try_statements(self, pool: Pool, run: Callable[[Connection], Awaitable[None]]) -> None:
        async with pool.lend(serving=True, scoped=False) as connection:
            try:
                async with pool.scope(connection):
                    pool.availability.heard()
                    await run(connection)
                    pool.availability.heard()
                    found = [each for each in await shortcomings(connection, self._schema) if each.breaks]
            except asyncpg.PostgresError as error:
                if not is_lasting(error):
                    raise
                # The refusal has aborted its transaction, if any: the catalogs are asked in another.
                found = []
                with suppress(asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
                    async with pool.scope(connection):
                        found = await shortcomings(connection, self._schema)
                if not found:
                    raise
                said = f"{pool.address}: {error.args[0]}: {_listed(found)}"
                raise StoreUnavailable(Tier.POSTGRES, said) from error
            if found:
                raise StoreUnavailable(
                    Tier.POSTGRES, f"{pool.address}: {_listed(found)}"
                ) from asyncpg.DatatypeMismatchError("the columns are not of the types that are needed")

    async def shortcomings(self) -> list[Shortcoming]:
        """Return what is not on the primary as requests need it, by its catalogs."""
        async with self.connection() as connection:
            return await shortcomings(connection, self._schema)

    async def warm(self) -> None:
        """Open the first connections ahead of the requests that need them."""
        await self._primary.warm(self._pool_min)

    async def close(self) -> None:
        """Close all connections."""
        await self._primary.close()
        if self._replica is not None:
            await self._replica.close()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """Lend a connection to the primary; what goes wrong with it is raised as `StoreUnavailable`."""
        async with self._primary.lend() as connection:
            yield connection


async def _find(connection: Connection, identity: Identity) -> FoundUser:
    row = await connection.fetchrow(_FIND_USER, identity.issuer, identity.subject)
    if row is None:
        raise ValueError("a query that always has one row had none")
    return _found(row)


async def _find_both(
    connection: Connection, identity: Identity, issuer_name: str, jti: str | None
) -> tuple[FoundUser, Revocations]:
    row = await connection.fetchrow(
        _FIND_USER_AND_REVOCATIONS, identity.issuer, identity.subject, issuer_name, jti
    )
    if row is None:
        raise ValueError("a query that always has one row had none")
    if row["revocations_filtered"]:
        raise _hidden("revocations")
    revocations = Revocations(row["token_revoked"], row["user_revoked_at"], row["issuer_revoked_at"])
    return _found(row), revocations


def _found(row: asyncpg.Record) -> FoundUser:
    if row["filtered"] is not None:
        raise _hidden(row["filtered"])
    try:
        return FoundUser(None if row["id"] is None else user_from_row(row), row["horizon"])
    except ValueError as error:
        raise RecordUnusable(Tier.POSTGRES, f"the row of user {row['id']} cannot be read: {error}") from error


def _hidden(table: str) -> asyncpg.InsufficientPrivilegeError:
    """Make the error that Postgres raises itself with `row_security = off`."""
    return asyncpg.InsufficientPrivilegeError(
        f'query would be affected by row-level security policy for table "{table}"'
    )


def _listed(found: Sequence[Shortcoming]) -> str:
    return "; ".join(f"{each.found}: {each.fix}" for each in found[:3])


def user_from_row(row: asyncpg.Record) -> User:
    """Read `USER_COLUMNS`. Raises ValueError, without values, on a row that the migrations do not allow."""
    text = row["attributes"]
    attributes = _attributes(text, row["id"]) if isinstance(text, str) else None
    roles = row["roles"]
    unusable = [
        name
        for name, usable in (
            ("status", row["status"] in _STATUSES),
            ("tenant", isinstance(row["tenant"], str | None)),
            ("email", isinstance(row["email"], str | None)),
            ("display_name", isinstance(row["display_name"], str | None)),
            ("roles", isinstance(roles, list) and all(isinstance(role, str) for role in roles)),
            ("attributes", isinstance(attributes, dict)),
        )
        if not usable
    ]
    if unusable:
        raise ValueError(f"not as the migrations allow: {', '.join(unusable)}")
    return User(
        id=row["id"],
        status=UserStatus(row["status"]),
        tenant=row["tenant"],
        email=row["email"],
        display_name=row["display_name"],
        roles=shared(tuple(roles)),
        attributes=attributes or NO_ATTRIBUTES,
        tokens_valid_after=row["tokens_valid_after"],
    )


def _attributes(text: str, user_id: str) -> Mapping[str, JSON]:
    """Read a user's attributes, without those that can be neither read nor written down as JSON.

    The column takes what JSON in its usual form has no room for: numbers of any length, any depth.
    """
    octets = text.encode()
    try:
        json_text.check_depth(octets)
        attributes: dict[str, JSON] = orjson.loads(octets)
    except ValueError:
        log.warning("user_attributes_left_out", user=user_id)
    else:
        return attributes
    try:
        read = json_text.read(octets)
    except ValueError:
        return NO_ATTRIBUTES
    if not isinstance(read, dict):
        return NO_ATTRIBUTES
    return {name: value for name, value in read.items() if json_text.oddity(value) is None and _fits(value)}


def _fits(value: JSON) -> bool:
    """Tell whether a value can be written into Redis."""
    try:
        orjson.dumps(value)
    except TypeError:
        return False
    return True
