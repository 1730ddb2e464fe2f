"""Real Postgres and Redis for the tests.

Each test process starts its own from the extra `gateway[embedded]`, unless GATEWAY_TEST_POSTGRES_DSN or
GATEWAY_TEST_REDIS_URL names an existing one. The Postgres role must be allowed to create databases;
in that Redis, database 0 (or the one in the URL) and the following one per parallel worker are emptied, and
tests that reach all of its databases run alone (`tests.shared_redis`). GATEWAY_TEST_REDIS_PROGRAM names a
program to start in place of the embedded one: a server of each process's own, which tests may stop, too.
"""

import asyncio
import functools
import gc
import logging
import os
import sys
import time
import unittest.mock
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest
import structlog
import typer.testing
from redis.asyncio import Redis

from gateway.demo.embedded import EmbeddedPostgres, EmbeddedRedis
from gateway.stores.postgres.migrate import migrate
from gateway.stores.redis.shared_tier import RedisTier as SharedTier
from tests import shared_redis
from tests.memory_folder import memory_folder

# Tests start servers in processes that are forked from this one. With its support for that, grpcio would go
# on in them for a moment, and print that it has lost its files.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")

# A runner would build all commands anew, with all of their options, for each one that it runs.
typer.testing._get_command = functools.cache(typer.main.get_command)  # type: ignore[attr-defined]

_POSTGRES_VARIABLE = "GATEWAY_TEST_POSTGRES_DSN"
_REDIS_VARIABLE = shared_redis.VARIABLE
if "GATEWAY_TEST_REDIS_PROGRAM" in os.environ:
    _PROGRAM = Path(os.environ["GATEWAY_TEST_REDIS_PROGRAM"])
    EmbeddedRedis._program = property(lambda _: _PROGRAM)  # type: ignore[assignment]
_TESTS = Path(__file__).parent
_CORE = _TESTS / "core"


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """One more than there are processors: much of what the tests do is to wait."""
    processors = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return processors + 1


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Measure how far its own tests cover the core: to trace all others would double what they take."""
    if config.getoption("cov_source") == ["gateway/core"]:
        for item in items:
            if _CORE not in item.path.parents:
                item.add_marker("no_cover")


@pytest.hookimpl(wrapper=True)
def pytest_collection(session: pytest.Session) -> Iterator[None]:
    """Keep the clock from modules of tests: a token made on import may have expired when its test runs.

    What is collected stays until the end: to look for garbage in it takes a third of the time.
    """
    read = time.time

    def watched() -> float:
        if _TESTS in Path(sys._getframe(1).f_code.co_filename).parents:
            raise AssertionError("read the clock in the test, not while its module is imported")
        return read()

    gc.disable()
    try:
        with unittest.mock.patch.object(time, "time", watched):
            return (yield)
    finally:
        gc.enable()
        gc.collect()
        gc.freeze()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Let tests of parallel processes share one Redis. The wait is no part of a test's time."""
    shared = _REDIS_VARIABLE in os.environ and "PYTEST_XDIST_WORKER" in os.environ
    if not shared or "standing_redis_url" not in getattr(item, "fixturenames", ()):
        return (yield)
    with shared_redis.turn(alone=shared_redis.reaches_the_server(item.path)):
        return (yield)


@pytest.fixture(autouse=True)
def _logs_as_before() -> Iterator[None]:
    """Leave the logs to the next test as this one found them: commands and gateways set the level of all."""
    events, root = structlog.get_config(), logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    structlog.configure(**events)
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture(scope="session")
def _postgres() -> Iterator[EmbeddedPostgres]:
    with memory_folder("gateway-test-postgres") as folder, EmbeddedPostgres(folder) as server:
        yield server


@pytest.fixture(scope="session")
def _redis() -> Iterator[EmbeddedRedis]:
    with EmbeddedRedis() as server:
        yield server


@pytest.fixture
def postgres_server(request: pytest.FixtureRequest) -> Iterator[EmbeddedPostgres]:
    """The Postgres behind `dsn`, for tests that stop it; it runs again afterwards."""
    if _POSTGRES_VARIABLE in os.environ:
        pytest.skip(f"stops Postgres, and {_POSTGRES_VARIABLE} names one that is not ours to stop")
    server: EmbeddedPostgres = request.getfixturevalue("_postgres")
    yield server
    server.start()


