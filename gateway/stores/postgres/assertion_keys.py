"""Signing keys in Postgres, which all gateways share (`migrations/0013_assertion_keys.sql`)."""

from collections.abc import Sequence
from typing import Final

from gateway.core.assertion import SigningKey, SigningKeyUnusable
from gateway.core.model import StoreUnavailable, Tier
from gateway.stores.postgres.database import Postgres

FUNCTIONS: Final = (
    "gateway_read_assertion_keys()",
    "gateway_add_assertion_key(text, text, text, double precision, boolean)",
)
"""What the role of the gateway must be allowed to execute."""

_LOAD: Final = "SELECT algorithm, private_key, signs_from FROM gateway_read_assertion_keys()"
_ADD: Final = "SELECT gateway_add_assertion_key($1, $2, $3, $4, $5)"


class AssertionKeyRows:
    """A `gateway.assertion.keys.KeyStore`. Every method raises `StoreUnavailable`."""

    def __init__(self, postgres: Postgres) -> None:
        self._postgres = postgres

    async def load(self) -> Sequence[SigningKey]:
        """Return all keys."""
        async with self._postgres.connection() as connection:
            rows = await connection.fetch(_LOAD)
        try:
            return [
                SigningKey(row["private_key"], row["algorithm"], row["signs_from"].timestamp())
                for row in rows
            ]
        except SigningKeyUnusable as error:
            raise StoreUnavailable(
                Tier.POSTGRES, f"a row of gateway_assertion_keys cannot be used: {error}"
            ) from error

    async def add(self, pem: str, algorithm: str, ahead: float, *, rotate: bool) -> None:
        """Add a key, by the clock of the database, while no other process does."""
        kid = SigningKey(pem, algorithm, 0.0).kid
        async with self._postgres.connection() as connection:
            await connection.execute(_ADD, kid, algorithm, pem, ahead, rotate)
