"""Revocations for operators, with writes: the rows in Postgres, which the blacklist in Redis copies.

This is not the hot path, whose database role needs none of these rights.
"""

import hashlib
from collections.abc import Sequence
from typing import Final

from gateway.core.model import JSON, RevocationKind
from gateway.core.revocations import Revocation
from gateway.stores.postgres.database import Postgres
from gateway.stores.postgres.directory import audit
from gateway.stores.postgres.directory.audit import Author
from gateway.stores.postgres.directory.users import microseconds

_BATCH: Final = 5000
"""Rows per DELETE statement, because the time of a statement is limited."""

_FIELDS: Final = ("kind", "issuer", "value", "revoked_at", "expires_at", "reason", "revoked_by")
_COLUMNS: Final = """
kind, issuer, value, extract(epoch FROM revoked_at)::float8 AS revoked_at,
extract(epoch FROM expires_at)::float8 AS expires_at, reason, revoked_by
"""

# A revocation is only extended: the later time and the later expiry win.
_REVOKE: Final = f"""
INSERT INTO revocations AS held (kind, issuer, value, expires_at, reason, revoked_by)
VALUES ($1, $2, $3, to_timestamp($4::float8), $5, $6)
ON CONFLICT (kind, issuer, value) DO UPDATE SET
    revoked_at = greatest(held.revoked_at, excluded.revoked_at),
    expires_at = CASE WHEN held.expires_at IS NOT NULL AND excluded.expires_at IS NOT NULL
        THEN greatest(held.expires_at, excluded.expires_at) END,
    reason = coalesce(excluded.reason, held.reason),
    revoked_by = excluded.revoked_by
RETURNING {_COLUMNS}
"""  # noqa: S608 -- a constant list of columns; values travel as parameters

# A digest orders rows of the same time, because a `jti` may be long.
_DIGEST: Final = "encode(sha256(convert_to(kind || ' ' || issuer || ' ' || value, 'UTF8')), 'hex')"
_LATEST: Final = f"""
SELECT {_COLUMNS}, {_DIGEST} AS digest FROM (
    SELECT kind, issuer, value, revoked_at, expires_at, reason, revoked_by FROM revocations
    UNION ALL
    SELECT kind, issuer, value, revoked_at, expires_at, reason, revoked_by
    FROM gateway_learnt_revocations(NULL, NULL, NULL)
) AS revocations
WHERE ($1 OR gateway_counts(expires_at)) AND ($2::bigint IS NULL OR (
    revocations.revoked_at <= 'epoch'::timestamptz + $2 * interval '1 us'
    AND (revocations.revoked_at, {_DIGEST}) < ('epoch'::timestamptz + $2 * interval '1 us', $3)
))
ORDER BY revocations.revoked_at DESC, digest DESC LIMIT $4
"""  # noqa: S608 -- a constant list of columns; values travel as parameters

_PRUNE: Final = """
DELETE FROM revocations WHERE (kind, issuer, value) IN (
    SELECT kind, issuer, value FROM revocations WHERE NOT gateway_counts(expires_at) LIMIT $1
) RETURNING kind
"""


class RevocationRows:
    """Reads and changes revocations. Every method may raise `StoreUnavailable`.

    A change with an author is recorded in the audit log, in the same transaction.
    """

    def __init__(self, postgres: Postgres) -> None:
        self._postgres = postgres

    async def revoke(
        self,
        kind: RevocationKind,
        *,
        issuer: str = "",
        value: str = "",
        expires_at: float | None = None,
        reason: str | None = None,
        revoked_by: str | None = None,
        author: Author | None = None,
    ) -> Revocation:
        """Write a revocation as of now. An existing one is only extended.

        `issuer` and `value` are as in `Revocation`; `expires_at` is in Unix seconds.
        """
        async with self._postgres.connection() as connection, connection.transaction():
            row = await connection.fetchrow(_REVOKE, kind, issuer, value, expires_at, reason, revoked_by)
            detail: dict[str, JSON] = {
                "issuer": issuer,
                "value": value,
                "until": expires_at,
                "reason": reason,
            }
            await audit.record(connection, author, "revocation.set", f"revocation:{kind}", detail)
            return Revocation(**dict(row or {}))

    async def lift(
        self,
        kind: RevocationKind,
        *,
        issuers: Sequence[str] = ("",),
        value: str = "",
        author: Author | None = None,
    ) -> int:
        """Delete a revocation; return how many rows it had.

        `issuers` are the spellings of its issuer: the configured name and the `iss`.
        """
        async with self._postgres.connection() as connection, connection.transaction():
            rows = await connection.fetch(
                "DELETE FROM revocations WHERE kind = $1 AND issuer = ANY($2) AND value = $3 RETURNING kind",
                kind, list(issuers), value,
            )  # fmt: skip
            learnt: int = await connection.fetchval(
                "SELECT gateway_lift_learnt_revocation($1, $2, $3)", kind, list(issuers), value
            )
            lifted = len(rows) + learnt
            detail: dict[str, JSON] = {"issuer": issuers[0], "value": value, "rows": lifted}
            await audit.record(connection, author, "revocation.lift", f"revocation:{kind}", detail)
            return lifted

    async def latest(
        self, *, expired: bool = False, after: tuple[int, str] | None = None, limit: int = 100
    ) -> list[Revocation]:
        """Return the latest revocations; with `expired`, also expired ones.

        `after` is the `place` of the last one of the previous page.
        """
        instant, digest = after or (None, None)
        async with self._postgres.connection() as connection:
            rows = await connection.fetch(_LATEST, expired, instant, digest, limit)
            return [Revocation(**{name: row[name] for name in _FIELDS}) for row in rows]

    async def prune(self, *, author: Author | None = None) -> int:
        """Delete expired revocations; return how many there were."""
        pruned = 0
        async with self._postgres.connection() as connection, connection.transaction():
            while rows := await connection.fetch(_PRUNE, _BATCH):
                pruned += len(rows)
            await audit.record(connection, author, "revocation.prune", "revocations", {"rows": pruned})
            return pruned


def place(revocation: Revocation) -> tuple[int, str]:
    """Return the position of a revocation in the order, for the next page."""
    key = f"{revocation.kind} {revocation.issuer} {revocation.value}"
    return microseconds(revocation.revoked_at), hashlib.sha256(key.encode()).hexdigest()
