"""ASP.NET Core Identity, with users who sign in at an OpenID provider."""

import uuid
from collections.abc import Sequence

from tests.systems.system import Person, SqlSystem


class AspNetIdentity(SqlSystem):
    """Ids are UUIDs in a text column; subjects are the provider's keys."""

    name = "aspnet-identity"
    schema = "aspnet_identity.sql"

    def new_subject(self) -> str:
        return uuid.uuid4().hex

    async def _insert(self, names: Sequence[str], subjects: Sequence[str]) -> list[Person]:
        people = [
            Person(str(uuid.uuid4()), subject, name, f"{name}@example.com")
            for subject, name in zip(subjects, names, strict=True)
        ]
        ids = [each.id for each in people]
        await self._execute(
            (
                'INSERT INTO "AspNetUsers" ("Id", "UserName", "NormalizedUserName", "Email",'
                ' "NormalizedEmail", "EmailConfirmed", "SecurityStamp", "ConcurrencyStamp",'
                ' "PhoneNumberConfirmed", "TwoFactorEnabled", "LockoutEnabled", "AccessFailedCount")'
                " SELECT id, email, upper(email), email, upper(email), true, gen_random_uuid()::text,"
                " gen_random_uuid()::text, false, false, true, 0"
                " FROM unnest($1::text[], $2::text[]) AS new (id, email)",
                ids, [each.email for each in people],
            ),
            (
                'INSERT INTO "AspNetUserLogins" ("LoginProvider", "ProviderKey", "ProviderDisplayName",'
                """ "UserId") SELECT 'OpenIdConnect', key, 'OpenIdConnect', id"""
                " FROM unnest($1::text[], $2::text[]) AS new (id, key)",
                ids, [each.subject for each in people],
            ),
        )  # fmt: skip
        return people

    async def suspend(self, person: Person) -> None:
        """Lock out for ever, as `SetLockoutEndDateAsync(user, DateTimeOffset.MaxValue)` does."""
        await self._set_lockout(person, "'infinity'")

    async def reinstate(self, person: Person) -> None:
        await self._set_lockout(person, "NULL")

    async def lock_out_for(self, person: Person, seconds: float) -> None:
        """Lock out for a while, as after too many wrong passwords."""
        await self._set_lockout(person, f"now() + interval '{seconds} seconds'")

    async def _set_lockout(self, person: Person, until: str) -> None:
        await self._execute(
            (
                f'UPDATE "AspNetUsers" SET "LockoutEnd" = {until},'  # noqa: S608 -- an expression of ours
                ' "ConcurrencyStamp" = gen_random_uuid()::text WHERE "Id" = $1',
                person.id,
            )
        )

    async def delete(self, person: Person) -> None:
        await self._execute(('DELETE FROM "AspNetUsers" WHERE "Id" = $1', person.id))

    async def grant(self, person: Person, role: str) -> None:
        await self._execute(
            (
                'INSERT INTO "AspNetRoles" ("Id", "Name", "NormalizedName", "ConcurrencyStamp")'
                " VALUES (gen_random_uuid()::text, $1::text, upper($1::text), gen_random_uuid()::text)"
                ' ON CONFLICT ("NormalizedName") DO NOTHING',
                role,
            ),
            (
                'INSERT INTO "AspNetUserRoles" ("UserId", "RoleId")'
                ' SELECT $2, "Id" FROM "AspNetRoles" WHERE "NormalizedName" = upper($1)',
                role, person.id,
            ),
        )  # fmt: skip

    async def withdraw(self, person: Person, role: str) -> None:
        await self._execute(
            (
                'DELETE FROM "AspNetUserRoles" WHERE "UserId" = $2 AND "RoleId" IN'
                ' (SELECT "Id" FROM "AspNetRoles" WHERE "NormalizedName" = upper($1))',
                role, person.id,
            )
        )  # fmt: skip
