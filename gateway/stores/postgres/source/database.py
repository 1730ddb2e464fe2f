"""The users of another system, read from its own tables.

The gateway reads them over connections of their own, on which Postgres refuses every statement that writes.
They may lead to another server than the one with the revocations: `UsersElsewhere` joins both.
"""

import math
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Final

import asyncpg

from gateway.core.model import Claims, Identity, RecordUnusable, StoreUnavailable, Tier, User
from gateway.core.revocations import Revocations
from gateway.core.tokens.issuer_patterns import IssuerNames
from gateway.stores.availability import Availability
from gateway.stores.postgres.change_stream.triggers import Watched
from gateway.stores.postgres.database import Postgres
from gateway.stores.postgres.errors import is_lasting, is_of_one_row, said
from gateway.stores.postgres.look_ups import FoundUser, hidden, user_from_row
from gateway.stores.postgres.pool import Connection, Pool
from gateway.stores.postgres.source import relations
from gateway.stores.postgres.source.definition import UserSource
from gateway.stores.postgres.source.triggers import installation, tables_of
from gateway.stores.postgres.statements import Connection as AnyConnection
from gateway.stores.postgres.statements import PreparedStatements

_HORIZON: Final = "pg_snapshot_xmin(pg_current_snapshot())::text::bigint AS horizon"
_KINDS: Final = """
SELECT name, relkind::text AS kind
FROM unnest($1::text[]) AS name JOIN pg_class c ON c.oid = to_regclass(name)
"""
TABLES: Final = frozenset({"r", "p"})
"""By `pg_class.relkind`: tables, without partitions and with them."""
RELAY_PATIENCE: Final = 3.0
"""Seconds within which the changes of a source in another database must have been passed on."""
_STEP: Final = 10
"""Instants are rounded down to tenths of a second, so that two reads of one state are equal."""


@dataclass(frozen=True, slots=True)
class Types:
    """The types of the columns that look-ups compare, as Postgres names them."""

    key: str
    """Of the id."""
    columns: Mapping[str, str]
    """By `relations.type_key`."""
    views: frozenset[str]
    """Those tables of users and identities that are views."""


async def describe(connection: AnyConnection, source: UserSource) -> Types:
    """Ask for the types. Raises the driver's exceptions."""
    columns = {
        relations.type_key(source, each, each.subject): relations.subject_of_nothing(source, each)
        for each in source.identities
    }
    expressions = [f"SELECT key FROM ({relations.users(source)}) AS u", *columns.values()]
    selected = ", ".join(
        f"format_type(pg_typeof(({expression} LIMIT 0)), -1) AS t{number}"
        for number, expression in enumerate(expressions)
    )
    row = await connection.fetchrow(f"SELECT {selected}")
    if row is None:
        raise ValueError("a query that always has one row had none")
    key, *types = row.values()
    named = (source.table, *(each.table for each in source.identities if each.table is not None))
    kinds = await kinds_of(connection, [relations.table_of(source, table) for table in named])
    return Types(str(key), dict(zip(columns, map(str, types), strict=True)), views_among(kinds))


async def kinds_of(connection: AnyConnection, tables: Sequence[str]) -> dict[str, str]:
    """Return what some tables are: `pg_class.relkind`, such as `v` for a view. Absent ones are left out."""
    return {row["name"]: row["kind"] for row in await connection.fetch(_KINDS, list(tables))}


def views_among(kinds: Mapping[str, str]) -> frozenset[str]:
    """Return those of `kinds_of` some tables that are not tables: views and foreign tables."""
    return frozenset(name for name, kind in kinds.items() if kind not in TABLES)


@dataclass(slots=True)
class _Statements:
    """The statements of look-ups, which depend on the types of columns."""

    source: UserSource
    types: Types
    shared: bool
    """The value of `FoundUser.shared` in all answers."""
    _by_issuer: dict[str, str] = field(default_factory=dict)

    def find(self, issuer_name: str) -> str:
        """Return the look-up of the users behind a subject, $1. It has one row at least."""
        known = self._by_issuer.get(issuer_name)
        if known is None:
            known = self._by_issuer[issuer_name] = look_up(self.source, self.types, issuer_name)
        return known


