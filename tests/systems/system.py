"""What every system of the tests can do, and the people in it."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final, Self

import asyncpg

SCHEMAS: Final = Path(__file__).parent / "schemas"


@dataclass(frozen=True, slots=True)
class Person:
    """A user of a system."""

    id: str
    """The user's id, as text."""
    subject: str
    """The `sub` in the user's tokens."""
    name: str
    email: str


class System(ABC):
    """A system on the database of `dsn`. `async with` connects to it; `create` makes its tables.

    Every change is made as the system itself makes it, and is committed when the method returns.
    """

    name: ClassVar[str]
    suspends: ClassVar[bool] = True
    """Whether the system can keep a user from signing in without deleting the user."""
    has_roles: ClassVar[bool] = True

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self._stack = AsyncExitStack()
        self._people = 0

    async def __aenter__(self) -> Self:
        self._connection = await asyncpg.connect(self.dsn)
        self._stack.push_async_callback(self._connection.close)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def sql(self, statement: str, *values: object) -> list[asyncpg.Record]:
        """Execute SQL on the system's database."""
        return await self._connection.fetch(statement, *values)

    async def add(self, count: int = 1, *, subjects: Sequence[str] | None = None) -> list[Person]:
        """Create active users with one identity each, in one transaction; `subjects` are `new_subject`s."""
        subjects = subjects or [self.new_subject() for _ in range(count)]
        names = [f"person{number}" for number in range(self._people, self._people + len(subjects))]
        self._people += len(subjects)
        return await self._insert(names, subjects)

    @abstractmethod
    def new_subject(self) -> str:
        """Return a subject as the system's tokens have it, of no user yet."""

    @abstractmethod
    async def create(self) -> None:
        """Create the tables of the system in an empty database."""

    @abstractmethod
    async def _insert(self, names: Sequence[str], subjects: Sequence[str]) -> list[Person]: ...

    @abstractmethod
    async def suspend(self, person: Person) -> None:
        """Keep a user from signing in, until `reinstate`. Only where `suspends`."""

    @abstractmethod
    async def reinstate(self, person: Person) -> None:
        """Let a suspended user sign in again."""

    @abstractmethod
    async def delete(self, person: Person) -> None:
        """Delete a user, with everything of the user's."""

    @abstractmethod
    async def grant(self, person: Person, role: str) -> None:
        """Give a user a role, and create the role where it is not there. Only where `has_roles`."""

    @abstractmethod
    async def withdraw(self, person: Person, role: str) -> None:
        """Take a role from a user."""


class SqlSystem(System):
    """A system whose tables are created from a file in `schemas/`."""

    schema: ClassVar[str]

    async def create(self) -> None:
        await self._connection.execute((SCHEMAS / self.schema).read_text(encoding="utf-8"))

    async def _execute(self, *statements: tuple[str, *tuple[object, ...]]) -> None:
        """Execute statements in one transaction, each with its values."""
        async with self._connection.transaction():
            for statement, *values in statements:
                await self._connection.execute(statement, *values)
