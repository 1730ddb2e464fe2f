"""The demo's users. The subject says which status or role a user has."""

import uuid
from dataclasses import dataclass
from typing import Final

import asyncpg

from gateway.core.model import UserStatus

TENANT: Final = "demo"


@dataclass(frozen=True, slots=True)
class Seed:
    """A user to add, and the `sub` of its tokens."""

    subject: str
    status: UserStatus
    roles: tuple[str, ...] = ()

    @property
    def user_id(self) -> uuid.UUID:
        return uuid.uuid5(uuid.NAMESPACE_OID, f"gateway-demo:{self.subject}")


SEEDS: Final = (
    Seed("member", UserStatus.ACTIVE),
    Seed("admin", UserStatus.ACTIVE, ("admin",)),
    Seed("suspended", UserStatus.SUSPENDED),
    Seed("locked", UserStatus.LOCKED),
    Seed("pending", UserStatus.PENDING),
    Seed("deleted", UserStatus.DELETED),
)

_INSERT_USER: Final = """
INSERT INTO users (id, status, tenant, email, display_name, roles, deleted_at)
VALUES ($1, $2, $3, $4, $5, $6, CASE WHEN $2 = 'deleted' THEN now() END)
ON CONFLICT (id) DO NOTHING
"""

_INSERT_IDENTITY: Final = """
INSERT INTO identities (issuer, subject, user_id) VALUES ($1, $2, $3)
ON CONFLICT (issuer, subject) DO NOTHING
"""


async def seed(dsn: str, issuer: str, *, schema: str = "public") -> None:
    """Add the missing users, and an identity of each under this `iss`.

    Existing users stay unchanged. Raises asyncpg.PostgresError when the database refuses, and OSError when it
    does not answer.
    """
    quoted = '"' + schema.replace('"', '""') + '"'
    connection = await asyncpg.connect(dsn, server_settings={"search_path": quoted})
    try:
        async with connection.transaction():
            for user in SEEDS:
                await connection.execute(
                    _INSERT_USER,
                    user.user_id,
                    user.status.value,
                    TENANT,
                    f"{user.subject}@example.com",
                    f"Demo {user.subject}",
                    list(user.roles),
                )
                await connection.execute(_INSERT_IDENTITY, issuer, user.subject, user.user_id)
    finally:
        await connection.close()
