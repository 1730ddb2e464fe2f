"""Supabase Auth, whose tokens name a user by `auth.users.id`."""

import uuid
from collections.abc import Sequence

from tests.systems.system import Person, SqlSystem


class Supabase(SqlSystem):
    name = "supabase"
    schema = "supabase.sql"

    def new_subject(self) -> str:
        return str(uuid.uuid4())

    async def _insert(self, names: Sequence[str], subjects: Sequence[str]) -> list[Person]:
        ids = [uuid.UUID(subject) for subject in subjects]
        people = [
            Person(str(id_), str(id_), name, f"{name}@example.com")
            for id_, name in zip(ids, names, strict=True)
        ]
        await self._execute(
            (
                "INSERT INTO auth.users (instance_id, id, aud, role, email, email_confirmed_at,"
                " raw_app_meta_data, raw_user_meta_data, created_at, updated_at)"
                " SELECT '00000000-0000-0000-0000-000000000000', id, 'authenticated', 'authenticated', email,"
                """ now(), '{"provider": "email", "providers": ["email"]}', """
                " jsonb_build_object('full_name', name), now(), now()"
                " FROM unnest($1::uuid[], $2::text[], $3::text[]) AS new (id, name, email)",
                ids, names, [each.email for each in people],
            ),
            (
                "INSERT INTO auth.identities (provider_id, user_id, identity_data, provider, created_at,"
                " updated_at) SELECT id::text, id, jsonb_build_object('sub', id, 'email', email), 'email',"
                " now(), now() FROM auth.users WHERE id = ANY ($1)",
                ids,
            ),
        )  # fmt: skip
        return people

    async def suspend(self, person: Person) -> None:
        """Ban, as `auth.admin.updateUserById(id, {ban_duration})` does."""
        await self._execute(
            (
                "UPDATE auth.users SET banned_until = now() + interval '100 years', updated_at = now()"
                " WHERE id = $1",
                uuid.UUID(person.id),
            )
        )

    async def reinstate(self, person: Person) -> None:
        await self._execute(
            ("UPDATE auth.users SET banned_until = NULL WHERE id = $1", uuid.UUID(person.id)),
        )

    async def delete(self, person: Person) -> None:
        await self._execute(("DELETE FROM auth.users WHERE id = $1", uuid.UUID(person.id)))

    async def delete_softly(self, person: Person) -> None:
        """Delete, as `auth.admin.deleteUser(id, true)` does: the row stays, and says nothing of the user."""
        id_ = uuid.UUID(person.id)
        await self._execute(
            (
                "UPDATE auth.users SET deleted_at = now(), email = encode(sha256(email::bytea), 'base64'),"
                " phone = NULL, raw_user_meta_data = '{}', raw_app_meta_data = '{}' WHERE id = $1",
                id_,
            ),
            (
                "UPDATE auth.identities SET provider_id = encode(sha256(provider_id::bytea), 'base64'),"
                " identity_data = '{}' WHERE user_id = $1",
                id_,
            ),
        )

    async def grant(self, person: Person, role: str) -> None:
        """Write the role into `app_metadata.roles`, which only the service key may change."""
        await self._execute(
            (
                "UPDATE auth.users SET raw_app_meta_data = jsonb_set(raw_app_meta_data, '{roles}',"
                " coalesce(raw_app_meta_data -> 'roles', '[]') || to_jsonb($2::text)) WHERE id = $1",
                uuid.UUID(person.id), role,
            )
        )  # fmt: skip

    async def withdraw(self, person: Person, role: str) -> None:
        await self._execute(
            (
                "UPDATE auth.users SET raw_app_meta_data = jsonb_set(raw_app_meta_data, '{roles}',"
                " (raw_app_meta_data -> 'roles') - $2) WHERE id = $1",
                uuid.UUID(person.id), role,
            )
        )  # fmt: skip
