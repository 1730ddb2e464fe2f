"""The user directory for operators: users and their identities, with writes.

This is not the hot path, whose database role needs none of these rights.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final
from uuid import UUID

from gateway.core.model import JSON, Identity, UserStatus
from gateway.stores.postgres.database import Postgres
from gateway.stores.postgres.directory import audit, user_rows
from gateway.stores.postgres.directory.audit import Author
from gateway.stores.postgres.directory.user_rows import (
    Expectation,
    IdentityMissing,
    IdentityTaken,
    StatusRefused,
    UserChanged,
    UserChanges,
    UserId,
    UserNotFound,
    UserRecord,
)
from gateway.stores.postgres.pool import Connection

__all__ = [
    "IdentityMissing",
    "IdentityTaken",
    "StatusRefused",
    "UserChanged",
    "UserChanges",
    "UserDirectory",
    "UserNotFound",
    "UserRecord",
    "microseconds",
]

_LAST: Final = 9_999_999_999.0
"""The last second that a cursor can represent, in the year 2286."""

_LIST: Final = f"""
{user_rows.SELECT}
WHERE ($1::text IS NULL OR u.status = $1) AND ($2::text IS NULL OR u.tenant = $2)
    AND ($3::uuid IS NULL OR (u.created_at, u.id) > (SELECT created_at, id FROM users WHERE id = $3))
ORDER BY u.created_at, u.id LIMIT $4
"""  # noqa: S608 -- a constant query; values travel as parameters

_AFTER: Final = """
($1::text IS NULL OR u.status = $1) AND ($2::text IS NULL OR u.tenant = $2)
AND ($3::bigint IS NULL OR (u.created_at, u.id) > ('epoch'::timestamptz + $3 * interval '1 us', $4::uuid))
ORDER BY u.created_at, u.id LIMIT $5
"""

_BROWSE: Final = f"{user_rows.SELECT} WHERE {_AFTER}"

_BEGINS: Final = r"LIKE regexp_replace(lower(left($6, 128)), '([\\%_])', '\\\1', 'g') || '%'"
# Each arm uses its own index. One condition with four alternatives would use none.
_SEARCH: Final = f"""
WITH found AS (
    SELECT id FROM users WHERE lower(left(email, 128)) {_BEGINS}
    UNION SELECT id FROM users WHERE lower(left(display_name, 128)) {_BEGINS}
    UNION SELECT user_id FROM identities WHERE subject = $6
    UNION SELECT id FROM users WHERE id = $7
)
{user_rows.SELECT} JOIN found ON found.id = u.id WHERE {_AFTER}
"""  # noqa: S608 -- a constant query; values travel as parameters

_WITH_EMAIL: Final = f"""
{user_rows.SELECT} WHERE lower(u.email) = lower($1)
ORDER BY u.status = 'active' DESC, u.created_at, u.id LIMIT 100
"""

# An unchanged time is not written, because Postgres has times that are not numbers.
_CHANGE: Final = """
UPDATE users SET status = $2, tenant = $3, email = $4, display_name = $5, roles = $6,
    tokens_valid_after = CASE WHEN $7 THEN to_timestamp($8::float8) ELSE tokens_valid_after END
