"""The user directory as operators see it: users, their identities, and revocations, with writes.

Away from the hot path, whose database role needs none of these rights.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

import asyncpg

from gateway.backends.postgres import USER_COLUMNS, Connection, Postgres, user_from_row
from gateway.backends.revocations import Revocation
from gateway.core.model import Identity, RevocationKind, User, UserStatus

_RECORD: Final = f"""
SELECT {USER_COLUMNS},
    extract(epoch FROM u.created_at)::float8 AS created_at,
    extract(epoch FROM u.updated_at)::float8 AS updated_at,
    extract(epoch FROM u.deleted_at)::float8 AS deleted_at,
    ARRAY(SELECT ARRAY[i.issuer, i.subject] FROM identities i WHERE i.user_id = u.id
        ORDER BY i.created_at, i.issuer, i.subject) AS identities
FROM users u
"""  # noqa: S608 -- a constant list of columns; values travel as parameters

_LIST: Final = f"""
{_RECORD}
WHERE ($1::text IS NULL OR u.status = $1) AND ($2::text IS NULL OR u.tenant = $2)
    AND ($3::uuid IS NULL OR (u.created_at, u.id) > (SELECT created_at, id FROM users WHERE id = $3))
ORDER BY u.created_at, u.id LIMIT $4
"""  # noqa: S608 -- a constant query; values travel as parameters

_REVOCATION_COLUMNS: Final = """
kind, issuer, value, extract(epoch FROM revoked_at)::float8 AS revoked_at,
extract(epoch FROM expires_at)::float8 AS expires_at, reason, revoked_by
"""

# A revocation only grows: the later instant and the later expiry win.
_REVOKE: Final = f"""
INSERT INTO revocations AS held (kind, issuer, value, expires_at, reason, revoked_by)
VALUES ($1, $2, $3, to_timestamp($4::float8), $5, $6)
ON CONFLICT (kind, issuer, value) DO UPDATE SET
    revoked_at = greatest(held.revoked_at, excluded.revoked_at),
    expires_at = CASE WHEN held.expires_at IS NOT NULL AND excluded.expires_at IS NOT NULL
        THEN greatest(held.expires_at, excluded.expires_at) END,
    reason = coalesce(excluded.reason, held.reason),
    revoked_by = excluded.revoked_by
