"""The rows of a source as an operator sees them: a user with all identities."""

import time
from collections.abc import Mapping
from typing import Final
from uuid import UUID

from gateway.core.model import Identity
from gateway.core.tokens.issuer_patterns import IssuerNames
from gateway.stores.postgres.directory.user_rows import UserId, UserNotFound, UserRecord
from gateway.stores.postgres.source import relations
from gateway.stores.postgres.source.database import Types, read_user
from gateway.stores.postgres.source.definition import UserSource
from gateway.stores.postgres.statements import Connection

INTEGERS: Final = {"smallint": 2**15, "integer": 2**31, "bigint": 2**63}
"""Types of ids that grow with time, as a rule, and the first number that each does not have."""


async def records(
    connection: Connection, source: UserSource, issuers: Mapping[str, str], rest: str, *values: object
) -> list[UserRecord]:
    """Return users. `rest` is SQL behind FROM; a row of the relation of users is `u`."""
    linked = relations.all_identities(source, issuers, "= gateway_key")
    asked_at = time.time()
    rows = await connection.fetch(
        f"""
        SELECT {relations.COLUMNS}, extract(epoch FROM u.created_at)::float8 AS created_at,
            pg_current_xact_id_if_assigned()::text::bigint AS version,
            ARRAY(
                SELECT ARRAY[gateway_each.issuer, gateway_each.subject] FROM ({linked}) AS gateway_each
                ORDER BY gateway_each.issuer, gateway_each.subject
            ) AS identities
        FROM (SELECT u.*, u.key AS gateway_key FROM ({relations.users(source)}) AS u) AS u {rest}
        """,
        *values,
    )
    return [
        UserRecord(
            user=read_user(row, asked_at),
            identities=tuple(Identity(issuer, subject) for issuer, subject in row["identities"]),
            created_at=row["created_at"],
            updated_at=None,
            deleted_at=None,
            version=row["version"],
        )
        for row in rows
    ]


def place_of(issuers: IssuerNames, identity: Identity) -> tuple[str, str | None]:
    """Return the name of an identity's issuer, and the tenant if that has many; an empty name if unknown."""
    name, _, tenant = (issuers.name_of(identity.issuer) or "").partition("/")
    return name, tenant or None


async def one(
    connection: Connection, source: UserSource, issuers: Mapping[str, str], types: Types, user_id: UserId
) -> UserRecord:
    """Return a user by its id. Raises `UserNotFound`."""
    condition = relations.is_key(types.key, "u.key", "$1::text")
    found = await records(
        connection, source, issuers, f"WHERE {condition} LIMIT 1", spelt(types.key, str(user_id))
    )
    if not found:
        raise UserNotFound(user_id)
    return found[0]


def spelt(key_type: str, text: str) -> str:
    """Return an id as Postgres writes it, where that is known from its type."""
    if key_type == "uuid":
        try:
            return str(UUID(text))
        except ValueError:
            return text
    return text


def fits(key_type: str, text: str) -> bool:
    """Return whether a text is an id of a type."""
    if key_type in INTEGERS:
        return text.removeprefix("-").isdecimal() and text.isascii() and abs(int(text)) < INTEGERS[key_type]
    if key_type == "uuid":
        try:
            UUID(text)
        except ValueError:
            return False
    return True
