"""Postgres, the system of record: all that a running gateway asks it.

The look-ups of requests are in `look_ups`, how statements are sent behind a pooler in `statements`.
"""

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Final

import asyncpg

from gateway.core.model import (
    Claims,
    Identity,
    StoreUnavailable,
    Tier,
)
from gateway.core.revocations import Learning, Learnt, Revocation, Revocations, Target
from gateway.stores.availability import Availability
from gateway.stores.postgres import look_ups
from gateway.stores.postgres.errors import is_lasting
from gateway.stores.postgres.look_ups import FoundUser
from gateway.stores.postgres.pool import Connection, Pool
from gateway.stores.postgres.requirements import Shortcoming, shortcomings
from gateway.stores.postgres.shared_look_ups import SharedLookUps
from gateway.stores.postgres.statements import PreparedStatements
from gateway.stores.postgres.tables_version import VersionDifference, newest_known, read_difference
from gateway.stores.system_of_record import SystemOfRecord

_COUNTING: Final = """
SELECT kind, issuer, value,
    extract(epoch FROM revoked_at)::float8 AS revoked_at,
    extract(epoch FROM nullif(expires_at, 'infinity') - now())::float8 AS expires_in
"""
_COUNTING_REVOCATIONS: Final = f"""
{_COUNTING}, false AS learnt FROM revocations WHERE gateway_counts(expires_at)
UNION ALL
{_COUNTING}, true FROM gateway_learnt_revocations(NULL, NULL, NULL) WHERE gateway_counts(expires_at)
"""
_COUNTING_AMONG: Final = f"""
{_COUNTING}, false AS learnt FROM revocations WHERE gateway_counts(expires_at)
AND (kind, issuer, value) IN (SELECT * FROM unnest($1::text[], $2::text[], $3::text[]))
UNION ALL
{_COUNTING}, true FROM gateway_learnt_revocations($1, $2, $3) WHERE gateway_counts(expires_at)
"""  # noqa: S608 -- a constant query; values travel as parameters
_REVOCATIONS_FILTERED: Final = "SELECT row_security_active('revocations'::regclass)"


# A query that names a function without the right to call it fails, so the right is asked first.
_IDENTIFIABLE: Final = """
SELECT oid::bigint, datname::text AS database,
    coalesce(has_function_privilege(to_regprocedure('pg_control_system()'), 'EXECUTE'), false) AS has_system,
    coalesce(has_function_privilege(to_regprocedure('gateway_database_copy()'), 'EXECUTE'), false) AS has_copy
FROM pg_database WHERE datname = current_database()
"""

_NO_IDENTITY: Final = Identity("", "")
"""An identity without a row: the `iss` of a row is not empty."""


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
        """`heard` is called with the system of record of each new connection to the primary."""
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
        self._users = SharedLookUps(self._primary)
        self._users_of_replica = None if self._replica is None else SharedLookUps(self._replica)
        self._pool_min = min(pool_min, pool_max)
        self.version_difference: VersionDifference | None = None
        """How the tables differed in version from this program at the last look; None: they did not."""
        self.address = self._primary.address
        """Hosts and ports of the primary, for messages."""
        self.availability = self._primary.availability
        self.replica_availability = None if self._replica is None else self._replica.availability

    @property
    def has_replica(self) -> bool:
        """Whether `find_user` may ask a replica, whose answer may be old."""
        return self._replica is not None

    async def find_user(self, identity: Identity, *, primary: bool = False) -> FoundUser:
        """Return the user behind an identity.

        The replica is asked, if there is one, unless `primary`; the primary when the replica fails.
        What the replica says may be old: whether it is too old, its horizon tells.
        """
        if self._users_of_replica is not None and not primary:
            with suppress(StoreUnavailable):
                return await self._users_of_replica.find(identity)
        found = await self._users.find(identity)
        self.availability.ever_served = True
        return found

    async def find_user_and_revocations(self, claims: Claims) -> tuple[FoundUser, Revocations]:
        """Return the user behind a token and the revocations that concern it, both by one query.

        What counts for all tenants of an issuer takes another one.
        """
        name, *others = claims.issuer_names

        async def ask(connection: Connection) -> tuple[FoundUser, Revocations]:
            found, known = await look_ups.find_with_revocations(connection, claims.identity, name, claims.jti)
            for other in others:
                _, more = await look_ups.find_with_revocations(connection, claims.identity, other, claims.jti)
                known = known.with_those_of(more)
            return found, known

        found = await self._primary.ask(ask)
        self.availability.ever_served = True
        return found

    async def find_revocations(self, claims: Claims, user_id: str | None) -> Revocations:
        """Return the revocations that concern a token whose user, if it has one, is kept elsewhere."""
        found = await self._primary.ask(
            lambda connection: look_ups.find_revocations(
                connection, claims.issuer, claims.issuer_name, claims.jti, user_id
            )
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
                raise look_ups.hidden("revocations")
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
                learnt=row["learnt"],
            )
            for row in rows
        ]

    async def learn(self, revocations: Sequence[Learnt]) -> Learning | None:
        """Write revocations that exist in Redis only as learnt rows; None: the table is full.

        An existing learnt row is only extended. A revocation that an operator's row covers is not learnt, so
        that lifting that row lifts it.
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
        """Delete learnt rows, and no row of an operator; returns their number."""
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
        """Return a transaction id of the primary that is higher than that of every ended transaction."""
        async with self.connection() as connection:
            return int(await connection.fetchval("SELECT pg_snapshot_xmax(pg_current_snapshot())::text"))

    async def identify(self) -> SystemOfRecord:
        """Return which system of record the primary is, and call `heard` with it."""
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
            for number in (1, 2):
                await look_ups.find_all(connection, [_NO_IDENTITY] * number)
                heard()
            await look_ups.find_with_revocations(connection, _NO_IDENTITY, "", None)
            heard()
            await connection.fetch(_COUNTING_AMONG, [], [], [])
            heard()
            self.version_difference = await read_difference(connection, newest_known(), heard)

        await self._try_statements(self._primary, run)
        self._primary.availability.proven()

    async def ping_replica(self) -> None:
        """Find out whether the replica could serve requests, by running their statement there."""

        async def run(connection: Connection) -> None:
            for number in (1, 2):
                await look_ups.find_all(connection, [_NO_IDENTITY] * number)

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
                # The refusal has aborted its transaction, if any: the catalogs are read in another one.
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
        """Return the requirements of requests that the primary does not meet, by its catalogs."""
        async with self.connection() as connection:
            return await shortcomings(connection, self._schema)

    async def compare_versions(self) -> VersionDifference | None:
        """Return how the tables differ in version from this program, as `ping` finds out too."""
        async with self.connection() as connection:
            self.version_difference = await read_difference(connection, newest_known())
        return self.version_difference

    async def warm(self) -> None:
        """Open the first connections ahead of the requests that need them."""
        await self._primary.warm(self._pool_min)

    async def close(self) -> None:
        """Close all connections."""
        await self._users.close()
        await self._primary.close()
        if self._users_of_replica is not None:
            await self._users_of_replica.close()
        if self._replica is not None:
            await self._replica.close()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """Lend a connection to the primary; what goes wrong with it is raised as `StoreUnavailable`."""
        async with self._primary.lend() as connection:
            yield connection


def _listed(found: Sequence[Shortcoming]) -> str:
    return "; ".join(f"{each.found}: {each.fix}" for each in found[:3])
