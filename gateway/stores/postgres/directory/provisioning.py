"""Users that a gateway creates at their first request, in its own tables."""

from typing import Final

from gateway.core.provisioning import NewUser, Provisioned, ProvisioningResult
from gateway.stores.postgres.database import Postgres

FUNCTION: Final = "gateway_provision_user(text, text, text, text, text, text[], text, text)"
"""What the role of the gateway must be allowed to execute."""

_PROVISION: Final = """
SELECT result, owner::text AS user_id, version FROM gateway_provision_user($1, $2, $3, $4, $5, $6, $7, $8)
"""
# Counterpart of the function of 0010_provisioning.sql, which decides.
_REHEARSE: Final = """
SELECT CASE
    WHEN EXISTS (SELECT FROM identities WHERE issuer = $1 AND subject = $2) THEN 'exists'
    WHEN EXISTS (SELECT FROM users WHERE lower(email) = lower($3) AND status = 'deleted') THEN 'deleted'
    WHEN EXISTS (SELECT FROM users WHERE lower(email) = lower($3)) THEN 'taken'
    ELSE 'created'
END
"""


class UserProvisioning:
    """Creates users: a `UserStore` of `gateway.identity.provisioning`. May raise `StoreUnavailable`."""

    def __init__(self, postgres: Postgres) -> None:
        self._postgres = postgres

    async def provision(self, user: NewUser, request_id: str) -> Provisioned:
        """Create a user with its identity, and record that in the audit log; or return why not."""
        async with self._postgres.connection() as connection:
            row = await connection.fetchrow(
                _PROVISION,
                user.identity.issuer, user.identity.subject, user.email, user.display_name, user.tenant,
                list(user.roles), user.issuer_name, request_id,
            )  # fmt: skip
            if row is None:
                raise ValueError("a query that always has one row had none")
            return Provisioned(row["result"], row["user_id"], row["version"])

    async def rehearse(self, user: NewUser) -> ProvisioningResult:
        """Return what `provision` would return now, and create no user."""
        async with self._postgres.connection() as connection:
            result: ProvisioningResult = await connection.fetchval(
                _REHEARSE, user.identity.issuer, user.identity.subject, user.email
            )
            return result
