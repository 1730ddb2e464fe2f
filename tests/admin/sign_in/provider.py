"""A small OpenID provider, a browser, and an admin port without stores behind it."""

import base64
import hashlib
import secrets
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode, urlsplit

from aiohttp import ClientResponse, ClientSession, DummyCookieJar, web
from aiohttp.test_utils import TestServer

from gateway.admin.api import explanations, models
from gateway.admin.api.operations import Answer, author_of, json, reads, takes
from gateway.admin.api.router import api
from gateway.admin.health import Admin
from gateway.admin.sign_in.provider import Client, Provider
from gateway.admin.sign_in.routes import SignIn
from gateway.admin.sign_in.sessions import HEADER, Role, Seal, Sessions
from gateway.core.model import JSON
from gateway.issuer_keys.fetch import Fetcher
from gateway.telemetry.metrics import Metrics
from tests import tokens

CLIENT: Final = "gateway-console"
SECRET: Final = "the secret of the client: 100 %"
TOKEN: Final = "correct-horse-battery-staple"
KEY: Final = "console-provider"
CONSOLE: Final = "https://gateway.example.com"


@dataclass
class FakeProvider:
    """A provider that signs what it is told to. It refuses a code that it has not issued, or has seen."""

    issuer: str = ""
    metadata: dict[str, JSON] = field(default_factory=dict)
    """Members that differ from the usual ones; None removes one."""
    claims: dict[str, JSON] = field(default_factory=lambda: {"roles": ["ops"], "name": "Ada"})
    """Of the next ID token; None removes one."""
    key: tokens.SigningKey = field(default_factory=lambda: tokens.rsa_key(KEY))
    header: dict[str, JSON] = field(default_factory=dict)
    algorithm: str | None = None
    asked: list[dict[str, str]] = field(default_factory=list)
    """What came to the token endpoint."""
    credentials: list[str] = field(default_factory=list)
    down: bool = False
    _codes: dict[str, dict[str, str]] = field(default_factory=dict)

    def application(self) -> web.Application:
        application = web.Application()
        application.router.add_get("/.well-known/openid-configuration", self._describe)
        application.router.add_get("/jwks", self._jwks)
        application.router.add_post("/token", self._exchange)
        return application

    def authorize(self, url: str) -> dict[str, str]:
        """Sign a person in at once; return the parameters of the answer."""
        asked = dict(parse_qsl(urlsplit(url).query))
        code = secrets.token_urlsafe(16)
        self._codes[code] = asked
        return {"code": code, "state": asked["state"], "iss": self.issuer}

    async def _describe(self, _: web.Request) -> web.Response:
        if self.down:
            raise web.HTTPServiceUnavailable
        usual: dict[str, JSON] = {
            "issuer": self.issuer,
            "authorization_endpoint": f"{self.issuer}/authorize",
            "token_endpoint": f"{self.issuer}/token",
            "jwks_uri": f"{self.issuer}/jwks",
            "authorization_response_iss_parameter_supported": True,
        }
        found = {**usual, **self.metadata}
        return web.json_response({name: value for name, value in found.items() if value is not None})

    async def _jwks(self, _: web.Request) -> web.Response:
        return web.json_response({"keys": [tokens.rsa_key(KEY).jwk()]})

    async def _exchange(self, request: web.Request) -> web.Response:
        form = {name: str(value) for name, value in (await request.post()).items()}
        self.asked.append(form)
        self.credentials.append(request.headers.get("Authorization", ""))
        begun = self._codes.pop(form["code"], None)
        digest = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
        challenge = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
        if begun is None or challenge != begun["code_challenge"]:
            return web.json_response({"error": "invalid_grant"}, status=400)
        now = time.time()
        usual: dict[str, JSON] = {
            "iss": self.issuer, "sub": "person-1", "aud": CLIENT, "iat": now, "exp": now + 300,
            "nonce": begun["nonce"],
        }  # fmt: skip
        claims = {name: value for name, value in {**usual, **self.claims}.items() if value is not None}
        raw = tokens.sign(claims, self.key, self.algorithm, **self.header)
        return web.json_response({"access_token": "x", "token_type": "Bearer", "id_token": raw.decode()})


