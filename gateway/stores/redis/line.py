"""Commands to Redis over one separate connection.

redis-py's client takes a connection from a pool for each command, and times, counts and retries it. That
costs three times the CPU of sending a command and reading its reply, which is all that the hot path needs.
"""

import asyncio
from collections.abc import Sequence
from typing import Any, cast

import hiredis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from gateway.stores.redis.errors import translated
from gateway.stores.redis.topology import RedisServer


class RedisLine:
    """Sends one command at a time. A connection that breaks is replaced by the next command.

    A command must be one that may be repeated. A caller that stops waiting for a reply cancels the call.
    `connect_timeout` is in seconds. Every method raises `StoreUnavailable`.
    """

    def __init__(self, server: RedisServer, *, connect_timeout: float) -> None:
        self._server = server
        self._connect_timeout = connect_timeout
        self._connection: AbstractConnection | None = None

    async def read(self, keys: Sequence[str]) -> list[bytes | None]:
        """Return the keys' values in their order, None for missing keys."""
        return cast("list[bytes | None]", await self._send(("MGET", *keys)))

    async def evaluate(self, script: str, keys: int, *keys_and_arguments: str | bytes) -> Any:  # noqa: ANN401 -- the result of the script
        """Run a script, whose first `keys` arguments are keys."""
        return await self._send(("EVAL", script, keys, *keys_and_arguments))

    async def connect(self) -> None:
        """Open a connection in advance, for callers that cannot wait that long."""
        with translated(self._server.address):
            await self._connected()

    async def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            await self._connection.disconnect()

    async def _send(self, parts: tuple[str | bytes | int, ...]) -> Any:  # noqa: ANN401 -- the server's reply
        command = hiredis.pack_command(parts)  # type: ignore[arg-type] # its stub takes one argument
        with translated(self._server.address):
            if self._connection is not None:
                try:
                    return await self._ask(self._connection, command)
                except RedisConnectionError:
                    # The connection was closed while idle.
                    pass
            return await self._ask(await self._connected(), command)

    async def _ask(self, connection: AbstractConnection, command: bytes) -> Any:  # noqa: ANN401 -- the server's reply
        try:
            await connection.send_packed_command(command, check_health=False)
            return await connection.read_response()  # bytes: values are not decoded
        except ResponseError:
            raise
        except BaseException:
            # Also when the wait is cancelled: otherwise its reply would be taken for the next one.
            self._connection = None
            await connection.disconnect(nowait=True)
            raise

    async def _connected(self) -> AbstractConnection:
        connection = self._connection
        if connection is not None:
            return connection
        connection = await self._connect()
        if self._connection is not None:
            # Another caller was faster.
            await connection.disconnect(nowait=True)
            return self._connection
        self._connection = connection
        return connection

    async def _connect(self) -> AbstractConnection:
        # The caller limits the wait for a reply.
        connection = self._server.connection(
            protocol=2, socket_timeout=None, socket_connect_timeout=self._connect_timeout
        )
        try:
            async with asyncio.timeout(self._connect_timeout):
                await connection.connect()  # type: ignore[no-untyped-call] # has no annotations
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        return connection
