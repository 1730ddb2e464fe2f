"""A pool of connections to one Postgres. While Postgres is silent, it costs a request little time.

Every wait is limited: opening a connection and waiting for one by `connect_timeout`, a statement by
`statement_timeout`. Three consecutive calls without an answer open the circuit breaker: then calls fail at
once, except one probe every 250 ms. All connections are then dropped, because they may lead nowhere, or to a
server that is no longer the primary. A call that gets no connection because all are in use does not count as
one of the three.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any, Final, TypeAlias, TypeVar

import asyncpg

from gateway.core.model import StoreUnavailable, Tier
from gateway.stores.availability import Availability
from gateway.stores.postgres.circuit_breaker import CircuitBreaker
from gateway.stores.postgres.errors import is_lasting, is_of_one_value, is_silence, quoted, translated
from gateway.stores.postgres.hosts import Connector, address_of
from gateway.stores.postgres.statements import PreparedStatements, Statements

Connection: TypeAlias = "asyncpg.pool.PoolConnectionProxy[asyncpg.Record]"

T = TypeVar("T")

_GRACE: Final = 0.25
"""Seconds that the client waits longer than the server's own statement timeout."""


class Pool:
    """Lends connections. It opens them when first needed, and recovers by itself.

    Durations are seconds. Connections that are idle for five minutes are closed.
    """

    def __init__(
        self,
        dsn: str,
        *,
        primary: bool,
        schema: str,
        size: int,
        connect_timeout: float,
        statement_timeout: float,
        availability: Availability,
        tls_strict: bool = False,
        prepared_statements: PreparedStatements = "auto",
        breaker: CircuitBreaker | None = None,
        opened: Callable[[Connection], Awaitable[None]] | None = None,
        read_only: bool = False,
    ) -> None:
        """Open no connection yet. `opened` is called with each new connection before its first use.

        With `read_only`, Postgres refuses every statement that would write.
        """
        self.address = address_of(dsn)
        """Hosts and ports, for messages."""
        self.availability = availability
        self._connector = Connector(dsn, primary=primary, timeout=connect_timeout, tls_strict=tls_strict)
        self._primary = primary
        kept = {
            "search_path": quoted(schema),
            "statement_timeout": str(max(1, round(statement_timeout * 1000))),
            **({"default_transaction_read_only": "on"} if read_only else {}),
        }
        self._statements = Statements(prepared_statements, self._connector, kept, statement_timeout + _GRACE)
        self._size = size
        self._connect_timeout = connect_timeout
        self._statement_timeout = statement_timeout
        self._breaker = breaker or CircuitBreaker()
        self._on_open = opened
        self._silence = "no answer"
        self._pool: asyncpg.Pool[asyncpg.Record] | None = None
        self._retiring: set[asyncio.Task[None]] = set()

    def check(self) -> None:
        """Raise `StoreUnavailable` if a call would fail at once, because Postgres has been silent."""
        if self._breaker.refuses:
            raise self._not_asked()

    def _not_asked(self) -> StoreUnavailable:
        return StoreUnavailable(
            Tier.POSTGRES, f"{self._silence} (a moment ago; Postgres has not been asked again yet)"
        )

    @asynccontextmanager
    async def lend(self, *, serving: bool = False, scoped: bool = True) -> AsyncIterator[Connection]:
        """Lend a connection. Its errors are raised as `StoreUnavailable`.

        `serving`: it is for a statement of requests. A Postgres that refuses such a statement counts as down.
        Without `scoped`, the borrower sends its statements within one or more scopes of its own.
        """
        if not self._breaker.admits():
            raise self._not_asked()
        if self._statements.named is None:
            with self._observed(None):
                await self._statements.find_out()
        pool = await self._opened()
        with self._observed(pool, serving=serving):
            connection = await self._acquired(pool)
            try:
                if not scoped:
                    yield connection
                else:
                    async with self.scope(connection):
                        yield connection
            finally:
                await pool.release(connection)
            self.availability.answered()
            self._breaker.answered()

    @asynccontextmanager
    async def scope(self, connection: Connection) -> AsyncIterator[None]:
        """Keep the statements of a connection together. After an error, another scope can begin."""
        if self._statements.named:
            yield
        else:
            async with self._statements.scope(connection):
                yield

    async def ask(self, question: Callable[[Connection], Awaitable[T]]) -> T:
        """Run a query that may be repeated: it is repeated when a pooler has lost a statement's name."""
        try:
            async with self.lend(serving=True) as connection:
                return await question(connection)
        except StoreUnavailable as error:
            if not self._statements.betrayed(error.__cause__):
                raise
        async with self.lend(serving=True) as connection:
            return await question(connection)

    async def _acquired(self, pool: "asyncpg.Pool[asyncpg.Record]") -> Connection:
        try:
            return await pool.acquire(timeout=self._connect_timeout)
        except TimeoutError:
            if pool.get_size() < self._size or pool.get_idle_size() > 0:
                raise  # a connection was being opened, so the server is silent
        busy = f"{self.address}: all connections are in use: `postgres.pool_max` is {self._size}"
        raise StoreUnavailable(Tier.POSTGRES, busy)

    async def warm(self, connections: int) -> None:
        """Open connections ahead of the requests that need them. Raises `StoreUnavailable`."""
        if self._statements.named is None:
            with self._observed(None):
                await self._statements.find_out()
        pool = await self._opened()
        with self._observed(pool):
            waiting = (pool.acquire(timeout=self._connect_timeout) for _ in range(connections))
            opened = await asyncio.gather(*waiting, return_exceptions=True)
            failures = [result for result in opened if isinstance(result, BaseException)]
            for result in opened:
                if not isinstance(result, BaseException):
                    await pool.release(result)
            if failures:
                raise failures[0]

    async def close(self) -> None:
        """Close all connections."""
        self._give_up()
        await asyncio.gather(*self._retiring)

    @contextmanager
    def _observed(
        self, pool: "asyncpg.Pool[asyncpg.Record] | None", *, serving: bool = False
    ) -> Iterator[None]:
        """Translate and record errors. A pool without a free connection says nothing about the server."""
        began = self._breaker.now()
        try:
            with translated(self.address):
                yield
        except StoreUnavailable as error:
            cause = error.__cause__
            if cause is None:
                raise
            if is_of_one_value(cause):
                self._breaker.answered()
                raise
            lasting = is_lasting(cause)
            # It answers requests, because they only read. The next connection may lead to the primary.
            unwritten = isinstance(cause, asyncpg.ReadOnlySQLTransactionError)
            if serving or not (lasting or unwritten):
                # Other statements of requests may be answered while this one is still refused.
                self.availability.failed(
                    error.detail, lasting=lasting, until_proven=lasting and self._primary
                )
            if not is_silence(cause):
                self._breaker.answered()
            elif pool is self._pool:  # expected for a connection that was dropped
                self._silence = error.detail
                if self._breaker.failed(began):
                    self._give_up()
            if (unwritten or self._statements.betrayed(cause)) and pool is self._pool:
                self._give_up()
            raise

    async def _opened(self) -> "asyncpg.Pool[asyncpg.Record]":
        if self._pool is None:
            # Without a minimum, a pool opens without connecting, even while the server is down.
            options: dict[str, Any] = {  # Any: the driver's own, of many types
                "min_size": 0,
                "max_size": self._size,
                "connect": self._connector,
                "command_timeout": self._statement_timeout + _GRACE,
                "reset": _leave_as_it_is,
                "init": self._introduced,
                **self._statements.options(),
            }
            self._pool = await asyncpg.create_pool(**options)
        return self._pool

    async def _introduced(self, connection: Connection) -> None:
        self.availability.heard()
        if self._on_open is None:
            return
        async with self.scope(connection):
            self.availability.heard()
            await self._on_open(connection)
        self.availability.heard()

    def _give_up(self) -> None:
        """Let the next call open new connections. Calls in flight may finish on the old ones."""
        pool, self._pool = self._pool, None
        if pool is not None:
            task = asyncio.create_task(self._retire(pool))
            self._retiring.add(task)
            task.add_done_callback(self._retiring.discard)

    async def _retire(self, pool: "asyncpg.Pool[asyncpg.Record]") -> None:
        with suppress(TimeoutError):
            # If closing the pool is cancelled, it terminates its connections.
            await asyncio.wait_for(pool.close(), self._statement_timeout + _GRACE)


async def _leave_as_it_is(_: "asyncpg.Connection[asyncpg.Record]") -> None:
    """Save the round trip that resets a session: the gateway never changes one."""
