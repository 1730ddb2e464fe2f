"""The way of a person through the sign-in: `/console/login` → the provider → `/console/callback`; and out.

What a sign-in must remember until its answer (`state`, `nonce`, the verifier of PKCE) is sealed in a cookie
of the browser that began it. Another browser does not have that cookie, so a link of another person signs
no one in. The cookie is deleted with the answer, and a provider accepts a code once.
"""

import base64
import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import orjson
import structlog
from aiohttp import web

from gateway.admin.api import problems
from gateway.admin.api.authentication import network_of
from gateway.admin.api.problems import REQUEST_ID, RequestRefused
from gateway.admin.sign_in import pages
from gateway.admin.sign_in.provider import Provider, SignInRefused
from gateway.admin.sign_in.sessions import Person, Seal, Sessions
from gateway.core.caches import LRU
from gateway.core.model import JSON
from gateway.telemetry.logs import hash_subject

LOGIN_SECONDS: Final = 600.0
"""How long a person may take at the provider."""
ATTEMPTS: Final = 20
WINDOW: Final = 60.0
"""Answers of the provider that one address may bring within these seconds."""
ADDRESSES: Final = 10_000
"""The number of addresses that are remembered."""
EXCHANGES: Final = 16
"""Codes that are exchanged at the same time."""
_FRAGMENT: Final = re.compile(r"#/[A-Za-z0-9/_.~%?&=+:@!$'()*,;-]{0,1500}")
"""What a browser writes into the fragment of a URL as it is (RFC 3986 §3.5); all else is percent-encoded."""

log: structlog.stdlib.BoundLogger = structlog.get_logger()


@dataclass(slots=True)
class _Attempts:
    since: float
    count: int = 0


