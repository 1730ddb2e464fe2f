"""An issuer on loopback whose behaviour a test can change, and keys for it."""

import asyncio
import base64
import ssl
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import orjson
from aiohttp import web
from aiohttp.test_utils import TestServer
from cryptography.hazmat.primitives.asymmetric import ec

from gateway.core.model import JSON

OIDC = "/.well-known/openid-configuration"
OAUTH = "/.well-known/oauth-authorization-server"


@dataclass
class Answer:
    body: bytes
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    hangs: bool = False


@dataclass
class IssuerServer:
    url: str = ""
    answers: dict[str, Answer] = field(default_factory=dict)
    requests: Counter[str] = field(default_factory=Counter)
    seen: list[web.BaseRequest] = field(default_factory=list)

    def publish(self, *jwks: JSON, cache_control: str | None = None) -> None:
        headers = {} if cache_control is None else {"Cache-Control": cache_control}
        self.answers["/jwks"] = Answer(orjson.dumps({"keys": list(jwks)}), headers=headers)

    def describe(self, path: str = OIDC, **changes: JSON) -> None:
        metadata = {"issuer": self.url, "jwks_uri": f"{self.url}/jwks", **changes}
        self.answers[path] = Answer(orjson.dumps(metadata))

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        self.requests[request.path] += 1
        self.seen.append(request)
        answer = self.answers.get(request.path, Answer(b"not here", 404))
        if answer.hangs:
            await asyncio.sleep(60)
        return web.Response(body=answer.body, status=answer.status, headers=answer.headers)


@asynccontextmanager
async def serving(tls: ssl.SSLContext | None = None, port: int | None = None) -> AsyncIterator[IssuerServer]:
    """Serve an issuer with metadata and an empty key set. It stops at once, even with hanging requests."""
    issuer = IssuerServer()
    app = web.Application()
    app.router.add_get("/{path:.*}", issuer.answer)
    server = TestServer(app, scheme="http" if tls is None else "https", port=port)
    await server.start_server(ssl=tls, shutdown_timeout=0)
    issuer.url = str(server.make_url("")).rstrip("/")
    issuer.describe()
    issuer.publish()
    try:
        yield issuer
    finally:
        await server.close()


def public_jwk(kid: str | None = None) -> JSON:
    """Return the public JWK of a new P-256 key."""
    numbers = ec.generate_private_key(ec.SECP256R1()).public_key().public_numbers()
    jwk: dict[str, JSON] = {
        "kty": "EC",
        "crv": "P-256",
        "x": _base64url(numbers.x),
        "y": _base64url(numbers.y),
    }
    return jwk if kid is None else {**jwk, "kid": kid}


def _base64url(number: int) -> str:
    return base64.urlsafe_b64encode(number.to_bytes(32, "big")).rstrip(b"=").decode()
