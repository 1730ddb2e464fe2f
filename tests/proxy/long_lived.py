"""Long-lived responses and tunnels for tests, and the ways to lose access."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final

import pytest
from websockets.frames import Frame, Opcode

from tests import tokens
from tests.harness import House, token
from tests.proxy.tunnels import handshake, switching
from tests.sockets import Exchange, RawClient, request_bytes
from tests.stores.examples import eventually

session = pytest.mark.asyncio(loop_scope="session")

AT_ONCE: Final = 1.0
"""Seconds. Milliseconds are expected, but the machine may be busy."""
LEEWAY: Final = 30.0
EVENTS: Final = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
DOWNLOAD: Final = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n"
TO_THE_END: Final = b"HTTP/1.1 200 OK\r\n\r\n"
HELLO: Final = Frame(Opcode.TEXT, b"hello").serialize(mask=False)


class Caller:
    """A new user with a token."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.subject = f"caller-{uuid.uuid4().hex}"
        self.jti = uuid.uuid4().hex
        self.token = token(self.subject, jti=self.jti)

    def expire(self, seconds: float) -> float:
        """Use a token that is valid for `seconds`, leeway included; return its end."""
        until = time.time() + seconds
        self.token = token(self.subject, jti=self.jti, exp=until - LEEWAY)
        return until

    async def exist(self) -> "Caller":
        await self.house.sql(
            "WITH u AS (INSERT INTO users (status, roles) VALUES ('active', '{admin}') RETURNING id)"
            " INSERT INTO identities (issuer, subject, user_id) SELECT $1, $2, id FROM u",
            tokens.ISSUER,
            self.subject,
        )
        return self

    async def update(self, change: str) -> None:
        await self.house.sql(
            f"UPDATE users SET {change} WHERE id = (SELECT user_id FROM identities WHERE subject = $1)",  # noqa: S608 -- a constant of the test's
            self.subject,
        )

    async def user_id(self) -> str:
        (row,) = await self.house.sql(
            "SELECT user_id::text AS id FROM identities WHERE subject = $1", self.subject
        )
        return str(row["id"])


async def caller(house: House) -> Caller:
    return await Caller(house).exist()


async def stay(exchange: Exchange) -> None:
    await exchange.wire.to_end()


def answering(head: bytes, first: bytes) -> Callable[[Exchange], Awaitable[None]]:
    """Begin a response, and continue it later."""

    async def script(exchange: Exchange) -> None:
        await exchange.send(head)
        await exchange.send(first)
        await stay(exchange)

    return script


@asynccontextmanager
async def streaming(
    house: House,
    raw: bytes,
    head: bytes = EVENTS,
    first: bytes = b"6\r\n:hello\r\n",
    target: str = "/private/x",
) -> AsyncIterator[RawClient]:
    """Connect, and wait for the begin of a response."""
    house.upstream.behave(answering(head, first))
    async with house.connect() as client:
        await client.send(request_bytes("GET", target, token=raw))
        assert b" 200 " in await client.until(b"\r\n\r\n")
        assert await client.exactly(len(first)) == first
        yield client


@asynccontextmanager
async def tunnelling(
    house: House, raw: bytes, target: str = "/private/x", behind: bytes = HELLO
) -> AsyncIterator[RawClient]:
    """Connect a WebSocket, and wait for the first data of the upstream."""
    house.upstream.behave(switching(stay, behind=behind))
    async with house.connect() as client:
        await client.send(handshake(target, bearer=raw))
        assert b" 101 " in await client.until(b"\r\n\r\n")
        assert await client.exactly(len(behind)) == behind
        yield client


async def live(house: House) -> float:
    return await house.metric("gateway_live_connections")


async def until_live(house: House, number: int) -> None:
    async def reached() -> bool:
        return await live(house) == number

    await eventually(reached)


async def ended(client: RawClient, within: float = AT_ONCE) -> bytes:
    async with asyncio.timeout(within):
        return await client.to_end()


async def stays_open(client: RawClient, seconds: float = 0.2) -> None:
    with pytest.raises(TimeoutError):
        await ended(client, seconds)


async def suspend(who: Caller) -> str:
    await who.update("status = 'suspended'")
    return "user_suspended"


async def revoke(who: Caller) -> str:
    await who.house.set_key(f"revoked:jti:main:{who.jti}", "1")
    return "token_revoked"


async def revoke_in_sql(who: Caller) -> str:
    await who.house.sql(
        "INSERT INTO revocations (kind, issuer, value, revoked_at) VALUES ('user', '', $1, now())",
        await who.user_id(),
    )
    return "tokens_revoked_before"


async def delete(who: Caller) -> str:
    await who.update("deleted_at = now()")
    return "user_deleted"


async def unlink(who: Caller) -> str:
    await who.house.sql("DELETE FROM identities WHERE subject = $1", who.subject)
    return "user_not_found"


async def take_the_role(who: Caller) -> str:
    await who.update("roles = '{}'")
    return "role_missing"


Loss = Callable[[Caller], Awaitable[str]]