class SignIn:
    """Serves the sign-in. `clock` returns Unix seconds."""

    def __init__(
        self, provider: Provider, seal: Seal, sessions: Sessions, clock: Callable[[], float] = time.time
    ) -> None:
        self._provider = provider
        self._seal = seal
        self.sessions = sessions
        self._clock = clock
        self._attempts: LRU[str, _Attempts] = LRU(ADDRESSES)
        self._exchanging = 0

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/console/session", self.session, allow_head=False),
            web.get("/console/login", self.login, allow_head=False),
            web.get("/console/callback", self.callback, allow_head=False),
            web.post("/console/logout", self.logout),
        ]

    async def session(self, request: web.Request) -> web.Response:
        """Tell the console who has signed in."""
        person = self.sessions.person(request)
        return _told(None if person is None else _described(person))

    async def login(self, request: web.Request) -> web.Response:
        """Send the browser to the provider."""
        state, nonce, code_verifier = (secrets.token_urlsafe(32) for _ in range(3))
        challenge = base64.urlsafe_b64encode(hashlib.sha256(code_verifier.encode()).digest()).rstrip(b"=")
        try:
            url = await self._provider.authorization(
                state=state, nonce=nonce, code_challenge=challenge.decode()
            )
        except SignInRefused as refused:
            return self._failed(request, refused)
        value: dict[str, JSON] = {
            "state": state,
            "nonce": nonce,
            "code_verifier": code_verifier,
            "return_to": _fragment(request.query.get("return_to", "")),
        }
        sealed = self._seal.close("login", value, self._clock() + LOGIN_SECONDS)
        response = web.Response(status=303, headers={**pages.HEADERS, "Location": url})
        # The answer of the provider comes from another site, with a cookie that is Lax only.
        self.sessions.set(response, self.sessions.login_cookie, sealed, LOGIN_SECONDS, same_site="Lax")
        return response

    async def callback(self, request: web.Request) -> web.Response:
        """Take the provider's answer, and begin a session."""
        opened = self._seal.open("login", request.cookies.get(self.sessions.login_cookie, ""))
        try:
            begun = None if opened is None else opened[0]
            person = await self._person(request, begun)
        except SignInRefused as refused:
            response = self._failed(request, refused)
        else:
            # A fragment alone, so that it leads to this console whatever it is.
            fragment = "" if begun is None else _fragment(str(begun["return_to"]))
            location = f"../console{fragment}"
            response = web.Response(status=303, headers={**pages.HEADERS, "Location": location})
            self.sessions.begin(response, person)
            log.info("console_signed_in", subject_hash=hash_subject(person.subject), role=person.role.value)
        self.sessions.end(response, self.sessions.login_cookie)
        return response

    async def logout(self, request: web.Request) -> web.Response:
        """End the session in this browser."""
        try:
            self.sessions.check_origin(request)
        except RequestRefused as refused:
            return problems.response(refused, request[REQUEST_ID])
        response = web.Response(status=204, headers={"Cache-Control": "no-store"})
        self.sessions.end(response, self.sessions.cookie)
        return response

    async def _person(self, request: web.Request, begun: dict[str, JSON] | None) -> Person:
        given = {name: request.query.getall(name, []) for name in ("state", "code", "iss", "error")}
        if any(len(values) > 1 for values in given.values()):
            raise SignInRefused("response_invalid", "a parameter occurs twice")
        state, code, iss, error = (next(iter(values), None) for values in given.values())
        if begun is None or state is None or not _equal(state, str(begun["state"])):
            raise SignInRefused("state_invalid", "the state is not that of a sign-in of this browser")
        if error is not None:
            raise SignInRefused("denied", f"the provider's error is {error[:100]!a}")
        if code is None:
            raise SignInRefused("response_invalid", "there is no code")
        self._count(network_of(request.remote or ""))
        if self._exchanging >= EXCHANGES:
            raise SignInRefused("provider_unavailable", f"{EXCHANGES} codes are being exchanged already")
        self._exchanging += 1
        try:
            found = await self._provider.identify(
                code, iss=iss, nonce=str(begun["nonce"]), code_verifier=str(begun["code_verifier"])
            )
        finally:
            self._exchanging -= 1
        return Person(found.subject, found.name, found.role, self._clock() + self.sessions.lifetime)

    def _count(self, network: str) -> None:
        """Count an attempt. Raises `SignInRefused` when there were too many."""
        now = self._clock()
        attempts = self._attempts.get(network)
        if attempts is None or now - attempts.since > WINDOW:
            attempts = _Attempts(now)
            self._attempts.put(network, attempts)
        attempts.count += 1
        if attempts.count > ATTEMPTS:
            raise SignInRefused("too_many_attempts", f"{attempts.count} within {WINDOW:g} s")

    def _failed(self, request: web.Request, refused: SignInRefused) -> web.Response:
        request_id = request[REQUEST_ID]
        log.warning(
            "console_sign_in_failed",
            code=refused.code,
            detail=str(refused),
            client=network_of(request.remote or ""),
            request_id=request_id,
        )
        return pages.failure(refused.code, request_id)


def no_sign_in() -> list[web.RouteDef]:
    """Return the routes of a console without sign-in: it is told that there is none."""

    async def session(_: web.Request) -> web.Response:
        return _told(None, oidc=False)

    return [web.get("/console/session", session, allow_head=False)]


def _told(person: JSON, *, oidc: bool = True) -> web.Response:
    return web.Response(
        body=orjson.dumps({"oidc": oidc, "person": person}),
        content_type="application/json",
        headers={
            "Cache-Control": "no-store",
            "X-Content-Type-Options": "nosniff",
            "Cross-Origin-Resource-Policy": "same-origin",
        },
    )


def _described(person: Person) -> JSON:
    return {
        "subject": person.subject,
        "name": person.name,
        "role": person.role.value,
        "until": person.until,
    }


def _fragment(text: str) -> str:
    """Return a fragment of the console's address; nothing if it is none."""
    return text if _FRAGMENT.fullmatch(text) else ""


def _equal(one: str, other: str) -> bool:
    return hmac.compare_digest(one.encode("utf-8", "replace"), other.encode())