def look_up(source: UserSource, types: Types, issuer_name: str) -> str:
    """Return the statement that finds the users behind a subject, $1. It returns at least one row.

    $2 is the tenant in the token's `iss`; null if its issuer has one alone.
    """
    tables = {source.table, *(each.table for each in source.identities_of(issuer_name) if each.table)}
    names = sorted(relations.table_of(source, table) for table in tables)
    filtered = " ".join(
        f"WHEN row_security_active({relations.literal(name)}::regclass) THEN {relations.literal(name)}"
        for name in names
    )
    keys = relations.identities(source, types.columns, issuer_name, "$1::text", "$2::text")
    # One row always, so that the absence of a user has its horizon, too.
    return f"""
    SELECT {_HORIZON}, $2::text AS tenant_of_issuer, CASE {filtered} END AS filtered, found.*
    FROM (VALUES (true)) AS always LEFT JOIN (
        SELECT {relations.COLUMNS} FROM ({relations.users(source)}) AS u
        WHERE u.key IN ({keys}) LIMIT 2
    ) AS found ON true
    """


class SourceRefused(StoreUnavailable):
    """The server refuses a statement, because the tables are not as configured or the role lacks a right."""


class SourceDatabase:
    """The tables of users, and a replica of them if there is one. Connections open when first needed.

    `issuers` maps names to `iss`. Durations are seconds. Every method raises `StoreUnavailable` when the
    database cannot answer, and never takes that for an answer.
    """

    def __init__(
        self,
        source: UserSource,
        issuers: Mapping[str, str],
        dsn: str,
        *,
        replica_dsn: str | None = None,
        pool_max: int = 10,
        connect_timeout: float = 2.0,
        statement_timeout: float = 1.0,
        prepared_statements: PreparedStatements = "auto",
        availability: Availability | None = None,
        replica_availability: Availability | None = None,
        tls_strict: bool = False,
        is_elsewhere: bool = False,
    ) -> None:
        """`is_elsewhere`: the tables are in another database than the gateway's own."""
        self.source = source
        self._is_elsewhere = is_elsewhere
        self._issuers = IssuerNames(issuers)
        self._statements: _Statements | None = None

        def pool(dsn: str, availability: Availability | None, *, primary: bool) -> Pool:
            return Pool(
                dsn,
                primary=primary,
                schema=source.schema_name,
                size=pool_max,
                connect_timeout=connect_timeout,
                statement_timeout=statement_timeout,
                prepared_statements=prepared_statements,
                availability=availability or Availability(),
                tls_strict=tls_strict,
                read_only=True,
            )

        self._primary = pool(dsn, availability, primary=True)
        self._replica = (
            None if replica_dsn is None else pool(replica_dsn, replica_availability, primary=False)
        )
        self.address = self._primary.address
        """Hosts and ports of the primary, for messages."""
        self.availability = self._primary.availability
        self.replica_availability = None if self._replica is None else self._replica.availability

    @property
    def has_replica(self) -> bool:
        """Whether `find_user` may ask a replica, whose answer may be old."""
        return self._replica is not None

    async def find_user(self, identity: Identity, *, primary: bool = False) -> FoundUser:
        """Return the user behind an identity. The replica is asked first, unless `primary`."""
        if self._replica is not None and not primary:
            with suppress(StoreUnavailable):
                found = await self._replica.ask(lambda connection: self._find(connection, identity))
                # What Redis may not keep, it does not compare with the changes that are known already.
                if found.shared:
                    return found
        found = await self._primary.ask(lambda connection: self._find(connection, identity))
        self.availability.ever_served = True
        return found

    async def _find(self, connection: Connection, identity: Identity) -> FoundUser:
        name, _, tenant = (self._issuers.name_of(identity.issuer) or "").partition("/")
        if not self.source.identities_of(name):
            return FoundUser(None, int(await connection.fetchval(f"SELECT {_HORIZON}")))
        statements = await self.statements(connection)
        asked_at = time.time()
        with self._refused(self.address):
            rows = await connection.fetch(statements.find(name), identity.subject, tenant or None)
        return _found(rows, asked_at, shared=statements.shared)

    @contextmanager
    def _refused(self, address: str) -> Iterator[None]:
        """Translate what the server refuses until an operator acts: the tables may have been changed."""
        try:
            yield
        except asyncpg.PostgresError as error:
            if is_of_one_row(error):
                raise RecordUnusable(
                    Tier.POSTGRES,
                    f"users.source: an expression fails for a user's row (SQLSTATE {error.sqlstate}): correct"
                    " the expression or the row",
                ) from error
            if not is_lasting(error):
                raise
            self._statements = None
            raise SourceRefused(
                Tier.POSTGRES,
                f"{address}: users.source: {said(error)}: correct the tables and expressions, or grant"
                " SELECT to the role; `gateway check --live` names the setting",
            ) from error

    async def statements(self, connection: Connection) -> _Statements:
        """Return the statements, with the types of columns as they were when first asked for."""
        if self._statements is None:
            types = await describe(connection, self.source)
            vanishing = bool(types.views) or self.source.identities_may_vanish
            shared = self.source.changes != "triggers" or not vanishing
            self._statements = _Statements(self.source, types, shared)
        return self._statements

    async def watched(self, schema: str = "") -> Watched:
        """Return the triggers that must be there for changes to be received.

        With `schema`, on the server that has the gateway's own tables in it; otherwise on the source's own
        server.
        """
        if self.source.changes == "poll":
            return Watched(schema, feed_patience=3 * self.source.poll.interval + 2.0)
        if self._is_elsewhere and schema:
            return Watched(schema, feed_patience=RELAY_PATIENCE)
        if self.source.changes != "triggers":
            return Watched(schema)
        async with self.connection() as connection:
            types = (await self.statements(connection)).types
            kinds = await kinds_of(connection, tables_of(self.source))
        triggers = installation(self.source, self._issuers, types.key, views_among(kinds)).triggers
        return Watched(
            schema,
            tuple(trigger.table for trigger in triggers),
            tuple(trigger.name for trigger in triggers),
            tuple(trigger.function for trigger in triggers),
        )

    async def latest_transaction(self) -> int:
        """Return a transaction id of the primary that is higher than that of every ended transaction."""
        async with self.connection() as connection:
            return int(await connection.fetchval("SELECT pg_snapshot_xmax(pg_current_snapshot())::text"))

    async def ping(self) -> None:
        """Find out whether requests could be served, by running each of their statements on the primary."""
        await self._try_statements(self._primary)
        self._primary.availability.proven()

    async def ping_replica(self) -> None:
        """Find out whether the replica could serve requests."""
        if self._replica is not None:
            await self._try_statements(self._replica)
            self._replica.availability.proven()

    async def _try_statements(self, pool: Pool) -> None:
        async with pool.lend(serving=True) as connection:
            pool.availability.heard()
            with self._refused(pool.address):
                for name in sorted({name for each in self.source.identities for name in each.issuer}):
                    await connection.fetch((await self.statements(connection)).find(name), "", None)
                    pool.availability.heard()

    async def warm(self) -> None:
        """Open the first connection ahead of the requests that need it."""
        await self._primary.warm(1)

    async def close(self) -> None:
        """Close all connections."""
        await self._primary.close()
        if self._replica is not None:
            await self._replica.close()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """Lend a connection to the primary, which refuses to write."""
        async with self._primary.lend() as connection:
            with self._refused(self.address):
                yield connection


