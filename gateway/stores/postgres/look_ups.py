"""The look-ups of the hot path: the user behind an identity, and the revocations of a token.

They read `users`, `identities` and `revocations`, and write nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import asyncpg
import orjson
import structlog

from gateway.core.caches import shared, shared_word
from gateway.core.model import (
    JSON,
    NO_ATTRIBUTES,
    Identity,
    RecordUnusable,
    Tier,
    User,
    UserStatus,
)
from gateway.core.revocations import Revocations
from gateway.core.text import json_text
from gateway.stores.postgres.pool import Connection

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

# `OFFSET 0` keeps the planner from reading a whole table for many identities: each is looked up by its key.
_FIND_USERS: Final = f"""
SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint AS horizon, {_FILTERED}, found.*
FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS asked (issuer, subject, place)
LEFT JOIN LATERAL (
    SELECT {USER_COLUMNS}
    FROM identities i JOIN users u ON u.id = i.user_id
    WHERE i.issuer = asked.issuer AND i.subject = asked.subject
    OFFSET 0
) AS found ON true
ORDER BY asked.place
"""  # noqa: S608 -- a constant list of columns; values travel as parameters

# Each look-up is by the primary key: what is used three times would be read whole first, and stored.
_COUNTING: Final = """
WITH counting AS NOT MATERIALIZED (
    SELECT kind, issuer, value, extract(epoch FROM revoked_at)::float8 AS revoked_at
    FROM revocations WHERE gateway_counts(expires_at)
)
"""


def _known_against(user_id: str) -> str:
    """Return the columns about a token: $1 is its `iss`, $3 the issuer's name, $4 the `jti`."""
    return f"""
    row_security_active('revocations'::regclass) AS revocations_filtered,
    EXISTS (SELECT FROM counting WHERE kind = 'jti' AND issuer IN ($3, $1) AND value = $4)
        OR learnt.of_token AS token_revoked,
    greatest(
        (SELECT max(revoked_at) FROM counting WHERE kind = 'user' AND issuer = '' AND value = {user_id}),
        learnt.of_user
    ) AS user_revoked_at,
    greatest(
        (SELECT max(revoked_at) FROM counting WHERE kind = 'issuer' AND issuer IN ($3, $1) AND value = ''),
        learnt.of_issuer
    ) AS issuer_revoked_at"""  # noqa: S608 -- a constant query; values travel as parameters


def _learnt_against(user_id: str) -> str:
    return f"""(
    SELECT coalesce(bool_or(kind = 'jti'), false) AS of_token,
        extract(epoch FROM max(revoked_at) FILTER (WHERE kind = 'user'))::float8 AS of_user,
        extract(epoch FROM max(revoked_at) FILTER (WHERE kind = 'issuer'))::float8 AS of_issuer
    FROM gateway_learnt_revocations(
        ARRAY['jti', 'jti', 'user', 'issuer', 'issuer'],
        ARRAY[$3, $1, '', $3, $1],
        ARRAY[$4, $4, {user_id}, '', '']
    ) WHERE gateway_counts(expires_at)
) AS learnt"""  # noqa: S608 -- a constant query; values travel as parameters


_FIND_USER_AND_REVOCATIONS: Final = f"""
{_COUNTING} SELECT {_known_against("found.id")}, {_FOUND}
LEFT JOIN LATERAL {_learnt_against("found.id")} ON true
"""

_FIND_REVOCATIONS: Final = f"""
{_COUNTING} SELECT {_known_against("$2::text")} FROM {_learnt_against("$2::text")}
"""  # noqa: S608 -- a constant query; values travel as parameters

_STATUSES: Final = frozenset(UserStatus)


@dataclass(frozen=True, slots=True)
class FoundUser:
    """The answer of Postgres about one identity, and its time."""

    user: User | None
    """None: no user is behind it."""
    horizon: int
    """The changes of every transaction with a lower id are in `user` (`pg_snapshot_xmin`)."""
    shared: bool = True
    """Whether Redis may keep it: each change names the identities that it concerns. Otherwise a change may
    name the user's id alone, which memory knows, and Redis does not."""


async def find_all(
    connection: Connection, identities: Sequence[Identity]
) -> list[FoundUser | RecordUnusable]:
    """Find the users behind several identities, as of one moment.

    In place of a user whose row cannot be read, there is the error.
    """
    if len(identities) == 1:
        # Its plan is simpler.
        row = await connection.fetchrow(_FIND_USER, identities[0].issuer, identities[0].subject)
        rows = [] if row is None else [row]
    else:
        issuers, subjects = [each.issuer for each in identities], [each.subject for each in identities]
        rows = await connection.fetch(_FIND_USERS, issuers, subjects)
    if len(rows) != len(identities):
        raise ValueError(f"a query that always has {len(identities)} rows had {len(rows)}")
    return [_found_or_unusable(row) for row in rows]


def _found_or_unusable(row: asyncpg.Record) -> FoundUser | RecordUnusable:
    try:
        return _found(row)
    except RecordUnusable as error:
        return error


async def find_with_revocations(
    connection: Connection, identity: Identity, issuer_name: str, jti: str | None
) -> tuple[FoundUser, Revocations]:
    row = await connection.fetchrow(
        _FIND_USER_AND_REVOCATIONS, identity.issuer, identity.subject, issuer_name, jti
    )
    if row is None:
        raise ValueError("a query that always has one row had none")
    return _found(row), _revocations(row)


async def find_revocations(
    connection: Connection, iss: str, issuer_name: str, jti: str | None, user_id: str | None
) -> Revocations:
    """Return the revocations that concern a token whose user, if it has one, is kept elsewhere."""
    row = await connection.fetchrow(_FIND_REVOCATIONS, iss, user_id, issuer_name, jti)
    if row is None:
        raise ValueError("a query that always has one row had none")
    return _revocations(row)


def _revocations(row: asyncpg.Record) -> Revocations:
    if row["revocations_filtered"]:
        raise hidden("revocations")
    return Revocations(row["token_revoked"], row["user_revoked_at"], row["issuer_revoked_at"])


def _found(row: asyncpg.Record) -> FoundUser:
    if row["filtered"] is not None:
        raise hidden(row["filtered"])
    try:
        return FoundUser(None if row["id"] is None else user_from_row(row), row["horizon"])
    except ValueError as error:
        raise RecordUnusable(Tier.POSTGRES, f"the row of user {row['id']} cannot be read: {error}") from error


def hidden(table: str) -> asyncpg.InsufficientPrivilegeError:
    """Make the error that Postgres raises itself with `row_security = off`."""
    return asyncpg.InsufficientPrivilegeError(
        f'query would be affected by row-level security policy for table "{table}"'
    )


def user_from_row(row: asyncpg.Record, valid_until: float | None = None) -> User:
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
        tenant=None if row["tenant"] is None else shared_word(row["tenant"]),
        email=row["email"],
        display_name=row["display_name"],
        roles=shared(tuple(roles)),
        attributes=attributes or NO_ATTRIBUTES,
        tokens_valid_after=row["tokens_valid_after"],
        valid_until=valid_until,
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
