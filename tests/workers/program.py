"""`gateway run` as a separate process, and clients that keep it busy."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

import yaml
from prometheus_client.parser import text_string_to_metric_families

from gateway.core.model import JSON
from tests import tokens
from tests.harness import write_jwks
from tests.sockets import RawClient, RawUpstream, Response, request_bytes

T = TypeVar("T")

PATIENCE: Final = 15.0
"""Seconds until a test fails: much more than it needs."""


class Client(RawClient):
    """One connection, kept for several requests."""

    async def get(self, target: str = "/public/x", *fields: bytes) -> Response:
        """Send a request and return its response. Raises ConnectionError when there is none."""
        await self.send(request_bytes("GET", target, *fields))
        return await self.answer()

    async def answer(self) -> Response:
        response = await self.response()
        if response is None:
            raise ConnectionError("the connection ended without a response")
        return response


async def connect(url: str) -> Client:
    """Connect to `http://host:port` or `unix:/path`."""
    if url.startswith("unix:"):
        return Client(*await asyncio.open_unix_connection(url.removeprefix("unix:")))
    parts = urlsplit(url)
    return Client(*await asyncio.open_connection(parts.hostname, parts.port))


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[Client]:
    client = await connect(url)
    try:
        yield client
    finally:
        await client.close()


async def eventually(holds: Callable[[], Awaitable[T]], patience: float = PATIENCE) -> T:
    """Call an async callable until its result is true, and return that; `patience` is seconds."""
    async with asyncio.timeout(patience):
        while True:
            if result := await holds():
                return result
            await asyncio.sleep(0.02)


@dataclass
class Load:
    """Clients that send one request after the other on kept connections, and count failures."""

    url: str
    target: str = "/public/x"
    fields: tuple[bytes, ...] = ()
    answered: int = 0
    failed: list[str] = field(default_factory=list)

    async def run(self, clients: int) -> None:
        async with asyncio.TaskGroup() as tasks:
            for _ in range(clients):
                tasks.create_task(self._one())

    async def _one(self) -> None:
        while True:
            try:
                async with connected(self.url) as client:
                    await self._ask_until_told_to_close(client)
            except (OSError, TimeoutError) as error:
                self.failed.append(repr(error))

    async def _ask_until_told_to_close(self, client: Client) -> None:
        while True:
            response = await client.get(self.target, *self.fields)
            if response.status != 200 or not response.complete:
                self.failed.append(str(response))
            self.answered += 1
            if response.values(b"connection") == [b"close"]:
                return

    @asynccontextmanager
    async def while_running(self, clients: int = 16) -> AsyncIterator[None]:
        running = asyncio.create_task(self.run(clients))
        try:
            yield
        finally:
            running.cancel()
            with suppress(asyncio.CancelledError):
                await running


@dataclass
class Program:
    """A running `gateway run`."""

    process: asyncio.subprocess.Process
    config: Path
    stderr: Path
    url: str = ""
    admin_url: str = ""

    @property
    def pid(self) -> int:
        return self.process.pid

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def workers(self) -> list[int]:
        """Return the processes that the supervisor has started."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text()
        return [int(child) for child in children.split()]

    def events(self, name: str) -> list[dict[str, Any]]:  # JSON of the log
        """Return the log's events of that name."""
        lines = [line for line in self.stderr.read_text().splitlines() if line.startswith("{")]
        return [event for event in map(json.loads, lines) if event["event"] == name]

    def warnings(self) -> list[dict[str, Any]]:  # JSON of the log
        """Return the log's events above the level info; other output counts as an event without a name."""
        lines = self.stderr.read_text().splitlines()
        events = [json.loads(line) if line.startswith("{") else {"text": line} for line in lines]
        return [event for event in events if event.get("level") not in {"debug", "info"}]

    async def event(self, name: str, count: int = 1) -> dict[str, Any]:  # JSON of the log
        """Wait for the `count`-th event of that name in the log, and return it."""

        async def logged() -> list[dict[str, Any]]:  # as above
            return self.events(name)[count - 1 : count]

        return (await eventually(logged))[0]

    async def get(self, target: str = "/public/x") -> Response:
        async with connected(self.url) as client:
            return await client.get(target, b"Connection: close")

    async def readyz(self) -> tuple[int, dict[str, Any]]:  # JSON of the endpoint
        async with connected(self.admin_url) as client:
            response = await client.get("/readyz", b"Connection: close")
            return response.status, json.loads(response.content)

    async def metric(self, name: str) -> float:
        """Scrape, and return the sum of a metric's series."""
        async with connected(self.admin_url) as client:
            page = (await client.get("/metrics", b"Connection: close")).content.decode()
        samples = (sample for family in text_string_to_metric_families(page) for sample in family.samples)
        return sum(sample.value for sample in samples if sample.name == name)

    def configure(self, **changes: Mapping[str, JSON] | list[JSON]) -> None:
        """Change sections of the configuration file."""
        data = yaml.safe_load(self.config.read_text())
        for section, change in changes.items():
            data[section] = {**data.get(section, {}), **change} if isinstance(change, Mapping) else change
        self.config.write_text(yaml.safe_dump(data))

    async def ended(self) -> int:
        """Wait for its end and return the exit code."""
        async with asyncio.timeout(PATIENCE):
            return await self.process.wait()


