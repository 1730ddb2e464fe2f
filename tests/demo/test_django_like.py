"""`gateway demo --users django-like`: the commands that it prints, as a newcomer pastes them."""

import asyncio
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import pytest
from aiohttp import ClientSession

from gateway.demo.django_like import seed_django_like
from gateway.demo.seed import SEEDS
from tests.workers.program import eventually


@dataclass(frozen=True)
class _Demo:
    banner: str

    def place(self, name: str) -> str:
        found = re.search(rf"^  {name} +(\S+)", self.banner, re.MULTILINE)
        assert found is not None
        return found[1]

    async def paste(self, containing: str) -> str:
        """Have a shell run the printed command that contains a text; return what it printed."""
        (command,) = [line for line in self.banner.splitlines() if containing in line]
        process = await asyncio.create_subprocess_shell(
            command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
        printed, _ = await process.communicate()
        assert process.returncode == 0, printed.decode()
        return printed.decode()


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[_Demo]:
    folder: Path = tmp_path_factory.mktemp("demo")
    command = [sys.executable, "-m", "gateway", "demo", "--users", "django-like"]
    command += ["--port", "0", "--admin-port", "0", "--data-dir", str(folder / "data")]
    with (folder / "stderr").open("w") as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)  # noqa: S603 -- this interpreter
    with process:
        try:
            assert process.stdout is not None
            lines: list[str] = []
            while not lines or "/events" not in lines[-1]:
                line = process.stdout.readline()
                assert line, (folder / "stderr").read_text()
                lines.append(line)
            yield _Demo("".join(lines))
        finally:
            process.terminate()


async def _status(demo: _Demo, name: str, path: str = "/echo/x") -> tuple[int, str]:
    """Send a request with a token of the demo's issuer; return the status, and the user that upstream got."""
    async with ClientSession() as session:
        async with session.get(f"{demo.place('issuer')}/token/{name}") as response:
            token = await response.text()
        async with session.get(
            demo.place("gateway") + path, headers={"Authorization": f"Bearer {token}"}
        ) as response:
            document = await response.json(content_type=None)
            headers = {name.lower(): value for name, value in document.get("headers", {}).items()}
            return response.status, headers.get("x-user-id", "")


async def _becomes(demo: _Demo, status: int, name: str, path: str = "/echo/x") -> None:
    async def reached() -> bool:
        return (await _status(demo, name, path))[0] == status

    await eventually(reached)


async def test_the_subjects_are_those_of_every_demo(demo: _Demo) -> None:
    status, user_id = await _status(demo, "member")
    assert (status, user_id.isdecimal()) == (200, True)
    assert (await _status(demo, "member?tenant=demo"))[0] == 200
    assert (await _status(demo, "admin", "/admin/x"))[0] == 200
    assert (await _status(demo, "member", "/admin/x"))[0] == 403
    for name in ("suspended", "locked", "pending", "deleted", "ghost"):
        assert (await _status(demo, name))[0] == 401
    async with ClientSession() as session, session.get(f"{demo.place('admin')}/metrics") as response:
        text = await response.text()
    for reason in ("user_suspended", "user_locked", "user_pending", "user_deleted", "user_not_found"):
        assert re.search(
            rf'^gateway_denials_total\{{[^}}]*reason="{reason}"[^}}]*\}} 1.0$', text, re.MULTILINE
        )


async def test_the_printed_commands_change_who_is_admitted(demo: _Demo) -> None:
    assert (await _status(demo, "member"))[0] == 200
    assert await demo.paste("SET is_active = false") == "UPDATE 1\n"
    await _becomes(demo, 401, "member")
    await demo.paste("SET is_active = true")
    await _becomes(demo, 200, "member")
    await demo.paste("DELETE FROM auth_user_groups")
    await _becomes(demo, 403, "admin", "/admin/x")
    assert await demo.paste("SET locked_until") == "UPDATE 1\n"
    await _becomes(demo, 401, "member")
    printed = await demo.paste("migrate --print-sql")
    assert "The triggers are there" in printed


async def test_seeding_again_changes_no_user(empty_dsn: str) -> None:
    await seed_django_like(empty_dsn)
    connection = await asyncpg.connect(empty_dsn)
    await connection.execute("UPDATE auth_user SET is_active = false WHERE username = 'member'")
    await seed_django_like(empty_dsn)
    assert await connection.fetchval("SELECT count(*) FROM auth_user") == len(SEEDS)
    assert await connection.fetchval("SELECT count(*) FROM social_auth_usersocialauth") == len(SEEDS)
    assert not await connection.fetchval("SELECT is_active FROM auth_user WHERE username = 'member'")
    await connection.close()
