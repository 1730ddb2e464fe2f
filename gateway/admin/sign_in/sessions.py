"""Who has signed in: sealed in a cookie, which each process of the gateway can open, and no other can make.

So no session is kept anywhere, and no number of sign-ins takes memory. A session ends at its time, or when
the settings of the sign-in change, which are part of the seal.
"""

import base64
import binascii
import hashlib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final
from urllib.parse import urlsplit

import orjson
from aiohttp import web
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from gateway.admin.api.problems import RequestRefused
from gateway.core.model import JSON

HEADER: Final = "X-Gateway-Console"
"""The field that the console's scripts send. Pages of other origins cannot: their preflight fails."""
_NONCE_BYTES: Final = 12
_LARGEST: Final = 4000
"""Characters of a cookie's value: browsers drop cookies of more than 4096 bytes with name and attributes."""


class Role(StrEnum):
    """What a person may do."""

    VIEWER = "viewer"
    """Read everything, and explain tokens."""
    OPERATOR = "operator"
    """Change things, too, and replay recorded requests."""


@dataclass(frozen=True, slots=True)
class Person:
    """A person who has signed in."""

    subject: str
    """The `sub` of the provider."""
    name: str | None
    role: Role
    until: float
    """When the session ends, in Unix seconds."""

    @property
    def actor(self) -> str:
        """The author in the audit log. The subject comes first: people may choose their names."""
        return f"oidc:{self.subject}" + ("" if self.name is None else f" ({self.name})")


PERSON: Final = web.RequestKey("person", Person)
"""Who sent a request with a session."""


class Seal:
    """Seals values with AES-256-GCM (RFC 5116), with a key derived from a secret by scrypt (RFC 7914).

    A person who has a cookie could guess a weak secret from it, each guess of which scrypt makes dear.
    `context` has what a value counts for: under other settings it does not.
    """

    def __init__(self, secret: str, context: Sequence[str], clock: Callable[[], float] = time.time) -> None:
        salt = hashlib.sha256(orjson.dumps(["gateway console", *context])).digest()
        key = hashlib.scrypt(secret.encode(), salt=salt, n=2**14, r=8, p=1, dklen=32)
        self._cipher = AESGCM(key)
        self._clock = clock

    def close(self, purpose: str, value: Mapping[str, JSON], until: float) -> str:
        """Return a value as text that counts for one purpose, until a Unix time."""
        nonce = os.urandom(_NONCE_BYTES)
        octets = orjson.dumps({"until": until, "value": value})
        sealed = self._cipher.encrypt(nonce, octets, purpose.encode())
        return base64.urlsafe_b64encode(nonce + sealed).rstrip(b"=").decode()

    def open(self, purpose: str, text: str) -> tuple[dict[str, JSON], float] | None:
        """Return the value and its end; None if it is not ours, is for something else, or has ended."""
        if len(text) > _LARGEST:
            return None
        try:
            octets = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
            opened = self._cipher.decrypt(octets[:_NONCE_BYTES], octets[_NONCE_BYTES:], purpose.encode())
        except (binascii.Error, ValueError, InvalidTag):
            return None
        found = orjson.loads(opened)
        until: float = found["until"]
        return (found["value"], until) if self._clock() < until else None


class Sessions:
    """The cookies of people who have signed in. `console` is any URL of the console, as browsers see it."""

    def __init__(self, seal: Seal, *, console: str, lifetime: float) -> None:
        self._seal = seal
        self._origin = origin = _origin(console)
        self.lifetime = lifetime
        secure = origin.startswith("https:")
        # RFC 6265bis §4.1.3.2: no other host, and no page without TLS, can set a cookie of such a name.
        prefix = "__Host-" if secure else ""
        self.cookie = f"{prefix}gateway-session"
        self.login_cookie = f"{prefix}gateway-login"
        self._secure = secure

    def begin(self, response: web.Response, person: Person) -> None:
        """Let the browser keep a session."""
        value: dict[str, JSON] = {"sub": person.subject, "name": person.name, "role": person.role.value}
        sealed = self._seal.close("session", value, person.until)
        self.set(response, self.cookie, sealed, self.lifetime, same_site="Strict")

    def set(self, response: web.Response, name: str, value: str, seconds: float, *, same_site: str) -> None:
        """Set a cookie that scripts cannot read."""
        response.set_cookie(
            name,
            value,
            max_age=int(seconds),
            path="/",
            secure=self._secure,
            httponly=True,
            samesite=same_site,
        )

    def end(self, response: web.Response, name: str) -> None:
        """Let the browser forget a cookie."""
        self.set(response, name, "", 0, same_site="Strict")

    def person(self, request: web.Request) -> Person | None:
        """Return who sent a request; None if there is no session, or it has ended."""
        opened = self._seal.open("session", request.cookies.get(self.cookie, ""))
        if opened is None:
            return None
        value, until = opened
        name = value["name"]
        return Person(
            str(value["sub"]), name if isinstance(name, str) else None, Role(str(value["role"])), until
        )

    def check_origin(self, request: web.Request) -> None:
        """Refuse what a page of another origin may have sent. Raises `RequestRefused`.

        A browser sends the cookie by itself, so it proves nothing of what asked it to.
        """
        site = request.headers.get("Sec-Fetch-Site", "same-origin")
        origin = request.headers.get("Origin", self._origin)
        if HEADER not in request.headers or site != "same-origin" or origin != self._origin:
            raise RequestRefused(
                403,
                "cross_site_request",
                f"A session counts for the console at {self._origin} alone. Programs send a token instead",
            )


def _origin(url: str) -> str:
    """Return the origin of a URL as browsers write it (RFC 6454 §6.2): lower case, without a default port."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    host = f"[{host}]" if ":" in host else host
    port = "" if parts.port in (None, {"https": 443, "http": 80}.get(parts.scheme)) else f":{parts.port}"
    return f"{parts.scheme}://{host}{port}"
