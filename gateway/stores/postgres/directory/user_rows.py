"""A user with its identities as a row: how it is read, found, and locked for a change."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias, TypedDict
from uuid import UUID

import asyncpg

from gateway.core.model import JSON, Identity, RecordUnusable, Tier, User, UserStatus
from gateway.stores.postgres.look_ups import USER_COLUMNS, user_from_row
from gateway.stores.postgres.pool import Connection

SELECT: Final = f"""
SELECT {USER_COLUMNS},
    extract(epoch FROM u.created_at)::float8 AS created_at,
    extract(epoch FROM u.updated_at)::float8 AS updated_at,
    extract(epoch FROM u.deleted_at)::float8 AS deleted_at,
    pg_current_xact_id_if_assigned()::text::bigint AS version,
    ARRAY(SELECT ARRAY[i.issuer, i.subject] FROM identities i WHERE i.user_id = u.id
        ORDER BY i.created_at, i.issuer, i.subject) AS identities
FROM users u
"""  # noqa: S608 -- a constant list of columns; values travel as parameters


@dataclass(frozen=True, slots=True)
class UserRecord:
    """A user with its identities. Times are in Unix seconds."""

    user: User
    identities: tuple[Identity, ...]
    created_at: float | None
    """None: a source of users does not say it. So for the next two."""
    updated_at: float | None
    deleted_at: float | None
    version: int | None = field(default=None, compare=False)
    """The transaction that wrote it, if this record was just written."""


class UserChanges(TypedDict, total=False):
    """The changes of a user. Absent fields stay unchanged."""

    status: UserStatus
    tenant: str | None
    email: str | None
    display_name: str | None
    roles: tuple[str, ...]
    tokens_valid_after: float | None
    """In Unix seconds."""


UserId: TypeAlias = UUID | str
"""A user's id, or how it is written."""
Expectation: TypeAlias = Callable[[UserRecord], bool]
"""Returns whether a user is still as its editor saw it."""
_PERSONAL: Final = frozenset({"email", "display_name"})
"""The audit log records that these were changed, but not their values."""


class UserNotFound(LookupError):
    """There is no user with this id."""

    def __init__(self, user_id: UserId) -> None:
        super().__init__(f"there is no user with the id {user_id}")
        self.user_id = user_id


class UserIdMalformed(Exception):
    """No user can have this id."""

    def __init__(self) -> None:
        super().__init__("the id of a user is a UUID")


class ChangeRefused(Exception):
    """The users are in a source, where this cannot be changed from here. The text says where it can be."""


class SourceReadOnly(ChangeRefused):
    """The source may not be written to (`users.source.writable`)."""


class NotWritable(ChangeRefused):
    """The source may be written to, but this cannot be: for example, an expression computes it."""


class IdentityAmbiguous(RecordUnusable):
    """Several users of a source are behind one identity: requests with it are refused as 503."""

    def __init__(self, identity: Identity, ids: Sequence[str]) -> None:
        super().__init__(
            Tier.POSTGRES,
            f"users.source: several users have this subject of one issuer: {', '.join(ids)}",
        )
        self.identity = identity
        self.ids = tuple(ids)


class IdentityTaken(Exception):
    """An identity already leads to a user, and can lead to only one."""

    def __init__(self, identity: Identity, user_id: str) -> None:
        super().__init__(f"this identity already belongs to user {user_id}")
        self.identity = identity
        self.user_id = user_id


class IdentityMissing(LookupError):
    """An identity does not lead to the user from whom it should be unlinked."""

    def __init__(self) -> None:
        super().__init__("no such identity leads to this user")


class UserChanged(Exception):
    """The user is not as expected: another writer changed it."""

    def __init__(self) -> None:
        super().__init__("the user has changed since it was read")


class StatusRefused(Exception):
    """A deleted user can only be restored, and only a deleted one."""

    def __init__(self, status: UserStatus) -> None:
        super().__init__(f"the user is {status}")
        self.status = status


async def link(connection: Connection, user_id: UUID, identity: Identity) -> None:
    """Link an identity to a user. Raises `IdentityTaken`."""
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


async def unlink(connection: Connection, user_id: UUID, identity: Identity) -> None:
    """Unlink an identity from a user. Raises `IdentityMissing`."""
    gone = await connection.fetchval(
        "DELETE FROM identities WHERE issuer = $1 AND subject = $2 AND user_id = $3 RETURNING true",
        identity.issuer, identity.subject, user_id,
    )  # fmt: skip
    if gone is None:
        raise IdentityMissing


async def lock(connection: Connection, user_id: UUID, expected: Expectation | None) -> UserRecord:
    """Return a user and lock it: no other transaction can change it before this one ends.

    Raises `UserNotFound`, or `UserChanged` when the user is not as `expected`.
    """
    await connection.execute("SELECT FROM users WHERE id = $1 FOR UPDATE", user_id)
    found = await get(connection, user_id)
    if expected is not None and not expected(found):
        raise UserChanged
    return found


async def get(connection: Connection, user_id: UUID) -> UserRecord:
    """Return a user by its id. Raises `UserNotFound`."""
    row = await connection.fetchrow(f"{SELECT} WHERE u.id = $1", user_id)
    if row is None:
        raise UserNotFound(user_id)
    return from_row(row)


def from_row(row: asyncpg.Record) -> UserRecord:
    return UserRecord(
        user=user_from_row(row),
        identities=tuple(Identity(issuer, subject) for issuer, subject in row["identities"]),
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        deleted_at=row["deleted_at"],
        version=row["version"],
    )


def difference(before: User, after: User, changes: UserChanges) -> dict[str, JSON]:
    """Return the old and new values for the audit log."""
    different: dict[str, JSON] = {}
    for name in changes:
        old, new = getattr(before, name), getattr(after, name)
        if old != new:
            different[name] = None if name in _PERSONAL else [_plain(old), _plain(new)]
    return {"changed": different}


def _plain(value: UserStatus | tuple[str, ...] | str | float | None) -> JSON:
    return list(value) if isinstance(value, tuple) else value


def key_of(user_id: UserId) -> UUID:
    """Return the id as a key of the gateway's own tables. Raises `UserIdMalformed`."""
    if isinstance(user_id, UUID):
        return user_id
    try:
        return UUID(user_id)
    except ValueError as error:
        raise UserIdMalformed from error
