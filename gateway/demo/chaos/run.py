"""`gateway run` between links to its stores, a load, and one fault after the other."""

import asyncio
import base64
import os
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import asyncpg
import orjson

from gateway.demo import upstream
from gateway.demo.chaos.faults import Fault, Targets
from gateway.demo.chaos.link import Link
from gateway.demo.chaos.load import Load
from gateway.demo.chaos.promises import ALLOWED, LEAVER, Phase, Run
from gateway.demo.configuration import configuration, write
from gateway.demo.issuer import DemoIssuer
from gateway.demo.listening import bind, listening
from gateway.demo.seed import seed
from gateway.stores.postgres.migrate import migrate

CALM: Final = "no fault"
_HOST: Final = "127.0.0.1"
_START: Final = 30.0
"""Seconds that `gateway run` may take until it serves."""
_STOP: Final = 10.0

_ADD_LEAVER: Final = """
WITH added AS (INSERT INTO users (status) VALUES ('active') RETURNING id)
INSERT INTO identities (issuer, subject, user_id) SELECT $1, $2, id FROM added
"""
_SET_STATUS: Final = """
UPDATE users SET status = $1 FROM identities WHERE user_id = users.id AND issuer = $2 AND subject = $3
"""
_REVOKE: Final = """
INSERT INTO revocations (kind, issuer, value, expires_at)
VALUES ('jti', 'demo', $1, now() + interval '1 hour')
"""


class ChaosError(Exception):
    """The gateway did not start. The text has the end of its log."""


@dataclass(frozen=True, slots=True)
class Second:
    """What was answered in one second."""

    number: int
    phase: Phase
    answers: Mapping[tuple[str, str], int]
    """How often, by who asked and the answer."""


async def rehearse(
    postgres: str,
    redis: str,
    folder: Path,
    faults: Sequence[Fault],
    seconds: float,
    stop: asyncio.Event,
    tell: Callable[[Second, Run], None],
) -> Run:
    """Cause the faults, one after the other, within as many seconds; return all that was answered.

    The stores must be empty. `tell` is called each second. `stop` ends it early. Raises ChaosError, OSError
    and asyncpg's exceptions when it cannot begin.
    """
    run = Run()
    async with AsyncExitStack() as stack:
        await migrate(postgres)
        issuer_socket, issuer_url = bind(_HOST, 0)
        upstream_socket, upstream_url = bind(_HOST, 0)
        issuer = DemoIssuer(issuer_url)
        await stack.enter_async_context(listening(issuer.application(), issuer_socket))
        await stack.enter_async_context(listening(upstream.application(), upstream_socket))
        await seed(postgres, issuer_url)
        database = await asyncpg.connect(postgres)
        stack.push_async_callback(database.close)
        await database.execute(_ADD_LEAVER, issuer_url, LEAVER)
        tokens = {who: issuer.token("member" if who == "revoked" else who) for who in (*ALLOWED, LEAVER)}
        await database.execute(_REVOKE, _jti(tokens["revoked"]))
        links = (
            await stack.enter_async_context(Link(postgres, "postgres")),
            await stack.enter_async_context(Link(redis, "redis")),
        )
        content = configuration(
            listen=f"{_HOST}:0",
            admin_listen=f"{_HOST}:0",
            admin_token="",
            issuer=issuer_url,
            upstream=upstream_url,
            postgres=links[0].url,
            redis=links[1].url,
        )
        content |= {
            "server": {"listen": f"{_HOST}:0", "workers": 2},
            "admin": {"listen": f"{_HOST}:0"},
            "errors": {"detail": "full"},
            "cache": {},
        }
        write(folder / "chaos.yaml", content)
        process, url = await stack.enter_async_context(_gateway(folder))
        load = Load(url, tokens, run.answers.append)
        schedule = _Schedule(run, Targets(*links, process), database, issuer_url, stop)
        async with asyncio.TaskGroup() as tasks:
            background = [
                tasks.create_task(load.run()),
                tasks.create_task(_each_second(run, tell)),
            ]
            await schedule.carry_out(faults, seconds)
            for task in background:
                task.cancel()
    return run


@dataclass(frozen=True, slots=True)
class _Schedule:
    run: Run
    targets: Targets
    database: "asyncpg.Connection[asyncpg.Record]"
    """Postgres itself, not by the link."""
    issuer: str
    stop: asyncio.Event

    async def carry_out(self, faults: Sequence[Fault], seconds: float) -> None:
        """Cause each fault once, with as much time before and after it as it takes."""
        each = seconds / (2 * len(faults) + 1)
        self._begin(Phase(CALM, time.monotonic()))
        await self._rest(each)
        for fault in faults:
            if self.stop.is_set():
                break
            phase = Phase(
                fault.title,
                time.monotonic(),
                fault=fault.name,
                hides_changes=fault.hides_changes,
                breaks_connections=fault.breaks_connections,
            )
            self._begin(phase)
            async with fault.apply(self.targets):
                await self._set("suspended")
                phase.suspended_at = time.monotonic()
                await self._rest(each)
            self._begin(Phase(CALM, time.monotonic()))
            await self._rest(each * 0.8)
            phase.activated_at = time.monotonic()
            await self._set("active")
            await self._rest(each * 0.2)
        self.run.phases[-1].ends = time.monotonic()

    def _begin(self, phase: Phase) -> None:
        if self.run.phases:
            self.run.phases[-1].ends = phase.begins
        self.run.phases.append(phase)

    async def _rest(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.stop.wait()

    async def _set(self, status: str) -> None:
        await self.database.execute(_SET_STATUS, status, self.issuer, LEAVER)


async def _each_second(run: Run, tell: Callable[[Second, Run], None]) -> None:
    begun, told = time.monotonic(), 0
    number = 0
    while True:
        number += 1
        await asyncio.sleep(max(0.0, begun + number - time.monotonic()))
        latest = run.answers[told:]
        told += len(latest)
        if run.phases:
            tell(
                Second(number, run.phases[-1], Counter((answer.who, answer.label) for answer in latest)), run
            )


@asynccontextmanager
async def _gateway(folder: Path) -> AsyncIterator[tuple[int, str]]:
    """Run `gateway run` for the context; give its process id and its URL."""
    log = folder / "chaos.log"
    # The caller's GATEWAY_* variables configure another gateway.
    env = {name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")}
    command = (sys.executable, "-m", "gateway", "run", "--config", str(folder / "chaos.yaml"))
    with log.open("wb") as file:
        process = await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.DEVNULL, stderr=file, env=env, start_new_session=True
        )
    try:
        yield process.pid, await _listening(log, process)
    finally:
        with suppress(ProcessLookupError):
            process.terminate()
        try:
            async with asyncio.timeout(_STOP):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()


async def _listening(log: Path, process: asyncio.subprocess.Process) -> str:
    """Wait until the gateway says where it listens."""
    ends = time.monotonic() + _START
    while process.returncode is None and time.monotonic() < ends:
        for line in _lines(log):
            if '"listening"' in line:
                return str(orjson.loads(line)["listen"])
        await asyncio.sleep(0.05)
    raise ChaosError("the gateway did not start: " + " / ".join(_lines(log)[-3:]))


def _lines(log: Path) -> list[str]:
    return log.read_text(errors="replace").splitlines()


def _jti(token: str) -> str:
    payload = token.split(".")[1]
    return str(orjson.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))["jti"])
