"""Keycloak, whose tokens name a user by `user_entity.id`, within one realm."""

import uuid
from collections.abc import Sequence
from typing import Final

from tests.systems.system import Person, SqlSystem

REALM: Final = "shop"
_REALM_ID: Final = "5e0f6ab2-97a4-4d65-8f61-6c8d6bd3f101"
_OTHER_REALM_ID: Final = "b2a6e7d4-5d54-4b07-b1a9-c2f4d61b7f02"


class Keycloak(SqlSystem):
    """Users are in the realm `shop`; there is the realm `master`, too."""

    name = "keycloak"
    schema = "keycloak.sql"

    async def create(self) -> None:
        await super().create()
        await self._execute(
            (
                "INSERT INTO realm (id, enabled, name) VALUES ($1, true, $2), ($3, true, 'master')",
                _REALM_ID, REALM, _OTHER_REALM_ID,
            )
        )  # fmt: skip

    def new_subject(self) -> str:
        return str(uuid.uuid4())

    async def _insert(self, names: Sequence[str], subjects: Sequence[str]) -> list[Person]:
        ids = subjects
        people = [Person(id_, id_, name, f"{name}@example.com") for id_, name in zip(ids, names, strict=True)]
        await self._execute(
            (
                "INSERT INTO user_entity (id, email, email_constraint, email_verified, enabled, first_name,"
                " realm_id, username, created_timestamp)"
                " SELECT id, email, email, true, true, initcap(name), $4, name,"
                " extract(epoch FROM now()) * 1000"
                " FROM unnest($1::text[], $2::text[], $3::text[]) AS new (id, name, email)",
                ids, names, [each.email for each in people], _REALM_ID,
            ),
            (
                "INSERT INTO user_attribute (id, name, value, user_id)"
                " SELECT gen_random_uuid()::text, 'plan', 'free', id FROM unnest($1::text[]) AS new (id)",
                ids,
            ),
            (
                "INSERT INTO federated_identity (identity_provider, realm_id, federated_user_id,"
                " federated_username, user_id) SELECT 'google', $2, '1' || lpad(ordinality::text, 20, '0'),"
                " id, id FROM unnest($1::text[]) WITH ORDINALITY AS new (id)",
                ids, _REALM_ID,
            ),
        )  # fmt: skip
        return people

    async def suspend(self, person: Person) -> None:
        """Switch the user off, as the console does."""
        await self._execute(("UPDATE user_entity SET enabled = false WHERE id = $1", person.id))

    async def reinstate(self, person: Person) -> None:
        await self._execute(("UPDATE user_entity SET enabled = true WHERE id = $1", person.id))

    async def delete(self, person: Person) -> None:
        await self._execute(
            ("DELETE FROM federated_identity WHERE user_id = $1", person.id),
            ("DELETE FROM user_attribute WHERE user_id = $1", person.id),
            ("DELETE FROM user_role_mapping WHERE user_id = $1", person.id),
            ("DELETE FROM user_group_membership WHERE user_id = $1", person.id),
            ("DELETE FROM user_entity WHERE id = $1", person.id),
        )

    async def sign_out(self, person: Person) -> None:
        """Revoke what was issued before now, as "Revoke tokens" of one user does."""
        await self._execute(
            ("UPDATE user_entity SET not_before = extract(epoch FROM now()) WHERE id = $1", person.id)
        )

    async def grant(self, person: Person, role: str) -> None:
        """Give a role of the realm."""
        await self._execute(
            (
                "INSERT INTO keycloak_role (id, client_realm_constraint, name, realm_id, realm)"
                " VALUES (gen_random_uuid()::text, $1, $2, $1, $1) ON CONFLICT DO NOTHING",
                _REALM_ID, role,
            ),
            (
                "INSERT INTO user_role_mapping (role_id, user_id)"
                " SELECT id, $3 FROM keycloak_role WHERE realm_id = $1 AND name = $2 AND NOT client_role",
                _REALM_ID, role, person.id,
            ),
        )  # fmt: skip

    async def withdraw(self, person: Person, role: str) -> None:
        await self._execute(
            (
                "DELETE FROM user_role_mapping WHERE user_id = $3"
                " AND role_id IN (SELECT id FROM keycloak_role WHERE realm_id = $1 AND name = $2)",
                _REALM_ID, role, person.id,
            )
        )  # fmt: skip