RETURNING {_REVOCATION_COLUMNS}
"""  # noqa: S608 -- a constant list of columns; values travel as parameters

_REVOCATIONS: Final = f"""
SELECT {_REVOCATION_COLUMNS} FROM revocations
WHERE $1 OR expires_at IS NULL OR expires_at > now()
ORDER BY revocations.revoked_at DESC, kind, issuer, value LIMIT $2
"""  # noqa: S608 -- a constant list of columns; values travel as parameters


@dataclass(frozen=True, slots=True)
class UserRecord:
    """A user with what leads to it; times in Unix seconds."""

    user: User
    identities: tuple[Identity, ...]
    created_at: float
    updated_at: float
    deleted_at: float | None


class UserNotFound(LookupError):
    """There is no user with this id."""

    def __init__(self, user_id: UUID) -> None:
        super().__init__(f"there is no user with the id {user_id}")
        self.user_id = user_id


class IdentityTaken(Exception):
    """An identity leads to a user already, and can lead to one only."""

    def __init__(self, identity: Identity, user_id: str) -> None:
        super().__init__(f"this identity belongs to user {user_id} already")
        self.identity = identity
        self.user_id = user_id


class StatusRefused(Exception):
    """A deleted user can only be restored, and only a deleted one."""

    def __init__(self, status: UserStatus) -> None:
        super().__init__(f"the user is {status}")
        self.status = status


class UserDirectory:
    """Reads and changes users and revocations. Every method may raise `StoreUnavailable`."""

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
    ) -> UserRecord:
        """Create a user with its first identity. Raises `IdentityTaken`."""
        async with self._postgres.connection() as connection, connection.transaction():
            user_id = await connection.fetchval(
                "INSERT INTO users (status, tenant, email, display_name, roles)"
                " VALUES ($1, $2, $3, $4, $5) RETURNING id",
                status.value, tenant, email, display_name, list(roles),
            )  # fmt: skip
            await _link(connection, user_id, identity)
            return await _get(connection, user_id)

    async def link(self, user_id: UUID, identity: Identity) -> UserRecord:
        """Let another identity lead to a user. Raises `UserNotFound` or `IdentityTaken`."""
        async with self._postgres.connection() as connection, connection.transaction():
            await _get(connection, user_id)
            await _link(connection, user_id, identity)
            return await _get(connection, user_id)

    async def get(self, user_id: UUID) -> UserRecord:
        """Return a user by its id. Raises `UserNotFound`."""
        async with self._postgres.connection() as connection:
            return await _get(connection, user_id)

    async def find(self, identity: Identity) -> UserRecord | None:
        """Return the user behind an identity."""
        async with self._postgres.connection() as connection:
            row = await connection.fetchrow(
                f"{_RECORD} JOIN identities own ON own.user_id = u.id"
                " WHERE own.issuer = $1 AND own.subject = $2",
                identity.issuer, identity.subject,
            )  # fmt: skip
            return None if row is None else _record(row)

    async def with_email(self, email: str) -> list[UserRecord]:
        """Return the users with an e-mail address, in any case of letters; nothing makes it unique."""
        async with self._postgres.connection() as connection:
            rows = await connection.fetch(f"{_RECORD} WHERE lower(u.email) = lower($1)", email)
            return [_record(row) for row in rows]

    async def page(
        self,
        *,
        status: UserStatus | None = None,
        tenant: str | None = None,
        after: UUID | None = None,
        limit: int = 50,
    ) -> list[UserRecord]:
        """Return a page of users, oldest first; `after` is the id of the last one of the page before."""
        async with self._postgres.connection() as connection:
            rows = await connection.fetch(_LIST, status and status.value, tenant, after, limit)
            return [_record(row) for row in rows]

    async def set_status(self, user_id: UUID, status: UserStatus) -> UserRecord:
        """Give a user another status. Raises `UserNotFound`, or `StatusRefused` when it is deleted."""
        return await self._change_status(user_id, status, deleted=False)

    async def restore(self, user_id: UUID) -> UserRecord:
        """Make a deleted user active. Raises `UserNotFound`, or `StatusRefused` when it is not deleted."""
        return await self._change_status(user_id, UserStatus.ACTIVE, deleted=True)

    async def _change_status(self, user_id: UUID, status: UserStatus, *, deleted: bool) -> UserRecord:
        async with self._postgres.connection() as connection, connection.transaction():
            await connection.execute("SELECT FROM users WHERE id = $1 FOR UPDATE", user_id)
            before = (await _get(connection, user_id)).user.status
            if (before is UserStatus.DELETED) is not deleted:
                raise StatusRefused(before)
            await connection.execute("UPDATE users SET status = $2 WHERE id = $1", user_id, status.value)
            return await _get(connection, user_id)

    async def revoke(
        self,
        kind: RevocationKind,
        *,
        issuer: str = "",
        value: str = "",
        expires_at: float | None = None,
        reason: str | None = None,
        revoked_by: str | None = None,
    ) -> Revocation:
        """Write a revocation as of this instant; one that is there already is only ever extended.

        `issuer` and `value` are as in `Revocation`; `expires_at` is in Unix seconds.
        """
        async with self._postgres.connection() as connection:
            row = await connection.fetchrow(_REVOKE, kind, issuer, value, expires_at, reason, revoked_by)
            return Revocation(**dict(row or {}))

    async def lift(self, kind: RevocationKind, *, issuers: Sequence[str] = ("",), value: str = "") -> int:
        """Delete a revocation; returns how many rows it had.

        `issuers` are the spellings of its issuer: the configured name and the `iss`.
        """
        async with self._postgres.connection() as connection:
            rows = await connection.fetch(
                "DELETE FROM revocations WHERE kind = $1 AND issuer = ANY($2) AND value = $3 RETURNING kind",
                kind, list(issuers), value,
            )  # fmt: skip
            return len(rows)

    async def revocations(self, *, expired: bool = False, limit: int = 100) -> list[Revocation]:
        """Return the latest revocations that count, with `expired` also those that do not any more."""
        async with self._postgres.connection() as connection:
            rows = await connection.fetch(_REVOCATIONS, expired, limit)
            return [Revocation(**dict(row)) for row in rows]

    async def prune_revocations(self) -> int:
        """Delete the revocations that have expired; returns how many there were."""
        async with self._postgres.connection() as connection:
            rows = await connection.fetch("DELETE FROM revocations WHERE expires_at <= now() RETURNING kind")
            return len(rows)


async def _link(connection: Connection, user_id: UUID, identity: Identity) -> None:
    linked = await connection.fetchval(
        "INSERT INTO identities (issuer, subject, user_id) VALUES ($1, $2, $3)"
        " ON CONFLICT (issuer, subject) DO NOTHING RETURNING true",
        identity.issuer, identity.subject, user_id,
    )  # fmt: skip
    if linked is None:
        owner = await connection.fetchval(
            "SELECT user_id FROM identities WHERE issuer = $1 AND subject = $2",
            identity.issuer, identity.subject,
        )  # fmt: skip
        raise IdentityTaken(identity, str(owner))


async def _get(connection: Connection, user_id: UUID) -> UserRecord:
    row = await connection.fetchrow(f"{_RECORD} WHERE u.id = $1", user_id)
    if row is None:
        raise UserNotFound(user_id)
    return _record(row)


def _record(row: asyncpg.Record) -> UserRecord:
    return UserRecord(
        user=user_from_row(row),
        identities=tuple(Identity(issuer, subject) for issuer, subject in row["identities"]),
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        deleted_at=row["deleted_at"],
    )