def route(name: str, path: str, auth: str = "none") -> JSON:
    return {"name": name, "match": {"path": path}, "upstream": "raw", "auth": auth}


@asynccontextmanager
async def starting(
    folder: Path,
    upstream: RawUpstream,
    dsn: str,
    redis_url: str,
    *,
    module: str = "gateway",
    within: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
    **changes: Mapping[str, JSON] | list[JSON],
) -> AsyncIterator[Program]:
    """Start `gateway run` with two workers; do not wait until it serves.

    `module` is the Python module to run. `within` is a command that starts Python, such as `nice`.
    """
    jwks = write_jwks(folder / "jwks.json", tokens.rsa_key("main"))
    issuer: JSON = {
        "name": "main",
        "issuer": tokens.ISSUER,
        "audiences": [tokens.AUDIENCE],
        "keys": {"jwks_file": str(jwks)},
    }
    settings: dict[str, Any] = {  # YAML
        "server": {"listen": "127.0.0.1:0", "workers": 2},
        "admin": {"listen": "127.0.0.1:0"},
        "issuers": [issuer],
        # A busy machine must not cause a failure.
        "postgres": {"dsn": dsn, "pool_min": 1, "statement_timeout": "10s"},
        "redis": {"url": redis_url, "timeout": "2s"},
        "upstreams": {"raw": {"urls": [upstream.url]}},
        "routes": [route("public", "/public/**")],
    }
    for section, change in changes.items():
        settings[section] = {**settings.get(section, {}), **change} if isinstance(change, Mapping) else change
    config = folder / "gateway.yaml"
    config.write_text(yaml.safe_dump(settings))
    stderr = folder / "stderr"
    clean = {name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")}
    with stderr.open("wb") as file:
        process = await asyncio.create_subprocess_exec(
            *within, sys.executable, "-m", module, "run", "--config", str(config),
            stdin=asyncio.subprocess.DEVNULL, stderr=file,
            env={**clean, **(env or {})}, start_new_session=True,
        )  # fmt: skip
    program = Program(process, config, stderr)
    try:
        yield program
    finally:
        # Also with the remaining workers.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


@asynccontextmanager
async def running(
    folder: Path,
    upstream: RawUpstream,
    dsn: str,
    redis_url: str,
    *,
    module: str = "gateway",
    within: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
    patience: float = PATIENCE,
    **changes: Mapping[str, JSON] | list[JSON],
) -> AsyncIterator[Program]:
    """Run `gateway run`; enter the context once it serves."""
    async with starting(
        folder, upstream, dsn, redis_url, module=module, within=within, env=env, **changes
    ) as program:

        async def announced() -> bool:
            assert program.process.returncode is None, program.stderr.read_text()
            for event in program.events("listening"):
                program.url, program.admin_url = event["listen"], event["admin"]
            return bool(program.url)

        await eventually(announced, patience)
        yield program
