"""Queries that only a diagnosis needs. They only read.

Each uses an index and has a limit.
"""

from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

import asyncpg

from gateway.core.model import Claims, Identity, StoreUnavailable
from gateway.core.revocations import Revocation
from gateway.core.spelling import spellings
from gateway.stores.postgres.database import Postgres
from gateway.stores.postgres.errors import is_lasting

FailureKind: TypeAlias = Literal["unreachable", "not_migrated", "permission_denied"]

_LIMIT: Final = 200

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


@dataclass(frozen=True, slots=True)
class SimilarIdentity:
    """An identity whose subject may be another spelling of a subject without a user."""

    identity: Identity
    user_id: str


@dataclass(frozen=True, slots=True)
class Login:
    """The role and database of the gateway's connection."""

    role: str
    database: str


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
