"""Questions as each kind of front asks them, and the connections that carry them."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Final, TypeAlias
from urllib.parse import urlsplit

from gateway.core.model import JSON
from tests.harness import CORS, House
from tests.sockets import RawClient, Response, request_bytes

COOKIE: Final[JSON] = {"cookie": "session"}
ROUTES: Final[list[JSON]] = [
    {
        "name": "hosted",
        "match": {"path": "/**", "hosts": ["app.example.com"]},
        "upstream": None,
        "auth": "none",
    },
    {"name": "private", "match": {"path": "/private/**"}, "upstream": None},
    {"name": "both", "match": {"path": "/both/**"}, "upstream": "raw"},
    {"name": "admin", "match": {"path": "/both-admin/**"}, "upstream": None, "require": {"roles": ["admin"]}},
    {"name": "rest", "match": {"path": "/both-admin/**"}, "upstream": "raw", "auth": "none"},
    {"name": "optional", "match": {"path": "/optional/**"}, "upstream": None, "auth": "optional"},
    {"name": "leave", "match": {"path": "/leave/**"}, "upstream": None, "allow_inactive": True},
    {"name": "welcome", "match": {"path": "/welcome/**"}, "upstream": None, "missing_user": "forward"},
    {
        "name": "forwarding",
        "match": {"path": "/forwarding/**"},
        "upstream": None,
        "forward_authorization": True,
    },
    {"name": "read", "match": {"path": "/read/**", "methods": ["GET", "HEAD"]}, "upstream": None},
    {"name": "shared", "match": {"path": "/shared/**"}, "upstream": None, "cors": {**CORS}},
    {"name": "keyless", "match": {"path": "/keyless/**"}, "upstream": None},
    {"name": "browser", "match": {"path": "/browser/**"}, "upstream": None, "credentials": COOKIE},
]

NAMES: Final = (
    b"X-User-Id", b"X-User-Roles", b"X-User-Tenant", b"X-Auth-Issuer", b"X-Auth-Subject", b"X-Auth-Scopes",
    b"X-User-Status", b"X-User-Missing", b"X-Auth-Stale",
)  # fmt: skip
"""Every identity field of a success."""

Ask: TypeAlias = Callable[..., bytes]


def auth_request(
    method: str = "GET",
    uri: str = "/private/x",
    *fields: bytes,
    host: str = "api.test",
    token: bytes | None = None,
) -> bytes:
    """Return a question as nginx asks it."""
    own = (f"X-Original-Method: {method}", f"X-Original-URI: {uri}", f"X-Original-Host: {host}")
    return request_bytes("GET", "/auth-request", *(line.encode() for line in own), *fields, token=token)


def forward_auth(
    method: str = "GET",
    uri: str = "/private/x",
    *fields: bytes,
    host: str = "api.test",
    token: bytes | None = None,
) -> bytes:
    """Return a question as Traefik and Caddy ask it."""
    own = (
        f"X-Forwarded-Method: {method}", f"X-Forwarded-Uri: {uri}", f"X-Forwarded-Host: {host}",
        "X-Forwarded-Proto: https",
    )  # fmt: skip
    return request_bytes("GET", "/forward-auth", *(line.encode() for line in own), *fields, token=token)


def ext_authz(
    method: str = "GET",
    uri: str = "/private/x",
    *fields: bytes,
    host: str = "api.test",
    token: bytes | None = None,
) -> bytes:
    """Return a question as Envoy asks it."""
    return request_bytes(method, "/ext-authz" + uri, b"Host: " + host.encode(), *fields, token=token)


ASKS: Final[dict[str, Ask]] = {
    "auth_request": auth_request,
    "forward_auth": forward_auth,
    "ext_authz": ext_authz,
}


@asynccontextmanager
async def front(door: House, address: str = "127.0.0.1") -> AsyncIterator[RawClient]:
    """Connect to the decision listener from an address."""
    parts = urlsplit(door.decision_url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port, local_addr=(address, 0))
    try:
        yield RawClient(reader, writer)
    finally:
        writer.close()
        with suppress(ConnectionError, OSError):
            await writer.wait_closed()


async def ask(door: House, question: bytes, address: str = "127.0.0.1") -> Response:
    """Ask on a connection of its own."""
    async with front(door, address) as client:
        await client.send(question)
        response = await client.response(to_head=question.startswith(b"HEAD "))
        assert response is not None, "the gateway closed the connection without an answer"
        return response


def told(response: Response) -> dict[bytes, bytes]:
    """Return the identity fields of an answer, each of which must be there once."""
    found = {name: response.values(name) for name in NAMES}
    assert all(len(values) == 1 for values in found.values()), response.head
    return {name: values[0] for name, values in found.items()}
