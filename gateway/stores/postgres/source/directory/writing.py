"""Changes of users in a source, over connections that may write (`users.source.writable`)."""

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import Final

import asyncpg

from gateway.core.model import JSON, Identity, UserStatus
from gateway.core.text import sql_text
from gateway.core.tokens.issuer_patterns import IssuerNames
from gateway.stores.postgres.database import Postgres
from gateway.stores.postgres.directory import user_rows
from gateway.stores.postgres.directory.audit import Author
from gateway.stores.postgres.directory.user_rows import (
    Expectation,
    IdentityMissing,
    IdentityTaken,
    NotWritable,
    SourceReadOnly,
    StatusRefused,
    UserChanged,
    UserChanges,
    UserNotFound,
    UserRecord,
)
from gateway.stores.postgres.errors import quoted, said
from gateway.stores.postgres.pool import Connection, Pool
from gateway.stores.postgres.source import relations
from gateway.stores.postgres.source.database import Types, describe
from gateway.stores.postgres.source.definition import Identities, UserSource
from gateway.stores.postgres.source.directory import writable
from gateway.stores.postgres.source.directory.assignments import (
    Assignment,
    assign,
    check_row,
    columns_of,
    insert,
)
from gateway.stores.postgres.source.directory.change import Change
from gateway.stores.postgres.source.directory.records import one, place_of, spelt

_LOCK: Final = "SELECT pg_advisory_xact_lock(hashtextextended('gateway ' || $1 || ' ' || $2, 0))"