WHERE id = $1
"""


class UserDirectory:
    """Reads and changes users. Every method may raise `StoreUnavailable`.

    A change with an author is recorded in the audit log, in the same transaction.
    """

    def __init__(self, postgres: Postgres) -> None:
        self._postgres = postgres

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
        async with self._postgres.connection() as connection, connection.transaction():
            user_id = await connection.fetchval(
                "INSERT INTO users (status, tenant, email, display_name, roles)"
                " VALUES ($1, $2, $3, $4, $5) RETURNING id",
                status.value, tenant, email, display_name, list(roles),
            )  # fmt: skip
            await user_rows.link(connection, user_id, identity)
            detail: dict[str, JSON] = {
                **_named(identity), "status": status.value, "tenant": tenant, "roles": list(roles),
            }  # fmt: skip
            await audit.record(connection, author, "user.create", f"user:{user_id}", detail)
            return await user_rows.get(connection, user_id)

    async def link(
        self,
        user_id: UserId,
        identity: Identity,
        *,
        expected: Expectation | None = None,
        author: Author | None = None,
    ) -> UserRecord:
        """Link an identity to a user.

        Raises `UserNotFound`, `IdentityTaken`, or `UserChanged` when the user is not as `expected`.
        """
        async with self._postgres.connection() as connection, connection.transaction():
            key = user_rows.key_of(user_id)
            await user_rows.lock(connection, key, expected)
            await _link(connection, key, identity, author)
            return await user_rows.get(connection, key)

    async def unlink(
        self,
        user_id: UserId,
        identity: Identity,
        *,
        expected: Expectation | None = None,
        author: Author | None = None,
    ) -> UserRecord:
        """Unlink an identity from a user, who may be left with none.

        Raises `UserNotFound`, `IdentityMissing`, or `UserChanged` when the user is not as `expected`.
        """
        async with self._postgres.connection() as connection, connection.transaction():
            key = user_rows.key_of(user_id)
            await user_rows.lock(connection, key, expected)
            await _unlink(connection, key, identity, author)
            return await user_rows.get(connection, key)

    async def move(
        self, identity: Identity, *, source: UserId, target: UserId, author: Author | None = None
    ) -> UserRecord:
        """Move an identity from one user to another; return the latter.

        Raises `UserNotFound`, or `IdentityMissing` when the identity does not lead to `source`.
        """
        async with self._postgres.connection() as connection, connection.transaction():
            giver, taker = user_rows.key_of(source), user_rows.key_of(target)
            # Lock in a fixed order, so that two concurrent moves cannot deadlock.
            for key in sorted((giver, taker)):
                await user_rows.lock(connection, key, None)
            await _unlink(connection, giver, identity, author)
            await _link(connection, taker, identity, author)
            return await user_rows.get(connection, taker)

    @staticmethod
    def id_in(text: str) -> str:
        """Return the id that a text is, as rows have it. Raises `UserIdMalformed`."""
        return str(user_rows.key_of(text))

    async def get(self, user_id: UserId) -> UserRecord:
        """Return a user by its id. Raises `UserNotFound`."""
        key = user_rows.key_of(user_id)
        async with self._postgres.connection() as connection:
            return await user_rows.get(connection, key)

    async def find(self, identity: Identity) -> UserRecord | None:
        """Return the user behind an identity."""
        async with self._postgres.connection() as connection:
            row = await connection.fetchrow(
                f"{user_rows.SELECT} JOIN identities own ON own.user_id = u.id"
                " WHERE own.issuer = $1 AND own.subject = $2",
                identity.issuer, identity.subject,
            )  # fmt: skip
            return None if row is None else user_rows.from_row(row)

    async def with_email(self, email: str) -> list[UserRecord]:
        """Return up to 100 users with an e-mail address, in any letter case. Addresses are not unique.

        Active users come first, then older ones.
        """
        async with self._postgres.connection() as connection:
            rows = await connection.fetch(_WITH_EMAIL, email)
            return [user_rows.from_row(row) for row in rows]

    async def page(
        self,
        *,
        status: UserStatus | None = None,
        tenant: str | None = None,
        after: UserId | None = None,
        limit: int = 50,
    ) -> list[UserRecord]:
        """Return a page of users, oldest first. `after` is the id of the last user of the previous page."""
        last = None if after is None else user_rows.key_of(after)
        async with self._postgres.connection() as connection:
            rows = await connection.fetch(_LIST, status and status.value, tenant, last, limit)
            return [user_rows.from_row(row) for row in rows]

    async def search(
        self,
        *,
        text: str | None = None,
        status: UserStatus | None = None,
        tenant: str | None = None,
        after: tuple[int, UserId] | None = None,
        limit: int = 50,
    ) -> list[UserRecord]:
        """Return a page of users, oldest first.

        `text` is a subject, an id, or the beginning of an e-mail address or a display name, in any letter
        case. `after` is when the last user of the previous page was created, in microseconds since 1970, and
        its id.
        """
        created, last = (None, None) if after is None else (after[0], user_rows.key_of(after[1]))
        values: list[object] = [status and status.value, tenant, created, last, limit]
        async with self._postgres.connection() as connection:
            if text is None:
                rows = await connection.fetch(_BROWSE, *values)
            else:
                rows = await connection.fetch(_SEARCH, *values, text, _uuid(text))
            return [user_rows.from_row(row) for row in rows]

    async def change(
        self,
        user_id: UserId,
        changes: UserChanges,
        *,
        expected: Expectation | None = None,
        author: Author | None = None,
    ) -> UserRecord:
        """Change a user.

        Raises `UserNotFound`, `StatusRefused` for the status of a deleted one, or `UserChanged` when the
        user is not as `expected`.
        """
        async with self._postgres.connection() as connection, connection.transaction():
            key = user_rows.key_of(user_id)
            before = (await user_rows.lock(connection, key, expected)).user
            if "status" in changes and before.status is UserStatus.DELETED:
                raise StatusRefused(before.status)
            after = replace(before, **changes)
            await connection.execute(
                _CHANGE,
                key, after.status.value, after.tenant, after.email, after.display_name, list(after.roles),
                "tokens_valid_after" in changes, after.tokens_valid_after,
            )  # fmt: skip
            detail = user_rows.difference(before, after, changes)
            await audit.record(connection, author, "user.change", f"user:{key}", detail)
            return await user_rows.get(connection, key)

    async def delete(
        self, user_id: UserId, *, expected: Expectation | None = None, author: Author | None = None
    ) -> UserRecord:
        """Mark a user as deleted. Raises like `change`."""
        return await self._change_status(
            user_id, UserStatus.DELETED, deleted=False, expected=expected, author=author
        )

    async def restore(
        self, user_id: UserId, *, expected: Expectation | None = None, author: Author | None = None
    ) -> UserRecord:
        """Restore a deleted user to active. Raises like `change`; `StatusRefused` if it is not deleted."""
        return await self._change_status(
            user_id, UserStatus.ACTIVE, deleted=True, expected=expected, author=author
        )

    async def _change_status(
        self,
        user_id: UserId,
        status: UserStatus,
        *,
        deleted: bool,
        expected: Expectation | None = None,
        author: Author | None = None,
    ) -> UserRecord:
        async with self._postgres.connection() as connection, connection.transaction():
            key = user_rows.key_of(user_id)
            before = (await user_rows.lock(connection, key, expected)).user.status
            if (before is UserStatus.DELETED) is not deleted:
                raise StatusRefused(before)
            await connection.execute("UPDATE users SET status = $2 WHERE id = $1", key, status.value)
            action = "user.restore" if deleted else "user.delete"
            await audit.record(connection, author, action, f"user:{key}", {"status": before.value})
            return await user_rows.get(connection, key)


async def _link(connection: Connection, user_id: UUID, identity: Identity, author: Author | None) -> None:
    await user_rows.link(connection, user_id, identity)
    await audit.record(connection, author, "identity.link", f"user:{user_id}", _named(identity))


async def _unlink(connection: Connection, user_id: UUID, identity: Identity, author: Author | None) -> None:
    await user_rows.unlink(connection, user_id, identity)
    await audit.record(connection, author, "identity.unlink", f"user:{user_id}", _named(identity))


def _named(identity: Identity) -> dict[str, JSON]:
    return {"issuer": identity.issuer, "subject": identity.subject}


def microseconds(instant: float | None) -> int:
    """Return a time of a row for a cursor. Postgres has times that are not numbers; None is 1970."""
    return round(min(max(instant or 0.0, 0.0), _LAST) * 1_000_000)


def _uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None
