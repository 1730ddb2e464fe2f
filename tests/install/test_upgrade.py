"""One version up, and back again, with data in place and requests under way.

The version before is what the repository had before the newest migration was added.
"""

import io
import subprocess
import sys
import tarfile
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import asyncpg
import pytest

from gateway.core.model import JSON
from gateway.stores.postgres.migrate import migrate, migrations
from tests import tokens
from tests.harness import seed, token
from tests.install.conftest import ROOT, ran
from tests.sockets import RawUpstream
from tests.workers.program import Load, Program, connected, eventually, route, running

NEWEST: Final = migrations()[-1]
SUBJECTS: Final = ("member", "admin", "suspended", "locked", "pending", "deleted", "ghost")
REVOKED: Final = "left-on-a-train"


def git(*words: str) -> bytes:
    result = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, check=False)  # noqa: S603, S607 -- constant words
    if result.returncode != 0:
        pytest.skip(f"needs the history of the repository: {result.stderr.decode().strip()}")
    return result.stdout


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment in which Python finds the version before."""
    file = f"gateway/migrations/{NEWEST.version:04}_{NEWEST.name}.sql"
    added = git("log", "--diff-filter=A", "--format=%H", "-1", "--", file).decode().strip()
    archive = git("archive", f"{added}^" if added else "HEAD", "gateway")
    folder = tmp_path_factory.mktemp("before")
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        tar.extractall(folder, filter="data")
    assert not (folder / file).exists()
    return {"PYTHONPATH": str(folder), "PYTHONSAFEPATH": "1"}


@dataclass(frozen=True)
class World:
    """One database, one Redis, and gateways of both versions."""

    folder: Path
    dsn: str
    redis_url: str
    upstream: RawUpstream

    def running(
        self, name: str, env: Mapping[str, str] | None = None
    ) -> AbstractAsyncContextManager[Program]:
        folder = self.folder / name
        folder.mkdir()
        routes: list[JSON] = [route("app", "/app/**", "required")]
        return running(
            folder, self.upstream, self.dsn, self.redis_url,
            env=env, routes=routes, errors={"detail": "full"}, server={"workers": 1},
        )  # fmt: skip

    async def sql(self, statement: str, *values: object) -> list[asyncpg.Record]:
        connection = await asyncpg.connect(self.dsn)
        try:
            return await connection.fetch(statement, *values)
        finally:
            await connection.close()


async def verdict(program: Program, credential: bytes) -> str:
    async with connected(program.url) as client:
        response = await client.get("/app/x", b"Authorization: Bearer " + credential, b"Connection: close")
        return f"{response.status} {'' if response.status == 200 else response.problem['code']}".strip()


async def verdicts(program: Program) -> dict[str, str]:
    found = {subject: await verdict(program, token(subject)) for subject in SUBJECTS}
    return found | {"revoked": await verdict(program, token("member", jti=REVOKED))}


@pytest.mark.timeout(300)  # five gateways start
async def test_upgrade_and_rollback_with_data_in_place(
    before: dict[str, str], empty_dsn: str, redis_url: str, upstream: RawUpstream, tmp_path: Path
) -> None:
    world = World(tmp_path, empty_dsn, redis_url, upstream)
    await migrate(empty_dsn, known=migrations()[:-1])
    await seed(empty_dsn)
    await world.sql(
        "INSERT INTO revocations (kind, issuer, value, expires_at)"
        " VALUES ('jti', 'main', $1, now() + interval '1 hour')",
        REVOKED,
    )

    async def change(status: str, *programs: Program) -> None:
        """Change a user in the database, and wait until each program goes by it."""
        await world.sql(
            "UPDATE users SET status = $1 FROM identities"
            " WHERE user_id = users.id AND issuer = $2 AND subject = 'admin'",
            status, tokens.ISSUER,
        )  # fmt: skip
        wanted = {"active": "200", "suspended": "401 user_suspended"}[status]
        for program in programs:

            async def counts(program: Program = program) -> bool:
                return await verdict(program, token("admin")) == wanted

            await eventually(counts)

    async with world.running("old", before) as old:
        expected = await verdicts(old)
        assert (expected["member"], expected["ghost"]) == ("200", "401 user_not_found")
        assert expected["revoked"] == "401 token_revoked"
        load = Load(old.url, "/app/x", (b"Authorization: Bearer " + token(),))
        async with load.while_running(4):
            assert await migrate(empty_dsn) == [f"{NEWEST.version:04}_{NEWEST.name}"]
            await change("suspended", old)
            await change("active", old)
            async with world.running("new") as new:
                assert await verdicts(new) == expected
                await change("suspended", old, new)
                await change("active", old, new)
                assert new.events("tables_of_another_version") == []
        assert load.failed == []
        assert load.answered > 0

    # Back: the version before serves with the newer tables, from its start on, and says what to run instead.
    async with world.running("back", before) as back:
        assert await verdicts(back) == expected
        await change("suspended", back)
        assert (await back.readyz())[0] == 200
    command = [sys.executable, "-m", "gateway", "migrate", "--config", tmp_path / "back" / "gateway.yaml"]
    refused = ran(command, tmp_path, before)
    assert (refused.returncode, "the database is ahead" in refused.stderr) == (1, True)


async def test_a_new_version_reports_older_tables(
    empty_dsn: str, redis_url: str, upstream: RawUpstream, tmp_path: Path
) -> None:
    """It says what to run: at the start, on /readyz, and in `check --live`."""
    world = World(tmp_path, empty_dsn, redis_url, upstream)
    await migrate(empty_dsn, known=migrations()[:-1])
    await seed(empty_dsn)
    async with world.running("early") as program:
        event = await program.event("tables_of_another_version")
        assert (event["tables"], event["fix"]) == ("older", "run `gateway migrate` of this version")
        _, ready = await program.readyz()
        assert ready["dependencies"]["postgres"]["status"] != "up"
        assert "run `gateway migrate`" in ready["dependencies"]["postgres"]["detail"]
        command = [sys.executable, "-m", "gateway", "check", "--live", "--config", program.config]
        assert "run `gateway migrate` of this version" in ran(command, ROOT).stdout
        await migrate(empty_dsn)

        async def silent() -> bool:
            return (await program.readyz())[1]["dependencies"]["postgres"]["detail"] is None

        await eventually(silent)
