"""A front between a client and a service, and the gateway that it asks."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Final

from gateway.core.headers import fold
from gateway.core.model import JSON
from tests.fronts.programs import Front
from tests.harness import House
from tests.sockets import RawClient, Received, Response, request_bytes

ROUTES: Final[list[JSON]] = [
    {
        "name": "hosted",
        "match": {"path": "/**", "hosts": ["open.example.com"]},
        "upstream": None,
        "auth": "none",
    },
    {
        "name": "pages",
        "match": {"path": "/pages/**"},
        "upstream": None,
        "cors": {"origins": ["https://app.example.com"], "credentials": True},
    },
    {"name": "open", "match": {"path": "/open/**"}, "upstream": None, "auth": "optional"},
    {"name": "private", "match": {"path": "/private/**"}, "upstream": None},
    {"name": "admin", "match": {"path": "/admin/**"}, "upstream": None, "require": {"roles": ["admin"]}},
    {"name": "read", "match": {"path": "/read/**", "methods": ["GET"]}, "upstream": None, "auth": "none"},
    {"name": "write", "match": {"path": "/read/**"}, "upstream": None},
]
IDENTITY: Final = (
    b"x-user-id", b"x-user-roles", b"x-user-tenant", b"x-user-status", b"x-user-missing",
    b"x-auth-issuer", b"x-auth-subject", b"x-auth-scopes", b"x-auth-stale",
)  # fmt: skip


@dataclass
class Scene:
    """A running front."""

    front: Front
    port: int
    house: House

    @asynccontextmanager
    async def connect(self, address: str = "127.0.0.1") -> AsyncIterator[RawClient]:
        """Connect to the front from an address."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, local_addr=(address, 0))
        try:
            yield RawClient(reader, writer)
        finally:
            writer.close()
            with suppress(ConnectionError, OSError):
                await writer.wait_closed()

    async def send(self, request: bytes, address: str = "127.0.0.1") -> Response:
        """Send a request to the front and return its response."""
        async with self.connect(address) as client:
            await client.send(request)
            response = await client.response(to_head=request.startswith(b"HEAD "))
            assert response is not None, "the front closed the connection without an answer"
            return response

    async def request(
        self,
        target: str,
        *fields: bytes,
        method: str = "GET",
        token: bytes | None = None,
        body: bytes | None = None,
    ) -> Response:
        return await self.send(request_bytes(method, target, *fields, token=token, body=body))

    @property
    def received(self) -> list[Received]:
        """The requests that the service got."""
        return self.house.upstream.requests


def identity_of(received: Received) -> dict[bytes, list[bytes]]:
    """Return the values of each identity field that a service may see, whatever it takes for the same name.

    Empty ones count as none: services that look for a user find none.
    """
    found: dict[bytes, list[bytes]] = {name: [] for name in IDENTITY}
    for name, value in received.fields:
        if fold(name) in found and value:
            found[fold(name)].append(value)
    return found