class SourceWriter:
    """Writes to a source. Without a pool it is read-only: every method raises `SourceReadOnly`.

    Every method may raise `StoreUnavailable`, and `NotWritable` for what cannot be changed from here.
    """

    def __init__(
        self, source: UserSource, issuers: Mapping[str, str], pool: Pool | None, own: Postgres | str
    ) -> None:
        """`own` has the audit log, or is its schema in the source's database.

        `issuers` maps names to `iss`.
        """
        self._source = self.source = source
        self._issuers = IssuerNames(issuers)
        self._pool = pool
        self._own = own

    async def close(self) -> None:
        """Close the connections."""
        if self._pool is not None:
            await self._pool.close()

    # Users ---------------------------------------------------------------------------------------

    async def change(
        self,
        user_id: str,
        changes: UserChanges,
        action: str,
        expected: Expectation | None,
        author: Author | None,
    ) -> UserRecord:
        """Change columns of a user. Raises like `UserDirectory.change`."""
        async with self.begun(writable.read_only(self._source, changes)) as change:
            before = await self._locked(change, user_id, expected)
            _check_status(before.user.status, changes, action)
            plan = list(writable.for_values(self._source, changes))
            if "status" in changes and changes["status"] is not before.user.status:
                holding = await self._holding(change, before.user.id)
                plan += writable.for_status(self._source, changes["status"], holding)
            await assign(change.connection, self._source, change.types, before.user.id, plan)
            try:
                after = await self._one(change, before.user.id)
            except UserNotFound as error:
                raise NotWritable(
                    f"users.source.id, `{self._source.id}`, is made from what would be changed: change"
                    f" {self._source.table} with the system's own means"
                ) from error
            self._check_result(after, changes)
            detail: dict[str, JSON] = {"status": before.user.status.value}
            if action == "user.change":
                detail = user_rows.difference(before.user, replace(before.user, **changes), changes)
            await change.record(author, action, after, detail)
        return after

    async def add(self, identity: Identity, changes: UserChanges, author: Author | None) -> UserRecord:
        """Create a user with an identity. Raises `IdentityTaken`."""
        async with self.begun(writable.read_only_users(self._source)) as change:
            record = await self.added(change, identity, changes)
            detail: dict[str, JSON] = {
                **_named(identity),
                "status": record.user.status.value,
                "tenant": record.user.tenant,
                "roles": list(record.user.roles),
            }
            await change.record(author, "user.create", record, detail)
        return record

    async def added(self, change: Change, identity: Identity, changes: UserChanges) -> UserRecord:
        """Create a user within a change. Raises `IdentityTaken`."""
        source, connection = self._source, change.connection
        await self.claim(change, identity)
        each = self._place_for(identity)
        columns = await columns_of(connection, relations.table_of(source, source.table))
        plan = {value.column: value for value in writable.for_values(source, changes)}
        for value in writable.active(source):
            column = columns.get(value.column)
            if column is not None and column["required"] and not column["filled"]:
                plan.setdefault(value.column, value)
        if each.table is None:
            plan |= {value.column: value for value in self._identity_row(each, identity, None)}
        key = sql_text.column_of(source.id)
        unfilled = key in columns and not columns[key or ""]["filled"]
        user_id = await insert(
            connection,
            source,
            source.table,
            plan.values(),
            generated={key: "gen_random_uuid()"} if key and unfilled and change.types.key == "uuid" else {},
            returning=source.id,
        )
        if each.table is not None:
            row = self._identity_row(each, identity, user_id)
            await insert(connection, source, each.table, row)
        record = await self._one(change, user_id)
        wanted = changes.get("status", UserStatus.ACTIVE)
        if record.user.status is not wanted:
            holding = await self._holding(change, user_id)
            plan_of_status = writable.for_status(source, wanted, holding)
            await assign(connection, source, change.types, user_id, plan_of_status)
            record = await self._one(change, user_id)
            self._check_result(record, {"status": wanted})
        return record

    def _check_result(self, after: UserRecord, changes: UserChanges) -> None:
        if "status" in changes and after.user.status is not changes["status"]:
            raise NotWritable(
                f"by the conditions of users.source.status, the user would be {after.user.status} even so:"
                f" change {self._source.table} with the system's own means"
            )

    # Identities ----------------------------------------------------------------------------------

    async def link(
        self, user_id: str, identity: Identity, expected: Expectation | None, author: Author | None
    ) -> UserRecord:
        """Link an identity to a user. Raises like `UserDirectory.link`."""
        async with self.begun(self._refusal(identity)) as change:
            before = await self._locked(change, user_id, expected)
            await self.claim(change, identity)
            each = self._place_for(identity)
            row = self._identity_row(each, identity, before.user.id)
            if each.table is not None:
                await insert(change.connection, self._source, each.table, row)
            elif any(mine.issuer == identity.issuer for mine in before.identities):
                raise NotWritable(
                    f"{self._source.table} has room for one subject of the issuer in a row, and the user has"
                    " one: unlink it first"
                )
            else:
                await assign(change.connection, self._source, change.types, before.user.id, row)
            await change.record(author, "identity.link", before, _named(identity))
            return await self._one(change, before.user.id)

    async def obstacle_to_link(self, connection: Connection, identity: Identity) -> str | None:
        """Return why an identity could not be linked; None: nothing is known to be in the way."""
        try:
            each = self._place_for(identity)
            if each.table is not None:
                row = self._identity_row(each, identity, "")
                await check_row(connection, self._source, each.table, {value.column for value in row})
        except NotWritable as refusal:
            return str(refusal)
        return None

    async def obstacle_to_add(
        self, connection: Connection, identity: Identity, changes: UserChanges, types: Types
    ) -> str | None:
        """Return why a user could not be created; None: nothing is known to be in the way."""
        source = self._source
        try:
            each = self._place_for(identity)
            given = {
                value.column for value in (*writable.for_values(source, changes), *writable.active(source))
            }
            row = {value.column for value in self._identity_row(each, identity, "")}
            key = sql_text.column_of(source.id) if types.key == "uuid" else None
            if each.table is None:
                await check_row(connection, source, source.table, given | row | {key or ""})
            else:
                await check_row(connection, source, source.table, given | {key or ""})
                await check_row(connection, source, each.table, row)
        except NotWritable as refusal:
            return str(refusal)
        return None

    async def unlink(
        self, user_id: str, identity: Identity, expected: Expectation | None, author: Author | None
    ) -> UserRecord:
        """Unlink an identity from a user. Raises like `UserDirectory.unlink`."""
        async with self.begun(self._refusal(identity)) as change:
            before = await self._locked(change, user_id, expected)
            await self._take(change, identity, before.user.id, None)
            await change.record(author, "identity.unlink", before, _named(identity))
            return await self._one(change, before.user.id)

    async def move(self, identity: Identity, giver: str, taker: str, author: Author | None) -> UserRecord:
        """Move an identity to another user: its row keeps all else that it has. Raises like `unlink`."""
        async with self.begun(self._refusal(identity)) as change:
            # Lock in a fixed order, so that two concurrent moves cannot deadlock.
            locked = {each: await self._locked(change, each, None) for each in sorted((giver, taker))}
            source, target = locked[giver], locked[taker]
            await self._take(change, identity, source.user.id, target.user.id)
            await change.record(author, "identity.unlink", source, _named(identity))
            await change.record(author, "identity.link", target, _named(identity))
            return await self._one(change, target.user.id)

    def _refusal(self, identity: Identity) -> SourceReadOnly:
        name, _ = place_of(self._issuers, identity)
        return writable.read_only_identities(self._source, name)

    def _entries(self, identity: Identity) -> tuple[Identities, ...]:
        return self._source.identities_of(place_of(self._issuers, identity)[0])

    def _place_for(self, identity: Identity) -> Identities:
        """Return where a new identity of an issuer is written to. Raises `NotWritable`."""
        refusals: list[NotWritable] = []
        for each in sorted(self._entries(identity), key=lambda each: each.table is None):
            try:
                writable.identities_row(self._source, each)
            except NotWritable as refusal:
                refusals.append(refusal)
            else:
                return each
        raise (refusals or [NotWritable(f"users.source.identities has no entry for {identity.issuer}")])[0]

    def _identity_row(self, each: Identities, identity: Identity, user_id: str | None) -> list[Assignment]:
        """Return the columns of a new identity. Raises `NotWritable`."""
        row = writable.identities_row(self._source, each)
        columns = [Assignment(name, "sql", literal) for name, literal in row.literals.items()]
        columns.append(Assignment(row.subject, "text", identity.subject))
        if row.user is not None:
            columns.append(Assignment(row.user, "text", user_id))
        if row.tenant is not None:
            columns.append(Assignment(row.tenant, "text", place_of(self._issuers, identity)[1]))
        return columns

    async def claim(self, change: Change, identity: Identity) -> None:
        """Keep other gateways from writing the same identity. Raises `IdentityTaken`."""
        await change.connection.execute(_LOCK, identity.issuer, identity.subject)
        if not self._entries(identity):
            return
        name, tenant = place_of(self._issuers, identity)
        keys = relations.identities(self._source, change.types.columns, name, "$1::text", "$2::text")
        owner = await change.connection.fetchval(
            f"SELECT key::text FROM ({keys}) AS found WHERE $2::text IS NULL OR true LIMIT 1",
            identity.subject,
            tenant,
        )
        if owner is not None:
            raise IdentityTaken(identity, owner)

    async def _take(self, change: Change, identity: Identity, giver: str, taker: str | None) -> None:
        """Take an identity from a user, and give it to another if there is one. Raises `IdentityMissing`."""
        taken = 0
        for each in self._entries(identity):
            if each.table is None:
                taken += await self._take_subject(change, each, identity, giver, taker)
            else:
                taken += await self._take_rows(change, each, each.table, identity, giver, taker)
        if not taken:
            raise IdentityMissing

    async def _take_rows(
        self,
        change: Change,
        each: Identities,
        table: str,
        identity: Identity,
        giver: str,
        taker: str | None,
    ) -> int:
        rows = f"{relations.table_of(self._source, table)} AS {relations.alias_of(table)}"
        where = _of_identity(each, each.user or "")
        values = [identity.subject, giver, place_of(self._issuers, identity)[1]]
        if taker is None:
            statement = f"DELETE FROM {rows} WHERE {where} RETURNING 1"
            return len(await change.connection.fetch(statement, *values))
        column = sql_text.column_of(each.user or "")
        columns = await columns_of(change.connection, relations.table_of(self._source, table))
        if column is None or column not in columns:
            raise NotWritable(f"the users of {table} are the expression `{each.user}`, and not a column")
        to = f"$4::text::{columns[column]['type']}"
        statement = f"UPDATE {rows} SET {quoted(column)} = {to} WHERE {where} RETURNING 1"
        return len(await change.connection.fetch(statement, *values, taker))

    async def _take_subject(
        self, change: Change, each: Identities, identity: Identity, giver: str, taker: str | None
    ) -> int:
        column = writable.identities_row(self._source, each).subject
        table = relations.table_of(self._source, self._source.table)
        rows = await change.connection.fetch(
            f"UPDATE {table} AS {relations.alias_of(self._source.table)} SET {quoted(column)} = NULL"
            f" WHERE {_of_identity(each, self._source.id)} RETURNING 1",
            identity.subject,
            giver,
            place_of(self._issuers, identity)[1],
        )
        if rows and taker is not None:
            row = self._identity_row(each, identity, taker)
            await assign(change.connection, self._source, change.types, taker, row)
        return len(rows)

    # Transactions --------------------------------------------------------------------------------

    @asynccontextmanager
    async def begun(self, refusal: SourceReadOnly) -> AsyncIterator[Change]:
        """Begin a change. Raises `refusal` if the source is read-only."""
        if self._pool is None:
            raise refusal
        async with (
            AsyncExitStack() as behind,
            self._pool.lend() as connection,
            connection.transaction(),
        ):
            try:
                yield Change(connection, await describe(connection, self._source), self._own, behind)
            except asyncpg.IntegrityConstraintViolationError as error:
                raise NotWritable(f"Postgres refuses the change: {said(error)}") from error
            except asyncpg.DataError as error:
                raise NotWritable("a value is not of the type of its column") from error
            except asyncpg.RaiseError as error:
                raise NotWritable(f"a trigger refuses the change: {said(error)}") from error

    async def _one(self, change: Change, user_id: str) -> UserRecord:
        return await one(change.connection, self._source, self._issuers, change.types, user_id)

    async def _locked(self, change: Change, user_id: str, expected: Expectation | None) -> UserRecord:
        """Return a user that no other transaction can change before this one ends.

        Raises `UserNotFound`, or `UserChanged` when the user is not as `expected`.
        """
        await change.connection.execute(
            f"SELECT FROM {self._row(change)} FOR NO KEY UPDATE", spelt(change.types.key, user_id)
        )
        found = await self._one(change, user_id)
        if expected is not None and not expected(found):
            raise UserChanged
        return found

    async def _holding(self, change: Change, user_id: str) -> list[bool]:
        """Return which of the rules of the status hold for a user."""
        rules = [f"coalesce(({rule.when})::boolean, false)" for rule in self._source.status]
        if not rules:
            return []
        row = await change.connection.fetchrow(f"SELECT {', '.join(rules)} FROM {self._row(change)}", user_id)
        return [] if row is None else list(row.values())

    def _row(self, change: Change) -> str:
        """Return the row of the user with the id $1."""
        source = self._source
        return (
            f"{relations.table_of(source, source.table)} AS {relations.alias_of(source.table)}"
            f" WHERE {relations.is_key(change.types.key, f'({source.id})', '$1::text')}"
        )


def _of_identity(each: Identities, user: str) -> str:
    """Return the condition for rows with the subject $1 of the user $2, and of the tenant $3."""
    also = "" if each.where is None else f" AND ({each.where})"
    of_tenant = "($3::text IS NULL OR true)" if each.tenant is None else f"({each.tenant})::text = $3::text"
    return f"({each.subject})::text = $1::text AND ({user})::text = $2::text AND {of_tenant}{also}"


def _check_status(status: UserStatus, changes: UserChanges, action: str) -> None:
    """Raise `StatusRefused` for what the status of a user does not allow, as in `UserDirectory`."""
    deleted = status is UserStatus.DELETED
    if "status" in changes and deleted is not (action == "user.restore"):
        raise StatusRefused(status)


def _named(identity: Identity) -> dict[str, JSON]:
    return {"issuer": identity.issuer, "subject": identity.subject}
