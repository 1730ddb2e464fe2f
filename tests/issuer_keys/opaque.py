"""An issuer of opaque tokens on loopback, whose introspection endpoint a test can change (RFC 7662)."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import orjson
from aiohttp import web
from aiohttp.test_utils import TestServer

from gateway.core.model import JSON


@dataclass
class OpaqueIssuer:
    """Its tokens, and what it was asked."""

    url: str = ""
    tokens: dict[str, dict[str, JSON]] = field(default_factory=dict)
    """What it says of its tokens, beside `active: true`. Of all others it says that they are not."""
    status: int = 200
    body: bytes | None = None
    """What it answers instead."""
    asked: Counter[str] = field(default_factory=Counter)
    forms: list[dict[str, str]] = field(default_factory=list)
    peers: set[object] = field(default_factory=set)
    """The other ends of its connections."""
    drops: int = 0
    """So many calls are cut off instead of answered."""
    authorizations: list[str | None] = field(default_factory=list)
    open: asyncio.Event = field(default_factory=asyncio.Event)
    """Until it is set, no answer comes."""
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when a call arrives."""

    @property
    def endpoint(self) -> str:
        return f"{self.url}/introspect"

    async def answer(self, request: web.Request) -> web.StreamResponse:
        form = {name: str(value) for name, value in (await request.post()).items()}
        self.forms.append(form)
        self.authorizations.append(request.headers.get("Authorization"))
        self.asked[form["token"]] += 1
        assert request.transport is not None
        self.peers.add(request.transport.get_extra_info("peername"))
        if self.drops > 0:
            self.drops -= 1
            request.transport.abort()
        self.arrived.set()
        await self.open.wait()
        claims = self.tokens.get(form["token"])
        said: JSON = {"active": False} if claims is None else {"active": True, **claims}
        body = orjson.dumps(said) if self.body is None else self.body
        return web.Response(body=body, status=self.status, content_type="application/json")


@asynccontextmanager
async def serving(port: int | None = None) -> AsyncIterator[OpaqueIssuer]:
    """Serve the issuer. It stops at once, even with calls that wait."""
    issuer = OpaqueIssuer()
    issuer.open.set()
    app = web.Application()
    app.router.add_post("/introspect", issuer.answer)
    server = TestServer(app, port=port)
    await server.start_server(shutdown_timeout=0)
    issuer.url = str(server.make_url("")).rstrip("/")
    try:
        yield issuer
    finally:
        issuer.open.set()
        await server.close()
