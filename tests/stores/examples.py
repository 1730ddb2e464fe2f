"""The common values of several tests of the stores."""

import asyncio
from collections.abc import Awaitable, Callable

from gateway.core.model import Claims

ISS = "https://idp.example.com/"
ISSUERS = {"main": ISS}


def claims(
    subject: str = "ann",
    *,
    jti: str | None = "token-1",
    issued_at: float | None = 1_000.0,
    issuer_name: str = "main",
    iss: str = ISS,
) -> Claims:
    return Claims(
        issuer=iss,
        issuer_name=issuer_name,
        subject=subject,
        audiences=("api",),
        expires_at=None,
        issued_at=issued_at,
        jti=jti,
        tenant=None,
        scopes=(),
        roles=(),
        payload={},
    )


async def eventually(condition: Callable[[], Awaitable[bool]]) -> None:
    """Wait until a condition of the world outside holds; five seconds at most."""
    async with asyncio.timeout(5):
        while not await condition():  # noqa: ASYNC110 -- a server sets no asyncio.Event
            await asyncio.sleep(0.01)