class Browser:
    """Keeps cookies by their attributes, as browsers do, and sends what the console's scripts send."""

    def __init__(self, url: str, session: ClientSession) -> None:
        self.url = url
        self.session = session
        self.cookies: dict[str, str] = {}
        self.attributes: dict[str, Mapping[str, str]] = {}

    async def get(self, path: str, **query: str) -> ClientResponse:
        return await self.send("GET", f"{path}?{urlencode(query)}" if query else path)

    async def api(self, method: str, path: str, body: JSON = None, **headers: str) -> ClientResponse:
        """Send what the console would send."""
        return await self.send(method, f"/v1{path}", body, **{HEADER: "1", **headers})

    async def send(self, method: str, path: str, body: JSON = None, **headers: str) -> ClientResponse:
        cookies = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        sent = {**({"Cookie": cookies} if cookies else {}), **headers}
        response = await self.session.request(
            method, f"{self.url}{path}", json=body, headers=sent, allow_redirects=False
        )
        await response.read()
        for name, morsel in response.cookies.items():
            self.attributes[name] = {key: str(morsel[key]) for key in morsel.keys()}  # noqa: SIM118 -- a Morsel
            if morsel["max-age"] == "0":
                self.cookies.pop(name, None)
            else:
                self.cookies[name] = morsel.value
        return response

    async def begin(self, return_to: str = "") -> str:
        """Begin a sign-in; return the URL at the provider."""
        response = await self.get("/console/login", return_to=return_to)
        assert response.status == 303, await response.text()
        return response.headers["Location"]


@dataclass
class Port:
    """An admin port with sign-in."""

    provider: FakeProvider
    sign_in: SignIn
    url: str
    session: ClientSession
    clock: "Clock"

    def browser(self) -> Browser:
        return Browser(self.url, self.session)

    async def signed_in(self, **claims: JSON) -> Browser:
        self.provider.claims |= claims
        browser = self.browser()
        response = await browser.get("/console/callback", **self.provider.authorize(await browser.begin()))
        assert response.status == 303, await response.text()
        return browser


class Clock:
    """The real time, and what a test adds."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead


@asynccontextmanager
async def admin_port(*, console: str = CONSOLE, **changes: Any) -> AsyncIterator[Port]:  # noqa: ANN401 -- those of Client
    """Run a provider and an admin port with an operation of each kind."""
    provider, clock = FakeProvider(), Clock()
    async with TestServer(provider.application()) as other, Fetcher() as fetcher:
        provider.issuer = str(other.make_url("")).rstrip("/")
        client = Client(
            **{
                "issuer": provider.issuer, "client_id": CLIENT, "client_secret": SECRET,
                "redirect_uri": f"{console}/console/callback", "scopes": ("openid", "profile"),
                "algorithms": frozenset({"RS256", "ES256"}), "roles_claim": "roles",
                "roles": {Role.VIEWER: frozenset({"guests"}), Role.OPERATOR: frozenset({"ops"})},
                **changes,
            }
        )  # fmt: skip
        seal = Seal(SECRET, ["test"], clock)
        sessions = Sessions(seal, console=client.redirect_uri, lifetime=600.0)
        sign_in = SignIn(Provider(client, fetcher), seal, sessions, clock)
        application = Admin(Metrics(), {}).application(api(_operations(), TOKEN, sessions), sign_in)
        async with TestServer(application) as server, ClientSession(cookie_jar=DummyCookieJar()) as session:
            yield Port(provider, sign_in, str(server.make_url("")).rstrip("/"), session, clock)


def _operations() -> list[Any]:
    async def author(request: web.Request, _: models.NoParams) -> web.Response:
        return json(models.NewIdentity(issuer="author", subject=author_of(request).actor))

    async def asks(request: web.Request, _: models.NoParams, __: explanations.Question) -> web.Response:
        return json(models.NewIdentity(issuer="author", subject=author_of(request).actor))

    answer = Answer(model=models.NewIdentity)
    return [
        reads("GET", "/author", author, models.NoParams, "x", answer),
        reads("POST", "/author", author, models.NoParams, "x", answer),
        takes("POST", "/explain", asks, models.NoParams, explanations.Question, "x", answer, changes=False),
    ]
