"""Auth.js with its adapter for Postgres. It cannot suspend a user, and knows no roles."""

from collections.abc import Sequence
from itertools import count

import pytest

from tests.systems.system import Person, SqlSystem

_GOOGLE = count(108_177_000_000_000_000_000)


class AuthJs(SqlSystem):
    """Users signed in with Google, whose subjects are long numbers."""

    name = "authjs"
    schema = "authjs.sql"
    suspends = False
    has_roles = False

    def new_subject(self) -> str:
        return str(next(_GOOGLE))

    async def _insert(self, names: Sequence[str], subjects: Sequence[str]) -> list[Person]:
        async with self._connection.transaction():
            rows = await self._connection.fetch(
                'INSERT INTO users (name, email, "emailVerified")'
                " SELECT initcap(name), name || '@example.com', now() FROM unnest($1::text[]) AS new (name)"
                " RETURNING id",
                names,
            )
            ids = [row["id"] for row in rows]
            await self._connection.execute(
                'INSERT INTO accounts ("userId", type, provider, "providerAccountId", token_type)'
                " SELECT id, 'oidc', 'google', subject, 'bearer'"
                " FROM unnest($1::integer[], $2::text[]) AS new (id, subject)",
                ids, subjects,
            )  # fmt: skip
        return [
            Person(str(id_), subject, name, f"{name}@example.com")
            for id_, subject, name in zip(ids, subjects, names, strict=True)
        ]

    async def suspend(self, person: Person) -> None:
        pytest.fail(f"Auth.js deletes users, and cannot suspend {person.name}")

    reinstate = suspend

    async def delete(self, person: Person) -> None:
        """Delete, as the adapter's `deleteUser` does."""
        await self._execute(
            ("DELETE FROM users WHERE id = $1", int(person.id)),
            ('DELETE FROM sessions WHERE "userId" = $1', int(person.id)),
            ('DELETE FROM accounts WHERE "userId" = $1', int(person.id)),
        )

    async def grant(self, person: Person, role: str) -> None:
        pytest.fail(f"Auth.js knows no roles, and {person.name} cannot have {role}")

    withdraw = grant
