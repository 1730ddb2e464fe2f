"""Many users at once, for `gateway users import`: one transaction for each batch.

A batch that was interrupted leaves nothing, and one that was done is found again by its identities. So an
import that is run again goes on where it was.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple
from uuid import uuid4

import orjson

from gateway.core.model import UserStatus
from gateway.stores.postgres.database import Postgres
from gateway.stores.postgres.directory.audit import Author
from gateway.stores.postgres.pool import Connection

BATCH: Final = 5_000
"""Users in one transaction. Above 500 it sends one notice: a flush (`migrations/0007_bulk_changes.sql`)."""

# One import at a time. The first number is "prov", as in `migrations/0010_provisioning.sql`.
_LOCK: Final = "SELECT pg_advisory_xact_lock(1886547830, hashtext(current_schema()::text || ' import'))"

# By the identity, else by the e-mail address, where users who are not deleted come first. A sub-query with
# LIMIT is run for each user, with an index: a join would be planned for tables as small as the statistics
# say, and after an import there are none yet.
_HOLDERS: Final = """
SELECT held.user_id::text, held.status, other.id::text, other.status
FROM unnest($2::text[], $3::text[]) WITH ORDINALITY AS wanted (subject, email, place)
LEFT JOIN LATERAL (
    SELECT user_id, users.status FROM identities JOIN users ON users.id = user_id
    WHERE issuer = $1 AND subject = wanted.subject LIMIT 1
) AS held ON true
LEFT JOIN LATERAL (
    SELECT id, users.status FROM users
    WHERE held.user_id IS NULL AND lower(users.email) = lower(wanted.email)
    ORDER BY users.status = 'deleted', created_at, id LIMIT 1
) AS other ON true
ORDER BY place
"""

_USERS: Final = """
INSERT INTO users (id, status, tenant, email, display_name, roles)
SELECT id, status, tenant, email, display_name, ARRAY(SELECT jsonb_array_elements_text(roles::jsonb))
FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[])
    AS new (id, status, tenant, email, display_name, roles)
"""

_IDENTITIES: Final = """
INSERT INTO identities (issuer, subject, user_id)
SELECT $1, subject, id FROM unnest($2::text[], $3::uuid[]) AS new (subject, id)
ON CONFLICT (issuer, subject) DO NOTHING RETURNING user_id
"""

_AUDIT: Final = """
INSERT INTO audit (actor, action, target, request_id, detail)
SELECT $1, 'user.create', 'user:' || id, $2, jsonb_build_object(
    'issuer', $3::text, 'subject', subject, 'status', status, 'tenant', tenant, 'roles', roles::jsonb
)
FROM unnest($4::uuid[], $5::text[], $6::text[], $7::text[], $8::text[])
    AS new (id, subject, status, tenant, roles)
"""


class NewUser(NamedTuple):
    """A user to create. A tuple, because there may be millions."""

    subject: str
    status: UserStatus
    tenant: str | None
    email: str | None
    display_name: str | None
    roles: tuple[str, ...]


class Holder(NamedTuple):
    """The user who already has the identity of a new user, or its e-mail address."""

    user: str
    """Its id."""
    status: UserStatus
    by_email: bool


class UserImport:
    """Creates users of one issuer (its `iss`) in batches. Every method may raise `StoreUnavailable`."""

    def __init__(self, postgres: Postgres, issuer: str) -> None:
        self._postgres = postgres
        self._issuer = issuer

    async def holders(self, users: Sequence[NewUser]) -> list[Holder | None]:
        """Return for each new user the existing one that prevents it; None if it can be created."""
        async with self._postgres.connection() as connection, connection.transaction(readonly=True):
            return await self._holders(connection, users)

    async def create(self, users: Sequence[NewUser], author: Author) -> list[Holder | None]:
        """Create the users that no existing user prevents, in one transaction; return as `holders`."""
        async with self._postgres.connection() as connection, connection.transaction():
            await connection.execute(_LOCK)
            found = await self._holders(connection, users)
            free = [user for user, holder in zip(users, found, strict=True) if holder is None]
            if not free:
                return found
            taken = await self._write(connection, free, author)
            if taken:
                found = [
                    each or (late if user.subject in taken else None)
                    for user, each, late in zip(
                        users, found, await self._holders(connection, users), strict=True
                    )
                ]
            return found

    async def _holders(self, connection: Connection, users: Sequence[NewUser]) -> list[Holder | None]:
        # A plan that was made for the first batch would not fit the later ones.
        await connection.execute("SET LOCAL plan_cache_mode = force_custom_plan")
        rows = await connection.fetch(
            _HOLDERS, self._issuer, [each.subject for each in users], [each.email for each in users]
        )
        await connection.execute("SET LOCAL plan_cache_mode = DEFAULT")
        return [_holder(*row) for row in rows]

    async def _write(self, connection: Connection, users: Sequence[NewUser], author: Author) -> set[str]:
        """Write users; return the subjects for which another program was faster."""
        ids = [uuid4() for _ in users]
        subjects = [each.subject for each in users]
        statuses, tenants = [each.status.value for each in users], [each.tenant for each in users]
        roles = [orjson.dumps(each.roles).decode() for each in users]
        await connection.execute(
            _USERS, ids, statuses, tenants, [each.email for each in users],
            [each.display_name for each in users], roles,
        )  # fmt: skip
        rows = await connection.fetch(_IDENTITIES, self._issuer, subjects, ids)
        linked = {row["user_id"] for row in rows}
        lost = [user_id for user_id in ids if user_id not in linked]
        if lost:
            await connection.execute("DELETE FROM users WHERE id = ANY ($1::uuid[])", lost)
        kept = [place for place, user_id in enumerate(ids) if user_id in linked]
        await connection.execute(
            _AUDIT, author.actor, author.request_id, self._issuer,
            *([column[place] for place in kept] for column in (ids, subjects, statuses, tenants, roles)),
        )  # fmt: skip
        return {subjects[place] for place, user_id in enumerate(ids) if user_id not in linked}


def _holder(owner: str | None, status: str | None, namesake: str | None, other: str | None) -> Holder | None:
    if owner is not None and status is not None:
        return Holder(owner, UserStatus(status), by_email=False)
    if namesake is not None and other is not None:
        return Holder(namesake, UserStatus(other), by_email=True)
    return None
