"""Queries that only a diagnosis needs. They only read.

Each has a limit, and all but `nearby_identities` and `users_called` use an index.
"""

import re
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

import asyncpg

from gateway.core.model import Claims, Identity, StoreUnavailable
from gateway.core.revocations import Revocation
from gateway.core.text.lookalikes import guesses
from gateway.core.text.spelling import spellings
from gateway.stores.postgres.database import Postgres
from gateway.stores.postgres.errors import is_lasting, quoted

FailureKind: TypeAlias = Literal["unreachable", "not_migrated", "permission_denied"]

_LIMIT: Final = 200
_PHONE: Final = re.compile(r"[+0-9][0-9 ()./-]*")
_DIGITS: Final = 5
"""A telephone number has more digits than this."""

_REVOCATIONS: Final = """
SELECT kind, issuer, value, extract(epoch FROM revoked_at)::float8 AS revoked_at,
    extract(epoch FROM expires_at)::float8 AS expires_at, reason, revoked_by
FROM (
    SELECT kind, issuer, value, revoked_at, expires_at, reason, revoked_by FROM revocations
    UNION ALL
    SELECT kind, issuer, value, revoked_at, expires_at, reason, revoked_by
    FROM gateway_learnt_revocations(NULL, NULL, NULL)
) AS each
WHERE gateway_counts(expires_at) AND (
    (kind = 'jti' AND issuer = ANY($1) AND value = $2)
    OR (kind = 'user' AND issuer = '' AND value = $3)
    OR (kind = 'issuer' AND issuer = ANY($1) AND value = '')
)
"""

SPELLING: Final = "lower(regexp_replace({}, '^.*[|]|[^[:alnum:]]', '', 'g'))"
"""The expression of the index `identities_spelling`. Without the index, a query is correct but slow."""

_SIMILAR: Final = f"""
SELECT i.issuer, i.subject, i.user_id::text AS user_id
FROM identities i JOIN users u ON u.id = i.user_id
WHERE {SPELLING.format("i.subject")} = ANY (
    SELECT {SPELLING.format("guess")} FROM unnest($1::text[]) AS guess
)
ORDER BY i.subject = $2 DESC, i.issuer = $3 DESC, u.status = 'active' DESC, i.created_at LIMIT {_LIMIT}
"""  # noqa: S608 -- constant expressions; values travel as parameters


# No index has these likenesses. The statement timeout ends the search in tables that are too large for it.
NEARBY: Final = """i.subject <> $1 AND (
    i.subject = ANY($2) OR lower(i.subject) = ANY($2)
    OR octet_length(i.subject) <> length(i.subject)
    OR (right(i.subject, length($1) + 1) = ANY($3))
    OR (length($1) >= 16 AND starts_with(i.subject, $1))
    OR translate(lower(i.subject), '01i|ı', 'ollll') = translate(lower($1), '01i|ı', 'ollll')
    OR replace(lower(i.subject), 'rn', 'm') = replace(lower($1), 'rn', 'm')
    OR ltrim(i.subject, '0+') = ltrim($1, '0+')
    OR lower(split_part(i.subject, '@', 1)) = lower($1)
    OR btrim(i.subject, $4) = $1
    OR rtrim(translate(i.subject, '-_', '+/'), '=')
        = rtrim(replace(encode(convert_to($1, 'UTF8'), 'base64'), chr(10), ''), '=')
    OR (position('@' IN $1) > 0 AND lower(split_part(i.subject, '@', 2)) = lower(split_part($1, '@', 2))
        AND replace(split_part(split_part(lower(i.subject), '@', 1), '+', 1), '.', '')
            = replace(split_part(split_part(lower($1), '@', 1), '+', 1), '.', ''))
)"""
"""Whether `i.subject` may be similar to $1. $2 has guesses, $3 ends, $4 what may stand around it."""
_NEARBY: Final = f"""
SELECT i.issuer, i.subject, i.user_id::text AS user_id
FROM identities i JOIN users u ON u.id = i.user_id
WHERE {NEARBY}
ORDER BY i.issuer = $5 DESC, u.status = 'active' DESC, i.created_at LIMIT {_LIMIT}
"""  # noqa: S608 -- a constant; values travel as parameters

_OF_ISSUER: Final = """
SELECT i.issuer, i.subject, i.user_id::text AS user_id
FROM identities i JOIN users u ON u.id = i.user_id
WHERE i.issuer = $1 AND i.subject = ANY($2) ORDER BY u.status = 'active' DESC LIMIT 5
"""

_CALLED: Final = """
SELECT id::text, CASE WHEN display_name = ANY($1) THEN display_name ELSE 'phone' END AS what
FROM users
WHERE deleted_at IS NULL AND (display_name = ANY($1) OR (
    attributes ?| ARRAY['phone', 'phone_number', 'mobile'] AND length($2) > 5
    AND regexp_replace(coalesce(attributes->>'phone', attributes->>'phone_number', attributes->>'mobile'),
        '[^0-9]', '', 'g') = $2))
LIMIT 3
"""
_POPULATION: Final = """
SELECT EXISTS (SELECT FROM identities WHERE issuer = $1) AS own,
    ARRAY(
        SELECT DISTINCT issuer FROM (SELECT issuer FROM identities LIMIT 10000) AS sample
        ORDER BY issuer LIMIT 5
    ) AS others,
    current_database()::text AS database
"""
_MAY_EXECUTE: Final = """
SELECT has_function_privilege(to_regprocedure(signature), 'EXECUTE') AS allowed
FROM unnest($1::text[]) AS signature
"""
_SEPARATORS: Final = "|:/\\#"
_AROUND: Final = " \t\"'`<>{}[]()"