@pytest.fixture
def redis_server(request: pytest.FixtureRequest) -> Iterator[EmbeddedRedis]:
    """The Redis behind `redis_url`, for tests that stop it; it runs again afterwards."""
    if _REDIS_VARIABLE in os.environ:
        pytest.skip(f"stops Redis, and {_REDIS_VARIABLE} names one that is not ours to stop")
    server: EmbeddedRedis = request.getfixturevalue("_redis")
    yield server
    server.start()


@dataclass(frozen=True)
class _Databases:
    """Databases on the server that the tests use."""

    maintenance: str
    server: EmbeddedPostgres | None
    """None when the server is not ours."""
    _standing: list["psycopg.Connection[tuple[object, ...]]"] = field(default_factory=list)
    """The connection over which databases are made. For one each, Postgres starts a process."""

    async def create(self, prefix: str, *, template: str = "template1") -> str:
        name = f"{prefix}_{uuid.uuid4().hex}"
        # Nothing of a copy goes to the log of a server that is ours. Old servers do not know the word.
        strategy = "" if self.server is None else " STRATEGY file_copy"
        await self._execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"{strategy}')
        return name

    async def drop(self, name: str) -> None:
        if self.server is not None:
            self.server.start()  # a test may have stopped it
        await self._execute(f'DROP DATABASE "{name}" WITH (FORCE)')

    @asynccontextmanager
    async def copy(self, prefix: str, template: str = "template1") -> AsyncIterator[str]:
        """Keep a copy of a database for as long as it is needed; its DSN."""
        name = await self.create(prefix, template=template)
        try:
            yield self.dsn(name)
        finally:
            await self.drop(name)

    def dsn(self, name: str) -> str:
        return urlsplit(self.maintenance)._replace(path=f"/{name}").geturl()

    def close(self) -> None:
        while self._standing:
            self._standing.pop().close()

    async def _execute(self, statement: str) -> None:
        # Without a loop, as tests have loops of their own: they wait for this in any case.
        if self._standing:
            try:
                self._standing[0].execute(statement.encode())
                return
            except psycopg.OperationalError:
                if not self._standing[0].closed:
                    raise
                self.close()  # a test had restarted the server
        self._standing.append(psycopg.connect(self.maintenance, autocommit=True))
        self._standing[0].execute(statement.encode())


@pytest.fixture(scope="session")
def _databases(request: pytest.FixtureRequest) -> Iterator[_Databases]:
    given = os.environ.get(_POSTGRES_VARIABLE)
    if given is not None:
        databases = _Databases(given, None)
    else:
        server: EmbeddedPostgres = request.getfixturevalue("_postgres")
        databases = _Databases(server.dsn, server)
    yield databases
    databases.close()


@pytest.fixture(scope="session")
def _template(_databases: _Databases) -> Iterator[str]:
    """A migrated database to copy: 50 ms instead of the migrations for each test."""

    async def create() -> str:
        name = await _databases.create("gateway_template")
        await migrate(_databases.dsn(name))
        return name

    name = asyncio.run(create())
    yield name
    asyncio.run(_databases.drop(name))


@pytest.fixture
async def empty_dsn(_databases: _Databases) -> AsyncIterator[str]:
    """A database of the test's own, without tables."""
    async with _databases.copy("gateway_test") as dsn:
        yield dsn


@pytest.fixture
async def dsn(_databases: _Databases, _template: str) -> AsyncIterator[str]:
    """A migrated database of the test's own."""
    async with _databases.copy("gateway_test", _template) as dsn:
        yield dsn


@pytest.fixture(scope="session")
def standing_redis_url(request: pytest.FixtureRequest, worker_id: str) -> str:
    """The Redis database of this process, for gateways that outlive a test and have a prefix of their own."""
    given = os.environ.get(_REDIS_VARIABLE)
    if given is not None:
        return shared_redis.database(given, worker_id)
    server: EmbeddedRedis = request.getfixturevalue("_redis")
    return server.url


@pytest.fixture
async def redis_url(standing_redis_url: str) -> str:
    """An empty Redis database of the test's own."""
    async with Redis.from_url(standing_redis_url) as client:
        await client.flushdb()
    return standing_redis_url


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[SharedTier]:
    redis = SharedTier(redis_url, timeout=2.0)
    yield redis
    await redis.close()


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[Redis]:
    """Another program, with plain commands."""
    async with Redis.from_url(redis_url) as client:
        yield client
