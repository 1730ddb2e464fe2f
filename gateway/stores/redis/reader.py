"""Reads from Redis over a separate connection.

redis-py's client takes a connection from a pool for each command, and times, counts and retries it. That
costs three times the CPU of sending a command and reading its reply, which is all that the hot path needs.
"""

import asyncio
from collections.abc import Sequence
from typing import cast

import hiredis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from gateway.stores.redis.errors import translated
from gateway.stores.redis.topology import RedisServer


class RedisReader:
    """Reads keys, one command at a time. A connection that breaks is replaced by the next command.

    A caller that stops waiting for a reply cancels `read`. `connect_timeout` is in seconds.
    """

    def __init__(self, server: RedisServer, *, connect_timeout: float) -> None:
        self._server = server
        self._connect_timeout = connect_timeout
        self._connection: AbstractConnection | None = None

    async def read(self, keys: Sequence[str]) -> list[bytes | None]:
        """Return the keys' values in their order, None for missing keys.

        Raises `StoreUnavailable`.
        """
        command = hiredis.pack_command(("MGET", *keys))  # type: ignore[arg-type] # its stub takes one argument
        with translated(self._server.address):
            if self._connection is not None:
                try:
                    return await self._ask(self._connection, command)
                except RedisConnectionError:
                    # The connection was closed while idle. Reading again does no harm.
                    pass
            return await self._ask(await self._connected(), command)

    async def connect(self) -> None:
        """Open a connection in advance, for readers that cannot wait that long.

        Raises `StoreUnavailable`.
        """
        with translated(self._server.address):
            await self._connected()

    async def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            await self._connection.disconnect()

    async def _ask(self, connection: AbstractConnection, command: bytes) -> list[bytes | None]:
        try:
            await connection.send_packed_command(command, check_health=False)
            return cast(
                "list[bytes | None]", await connection.read_response()
            )  # bytes: values are not decoded
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
            # Another reader was faster.
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
