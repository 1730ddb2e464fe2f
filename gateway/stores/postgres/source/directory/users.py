"""The users of a source for operators: found, listed and searched, and changed where that is possible.

This is not the hot path, and has connections of its own: a search that reads a whole table takes none of
those that requests need, and its time limit is no outage of theirs.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from typing import Final, TypeAlias

import asyncpg

from gateway.core.model import Identity, UserStatus
from gateway.core.tokens.claims import is_clean
from gateway.core.tokens.issuer_patterns import IssuerNames
from gateway.stores.postgres.directory.audit import Author
from gateway.stores.postgres.directory.user_rows import (
    Expectation,
    IdentityAmbiguous,
    UserChanges,
    UserId,
    UserIdMalformed,
    UserNotFound,
    UserRecord,
)
from gateway.stores.postgres.directory.users import UserDirectory, microseconds
from gateway.stores.postgres.pool import Connection
from gateway.stores.postgres.source import relations
from gateway.stores.postgres.source.database import SourceDatabase, Types
from gateway.stores.postgres.source.directory.records import INTEGERS, fits, one, place_of, records
from gateway.stores.postgres.source.directory.writable import read_only_identities, read_only_users
from gateway.stores.postgres.source.directory.writing import SourceWriter

_LAST: Final = "timestamptz '2286-11-20 17:46:39+00'"
_PLACE: Final = (
    f"(extract(epoch FROM least(greatest(coalesce(u.created_at, 'epoch'), 'epoch'), {_LAST}))"
    " * 1000000)::bigint"
)
"""When a user was created, as in the cursors of `UserDirectory`."""
_SIMPLE: Final = r"LIKE regexp_replace(lower(left($6::text, 128)), '([\\%_])', '\\\1', 'g') || '%'"
_SEVERAL: Final = 10
"""The most users behind one identity that are named."""


class SourceDirectory:
    """Reads and changes users as `UserDirectory` does. Every method may raise `StoreUnavailable`.

    Ids are texts. `issuers` maps names to `iss`. Each change is recorded in the audit log of the gateway's
    own tables. Every change may raise `ChangeRefused`.
    """

    def __init__(self, database: SourceDatabase, issuers: Mapping[str, str], writer: SourceWriter) -> None:
        """`database` is for this directory alone."""
        self._database = database
        self._issuers = self.issuers = IssuerNames(issuers)
        self._writer = writer
        self.source = database.source
        self.address = database.address
        """Hosts and ports, for messages."""

    @property
    def database(self) -> SourceDatabase:
        """The connections of this directory."""
        return self._database

    async def close(self) -> None:
        """Close all connections."""
        await self._database.close()
        await self._writer.close()

    @staticmethod
    def id_in(text: str) -> str:
        """Return the id that a text is. Any text may be one."""
        return text

    # Reading -------------------------------------------------------------------------------------

    async def get(self, user_id: UserId) -> UserRecord:
        """Return a user by its id. Raises `UserNotFound`."""
        async with self._database.connection() as connection:
            types = await self._types(connection)
            return await one(connection, self.source, self._issuers, types, user_id)

    async def find(self, identity: Identity) -> UserRecord | None:
        """Return the user behind an identity. Raises `IdentityAmbiguous` where there are several."""
        found = await self.behind(identity)
        if len(found) > 1:
            raise IdentityAmbiguous(identity, [record.user.id for record in found])
        return found[0] if found else None

    async def behind(self, identity: Identity) -> list[UserRecord]:
        """Return the users behind an identity: one, none, or several, of whom the first ten."""
        name, tenant = place_of(self._issuers, identity)
        if not self.source.identities_of(name):
            return []
        async with self._database.connection() as connection:
            types = await self._types(connection)
            keys = relations.identities(self.source, types.columns, name, "$1::text", "$2::text")
            return await self._records(
                connection,
                f"WHERE u.key IN ({keys}) AND ($2::text IS NULL OR true) ORDER BY u.key LIMIT {_SEVERAL}",
                identity.subject,
                tenant,
            )

    async def with_email(self, email: str) -> list[UserRecord]:
        """Return up to 100 users with an e-mail address, in any letter case. Addresses are not unique.

        Active users come first. Where a comparison in any letter case takes too long, because no index
        helps, only the same spelling is found.
        """
        if self.source.email is None:
            return []
        rest = "ORDER BY u.status = 'active' DESC, u.key LIMIT 100"
        async with self._database.connection() as connection:
            exact = await self._records(connection, f"WHERE u.email = $1::text {rest}", email)
            try:
                return await self._records(
                    connection, f"WHERE lower(u.email) = lower($1::text) {rest}", email
                )
            except asyncpg.QueryCanceledError:
                return exact

    async def page(
        self,
        *,
        status: UserStatus | None = None,
        tenant: str | None = None,
        after: UserId | None = None,
        limit: int = 50,
    ) -> list[UserRecord]:
        """Return a page of users. `after` is the id of the last user of the previous page."""
        place = None
        if after is not None:
            try:
                last = await self.get(after)
            except UserNotFound:
                return []
            place = microseconds(last.created_at), last.user.id
        return await self.search(status=status, tenant=tenant, after=place, limit=limit)

    async def search(
        self,
        *,
        text: str | None = None,
        status: UserStatus | None = None,
        tenant: str | None = None,
        after: tuple[int, UserId] | None = None,
        limit: int = 50,
    ) -> list[UserRecord]:
        """Return a page of users.

        Those with integers as ids are in the order of their ids; others the oldest first if the source says
        when they were created, else in the order of their ids. `text` and `after` are as in
        `UserDirectory.search`. Raises `UserIdMalformed` for an `after` that is no id of the source.
        """
        async with self._database.connection() as connection:
            types = await self._types(connection)
            if after is not None and not fits(types.key, str(after[1])):
                raise UserIdMalformed
            created, last = (None, None) if after is None else (after[0], str(after[1]))
            key = f"$4::text::{types.key}"
            if self._by_age(types):
                behind, order = f"({_PLACE}, u.key) > ($3::bigint, {key})", f"{_PLACE}, u.key"
            else:
                behind, order = f"$3::bigint IS NOT NULL AND u.key > {key}", "u.key"
            among = "" if text is None else f"AND u.key IN ({self._matching(types)})"
            return await self._records(
                connection,
                "WHERE ($1::text IS NULL OR u.status = $1) AND ($2::text IS NULL OR u.tenant = $2)"
                f" AND ($4::text IS NULL OR {behind}) {among} ORDER BY {order} LIMIT $5::integer",
                status and status.value, tenant, created, last, limit, *([] if text is None else [text]),
            )  # fmt: skip

    def _by_age(self, types: Types) -> bool:
        return types.key not in INTEGERS and self.source.created_at is not None

    def _matching(self, types: Types) -> str:
        """Return the query of the keys of users who match the text $6."""
        users = relations.users(self.source)
        of_any = replace(
            self.source, identities=tuple(replace(each, tenant=None) for each in self.source.identities)
        )
        named = sorted({name for each in self.source.identities for name in each.issuer})
        texts = [
            f"lower(left(m.{column}, 128)) {_SIMPLE}"
            for column, value in (("email", self.source.email), ("display_name", self.source.display_name))
            if value is not None
        ]
        arms = [
            f"SELECT m.key FROM ({users}) AS m WHERE {relations.is_key(types.key, 'm.key', '$6::text')}",
            *(relations.identities(of_any, types.columns, name, "$6::text", "NULL") for name in named),
            *(f"SELECT m.key FROM ({users}) AS m WHERE {condition}" for condition in texts),
        ]
        return " UNION ALL ".join(arms)

    async def _types(self, connection: Connection) -> Types:
        return (await self._database.statements(connection)).types

    async def _records(self, connection: Connection, rest: str, *values: object) -> list[UserRecord]:
        return await records(connection, self.source, self._issuers, rest, *values)

    async def count_known(self, issuer: str, subjects: Sequence[str]) -> int:
        """Return how many of these subjects have a user at an issuer (its `iss`)."""
        name, tenant = place_of(self._issuers, Identity(issuer, ""))
        if not self.source.identities_of(name):
            return 0
        async with self._database.connection() as connection:
            types = await self._types(connection)
            keys = relations.identities(self.source, types.columns, name, "wanted.subject", "$2::text")
            return int(
                await connection.fetchval(
                    "SELECT count(*) FROM unnest($1::text[]) AS wanted (subject)"
                    f" WHERE EXISTS ({keys}) AND ($2::text IS NULL OR true)",
                    [each for each in subjects if is_clean(each)],
                    tenant,
                )
            )

    async def every_identity(
        self, issuer: str | None, *, batch: int, seconds: float, by_email: bool = False
    ) -> AsyncIterator[list[tuple[str, str, str, str]]]:
        """Read the identities of an issuer (its `iss`), or all, in batches of one snapshot.

        Each is `iss`, subject, the user's id, and the user's status; with `by_email`, the user's e-mail
        address in small letters stands in the place of the subject. A batch may take some seconds.
        """
        subject = "coalesce(lower(u.email), i.subject)" if by_email else "i.subject"
        name = None if issuer is None else place_of(self._issuers, Identity(issuer, ""))[0]
        among = self.source
        if name is not None:
            among = replace(
                among, identities=tuple(replace(e, issuer=(name,)) for e in among.identities_of(name))
            )
        if not among.identities:
            return
        linked = relations.all_identities(among, self._issuers)
        async with self._database.connection() as connection, connection.transaction(readonly=True):
            await connection.execute(f"SET LOCAL statement_timeout = {round(seconds * 1000)}")
            cursor = await connection.cursor(
                f"SELECT i.issuer, {subject} AS subject, u.id, u.status FROM ({linked}) AS i"
                f" JOIN ({relations.users(self.source)}) AS u ON u.key = i.key"
                " WHERE $1::text IS NULL OR i.issuer = $1",
                issuer,
            )
            while rows := await cursor.fetch(batch, timeout=seconds):
                yield [(row["issuer"], row["subject"], row["id"], row["status"]) for row in rows]

    # Changing ------------------------------------------------------------------------------------

    async def add(
        self,
        identity: Identity,
        *,
        status: UserStatus = UserStatus.ACTIVE,
        tenant: str | None = None,
        email: str | None = None,
        display_name: str | None = None,
        roles: Sequence[str] = (),
        author: Author | None = None,
    ) -> UserRecord:
        """Create a user with its first identity. Raises `IdentityTaken`."""
        changes: UserChanges = {"status": status}
        if tenant is not None:
            changes["tenant"] = tenant
        if email is not None:
            changes["email"] = email
        if display_name is not None:
            changes["display_name"] = display_name
        if roles:
            changes["roles"] = tuple(roles)
        return await self._writer.add(identity, changes, author)

    async def obstacle_to_link(self, identity: Identity) -> str | None:
        """Return why an identity cannot be linked here, as far as the catalogs know; None: it can."""
        if not self.source.writable:
            return str(read_only_identities(self.source, place_of(self._issuers, identity)[0]))
        async with self._database.connection() as connection:
            return await self._writer.obstacle_to_link(connection, identity)

    async def obstacle_to_add(self, identity: Identity, changes: UserChanges) -> str | None:
        """Return why a user cannot be created here, as far as the catalogs know; None: it can."""
        if not self.source.writable:
            return str(read_only_users(self.source))
        async with self._database.connection() as connection:
            types = await self._types(connection)
            return await self._writer.obstacle_to_add(connection, identity, changes, types)

    async def link(
        self,
        user_id: UserId,
        identity: Identity,
        *,
        expected: Expectation | None = None,
        author: Author | None = None,
    ) -> UserRecord:
        """Link an identity to a user. Raises like `UserDirectory.link`."""
        return await self._writer.link(str(user_id), identity, expected, author)

    async def unlink(
        self,
        user_id: UserId,
        identity: Identity,
        *,
        expected: Expectation | None = None,
        author: Author | None = None,
    ) -> UserRecord:
        """Unlink an identity from a user. Raises like `UserDirectory.unlink`."""
        return await self._writer.unlink(str(user_id), identity, expected, author)

    async def move(
        self, identity: Identity, *, source: UserId, target: UserId, author: Author | None = None
    ) -> UserRecord:
        """Move an identity from one user to another. Raises like `UserDirectory.move`."""
        return await self._writer.move(identity, str(source), str(target), author)

    async def change(
        self,
        user_id: UserId,
        changes: UserChanges,
        *,
        expected: Expectation | None = None,
        author: Author | None = None,
    ) -> UserRecord:
        """Change a user. Raises like `UserDirectory.change`."""
        return await self._writer.change(str(user_id), changes, "user.change", expected, author)

    async def delete(
        self, user_id: UserId, *, expected: Expectation | None = None, author: Author | None = None
    ) -> UserRecord:
        """Mark a user as deleted, where a rule of the source has that status. Raises like `change`."""
        return await self._writer.change(
            str(user_id), {"status": UserStatus.DELETED}, "user.delete", expected, author
        )

    async def restore(
        self, user_id: UserId, *, expected: Expectation | None = None, author: Author | None = None
    ) -> UserRecord:
        """Make a deleted user active. Raises like `change`."""
        return await self._writer.change(
            str(user_id), {"status": UserStatus.ACTIVE}, "user.restore", expected, author
        )


AnyDirectory: TypeAlias = UserDirectory | SourceDirectory