@dataclass(frozen=True, slots=True)
class SimilarIdentity:
    """An identity whose subject may be another spelling of a subject without a user."""

    identity: Identity
    user_id: str


@dataclass(frozen=True, slots=True)
class Population:
    """The issuers whose identities the tables have."""

    own: bool
    """Whether the issuer in question is among them."""
    others: list[str]
    """Some of the others."""
    database: str


@dataclass(frozen=True, slots=True)
class Login:
    """The role and database of the gateway's connection."""

    role: str
    database: str


def nearby(subject: str) -> tuple[str, list[str], list[str], str]:
    """Return the first four parameters of `NEARBY`."""
    return subject, [*guesses(subject)], [separator + subject for separator in _SEPARATORS], _AROUND


class Diagnostics:
    """Asks the primary. Every method may raise `StoreUnavailable`."""

    def __init__(self, postgres: Postgres) -> None:
        self._postgres = postgres

    async def revocations(self, claims: Claims, user_id: str | None) -> list[Revocation]:
        """Return the revocations of a token, its user and its issuer, even if they do not apply to it."""
        async with self._postgres.connection() as connection:
            rows = await connection.fetch(
                _REVOCATIONS, [*claims.issuer_names, claims.issuer], claims.jti, user_id
            )
            return [Revocation(**dict(row)) for row in rows]

    async def similar_identities(self, identity: Identity) -> list[SimilarIdentity]:
        """Return identities of any issuer with equal or similar subjects.

        Equal subjects come first, then those of the same issuer, then those of active users.
        """
        subject = identity.subject
        guesses = [subject, *(spelling for spelling, _ in spellings(subject))]
        async with self._postgres.connection() as connection:
            rows = await connection.fetch(_SIMILAR, guesses, subject, identity.issuer)
            return [SimilarIdentity(Identity(row["issuer"], row["subject"]), row["user_id"]) for row in rows]

    async def nearby_identities(self, identity: Identity) -> list[SimilarIdentity]:
        """Return identities that may be similar (`core.text.lookalikes`) to a subject."""
        async with self._postgres.connection() as connection:
            rows = await connection.fetch(_NEARBY, *nearby(identity.subject), identity.issuer)
            return [SimilarIdentity(Identity(row["issuer"], row["subject"]), row["user_id"]) for row in rows]

    async def identities_of(self, issuer: str, subjects: list[str]) -> list[SimilarIdentity]:
        """Return up to five of an issuer's identities with one of some subjects."""
        async with self._postgres.connection() as connection:
            rows = await connection.fetch(_OF_ISSUER, issuer, subjects)
            return [SimilarIdentity(Identity(row["issuer"], row["subject"]), row["user_id"]) for row in rows]

    async def users_called(self, names: list[str], phones: list[str]) -> list[tuple[str, str]]:
        """Return up to three users with a name or a telephone number: the id, and the name or `phone`."""
        numbers = [re.sub("[^0-9]", "", each) for each in phones if _PHONE.fullmatch(each)]
        digits = next((number for number in numbers if len(number) > _DIGITS), "")
        async with self._postgres.connection() as connection:
            return [(row["id"], row["what"]) for row in await connection.fetch(_CALLED, names, digits)]

    async def has_identities(self, schema: str) -> bool:
        """Return whether another schema's table of identities has rows."""
        table = f"{quoted(schema)}.identities"
        async with self._postgres.connection() as connection:
            found: bool = await connection.fetchval(f"SELECT EXISTS (SELECT FROM {table})")  # noqa: S608 -- a quoted name of the catalogs
            return found

    async def population(self, issuer: str) -> Population:
        """Return whether the tables have identities of an issuer, and of which others."""
        async with self._postgres.connection() as connection:
            row = await connection.fetchrow(_POPULATION, issuer)
            if row is None:
                raise ValueError("a query that always has one row had none")
            return Population(**dict(row))

    async def clock(self) -> float:
        """Return the server's time in Unix seconds."""
        async with self._postgres.connection() as connection:
            now: float = await connection.fetchval("SELECT extract(epoch FROM clock_timestamp())::float8")
            return now

    async def may_execute(self, *functions: str) -> bool | None:
        """Return whether the role may execute all functions; None if one does not exist."""
        async with self._postgres.connection() as connection:
            found = [row["allowed"] for row in await connection.fetch(_MAY_EXECUTE, functions)]
            return None if None in found else all(found)

    async def login(self) -> Login:
        """Return role and database of the connection."""
        async with self._postgres.connection() as connection:
            row = await connection.fetchrow("SELECT current_user::text, current_database()::text")
            if row is None:
                raise ValueError("a query that always has one row had none")
            return Login(*row)


def failure_kind(error: BaseException) -> FailureKind:
    """Return why a store could not be used, from the cause of `StoreUnavailable`, if it has one."""
    cause = error.__cause__
    if isinstance(cause, StoreUnavailable):
        return failure_kind(cause)
    # Wrong credentials are of another class: they fail before any table is read.
    if isinstance(cause, asyncpg.InsufficientPrivilegeError):
        return "permission_denied"
    # A table, column, function or operator is missing, or the tables do not allow a row.
    unlike = is_lasting(cause) or (
        isinstance(cause, ValueError) and not isinstance(cause, asyncpg.InterfaceError)
    )
    return "not_migrated" if unlike else "unreachable"
