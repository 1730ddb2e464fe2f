"""What has been spent of quotas (`migrations/0015_quotas.sql`): a `gateway.limits.ledger.Usages`."""

from collections.abc import Sequence
from typing import Final

from gateway.limits.ledger import Usage
from gateway.limits.subjects import digest_of
from gateway.stores.postgres.database import Postgres

FUNCTIONS: Final = (
    "gateway_quota_used(text, text, text)",
    "gateway_save_quotas(text[], text[], text[], bigint[], float8[])",
)
"""What the role of the gateway must be allowed to execute."""

_USED: Final = "SELECT gateway_quota_used($1, $2, $3)"
_SAVE: Final = "SELECT gateway_save_quotas($1, $2, $3, $4, $5)"
_RESET: Final = "SELECT gateway_reset_quota($1, $2, $3)"
_TOGETHER: Final = 1000


class QuotaRows:
    """Every method raises `StoreUnavailable`."""

    def __init__(self, postgres: Postgres) -> None:
        self._postgres = postgres

    async def used(self, limit: str, subject: str, period: str) -> int:
        """Return what had been spent at the last `save`."""
        async with self._postgres.connection() as connection:
            return int(await connection.fetchval(_USED, limit, digest_of(subject), period))

    async def save(self, usages: Sequence[Usage]) -> None:
        """Store what has been spent; a larger number stays."""
        for start in range(0, len(usages), _TOGETHER):
            some = usages[start : start + _TOGETHER]
            async with self._postgres.connection() as connection:
                await connection.execute(
                    _SAVE,
                    [each.limit for each in some],
                    [digest_of(each.subject) for each in some],
                    [each.period for each in some],
                    [each.used for each in some],
                    [each.ends for each in some],
                )

    async def reset(self, limit: str, subject: str, period: str) -> bool:
        """Forget what has been spent; return whether there was a row."""
        async with self._postgres.connection() as connection:
            return bool(await connection.fetchval(_RESET, limit, digest_of(subject), period))