def _found(rows: list[asyncpg.Record], asked_at: float, *, shared: bool) -> FoundUser:
    first = rows[0]
    if first["filtered"] is not None:
        raise hidden(first["filtered"])
    if len(rows) > 1:
        raise RecordUnusable(Tier.POSTGRES, "users.source: several users have this subject of one issuer")
    user = None if first["id"] is None else read_user(first, asked_at)
    return FoundUser(user, first["horizon"], shared)


def read_user(row: asyncpg.Record, asked_at: float) -> User:
    """Read `relations.COLUMNS`, which were asked for at `asked_at`. Raises `RecordUnusable`."""
    left = row["valid_for"]
    until = None if left is None else math.floor((asked_at + left) * _STEP) / _STEP
    try:
        return user_from_row(row, until)
    except ValueError as error:
        raise RecordUnusable(
            Tier.POSTGRES, f"users.source: user {row['id']} cannot be read: {error}"
        ) from error


class UsersElsewhere:
    """The system of record where users are in a source, and revocations in the gateway's own tables."""

    def __init__(self, users: SourceDatabase, revocations: Postgres) -> None:
        self._users = users
        self._revocations = revocations

    @property
    def has_replica(self) -> bool:
        """Whether a replica, which may lag behind, is asked for users."""
        return self._users.has_replica

    async def find_user(self, identity: Identity, *, primary: bool = False) -> FoundUser:
        """Find a user."""
        return await self._users.find_user(identity, primary=primary)

    async def find_user_and_revocations(self, claims: Claims) -> tuple[FoundUser, Revocations]:
        """Ask both primaries for a user, and for the revocations that concern the token."""
        found = await self._users.find_user(claims.identity, primary=True)
        user_id = None if found.user is None else found.user.id
        return found, await self._revocations.find_revocations(claims, user_id)
