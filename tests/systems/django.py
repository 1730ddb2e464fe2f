"""Django with social-auth-app-django or django-allauth: a project in a process, changed by its ORM."""

import asyncio
import json
import os
import sys
import uuid
from asyncio.subprocess import PIPE, Process
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Self

from gateway.core.model import JSON
from tests.systems.system import Person, System

_REPOSITORY: Final = Path(__file__).parents[2]


class Django(System):
    """`auth_user` with social-auth-app-django. `person.id` is an integer, the subject one of Auth0's."""

    name = "django"
    _process: Process

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.systems.django_project.program"),
            cwd=_REPOSITORY,
            env={**os.environ, "DJANGO_FLAVOUR": self.name, "DJANGO_DSN": self.dsn},
            stdin=PIPE,
            stdout=PIPE,
            limit=64 * 1024 * 1024,
        )
        self._stack.push_async_callback(self._stop)
        return self

    async def _stop(self) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()
        await self._process.wait()

    async def _do(self, what: str, **arguments: JSON) -> JSON:
        """Have the project run a command; return when it has, with its answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"do": what, **arguments}).encode() + b"\n")
        await self._process.stdin.drain()
        line = await self._process.stdout.readline()
        assert line, f"Django failed to {what}; its traceback is on stderr"
        answer: JSON = json.loads(line)
        return answer

    async def create(self) -> None:
        await self._do("migrate")

    def new_subject(self) -> str:
        return f"auth0|{uuid.uuid4().hex[:24]}"

    async def _insert(self, names: Sequence[str], subjects: Sequence[str]) -> list[Person]:
        ids = await self._do("add", names=list(names), subjects=list(subjects))
        assert isinstance(ids, list)
        return [
            Person(str(id_), subject, name, f"{name}@example.com")
            for id_, subject, name in zip(ids, subjects, names, strict=True)
        ]

    async def suspend(self, person: Person) -> None:
        await self._do("set_active", id=person.id, active=False)

    async def reinstate(self, person: Person) -> None:
        await self._do("set_active", id=person.id, active=True)

    async def delete(self, person: Person) -> None:
        await self._do("delete", id=person.id)

    async def grant(self, person: Person, role: str) -> None:
        """Put the user into a group."""
        await self._do("grant", id=person.id, role=role)

    async def withdraw(self, person: Person, role: str) -> None:
        await self._do("withdraw", id=person.id, role=role)


class DjangoAllauth(Django):
    """`auth_user` with django-allauth."""

    name = "django-allauth"


class DjangoCustom(Django):
    """A user model of the project's own, `accounts_user`, whose id is a uuid; with social-auth-app-django."""

    name = "django-custom"
