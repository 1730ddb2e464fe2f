"""A token issuer that signs any token: discovery, a key set, and `/token/<name>`.

Only for demonstrations and tests: any client that reaches it gets a token for any subject.
"""

import base64
import hashlib
import time
import uuid
from typing import Final

import orjson
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256

from gateway.core.model import JSON

AUDIENCE: Final = "demo"
LIFETIME: Final = 3600
"""The default lifetime of a token, in seconds."""


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _integer(number: int) -> str:
    """Base64urlUInt (RFC 7518 §2)."""
    return _base64url(number.to_bytes((number.bit_length() + 7) // 8))


def _new_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


class DemoIssuer:
    """An issuer with one RS256 key, generated at the start."""

    def __init__(self, url: str) -> None:
        self.url = url
        """Its `iss`, and the base URL of its documents; no trailing slash."""
        self._key = _new_key()
        self._stranger = _new_key()
        numbers = self._key.public_key().public_numbers()
        public = {"e": _integer(numbers.e), "kty": "RSA", "n": _integer(numbers.n)}
        # The thumbprint of RFC 7638: the same key has the same name everywhere.
        self._kid = _base64url(hashlib.sha256(orjson.dumps(public)).digest())
        self._jwk: dict[str, JSON] = {**public, "kid": self._kid, "alg": "RS256", "use": "sig"}

    def token(
        self,
        subject: str,
        *,
        scope: str | None = None,
        expires_in: int = LIFETIME,
        audience: str = AUDIENCE,
        tenant: str | None = None,
        signed_by_stranger: bool = False,
    ) -> str:
        """Issue an access token (RFC 9068) for any subject.

        `expires_in` is in seconds. With zero or less, the token has expired after its full lifetime.
        `signed_by_stranger` forges the signature: it signs with a key that is not in the key set, and names
        the key that is.
        """
        now = int(time.time())
        expires_at = now + expires_in
        claims: dict[str, JSON] = {
            "iss": self.url,
            "sub": subject,
            "aud": audience,
            "iat": now if expires_in > 0 else expires_at - LIFETIME,
            "exp": expires_at,
            "jti": str(uuid.uuid4()),
        }
        if scope is not None:
            claims["scope"] = scope
        if tenant is not None:
            claims["tenant_id"] = tenant
        header = {"alg": "RS256", "typ": "at+jwt", "kid": self._kid}
        signed = f"{_base64url(orjson.dumps(header))}.{_base64url(orjson.dumps(claims))}"
        key = self._stranger if signed_by_stranger else self._key
        return f"{signed}.{_base64url(key.sign(signed.encode(), padding.PKCS1v15(), SHA256()))}"

    def application(self) -> web.Application:
        application = web.Application()
        application.router.add_get("/.well-known/openid-configuration", self._metadata)
        application.router.add_get("/jwks.json", self._jwks)
        application.router.add_get("/token/{name:.+}", self._token)
        return application

    async def _metadata(self, _: web.Request) -> web.Response:
        # The fields that OpenID Connect Discovery 1.0 §3 requires, without those that have no meaning here.
        document: dict[str, JSON] = {
            "issuer": self.url,
            "jwks_uri": f"{self.url}/jwks.json",
            "response_types_supported": ["token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["RS256"],
        }
        return _document(document)

    async def _jwks(self, _: web.Request) -> web.Response:
        return _document({"keys": [self._jwk]})

    async def _token(self, request: web.Request) -> web.Response:
        query = request.query
        expires_in = query.get("expires_in", str(LIFETIME))
        signer = query.get("signed_by", "issuer")
        try:
            seconds = int(expires_in)
        except ValueError:
            raise web.HTTPBadRequest(
                text="expires_in must be a number of seconds, such as 60 or -60\n"
            ) from None
        if abs(seconds) > 10**9:
            raise web.HTTPBadRequest(text="expires_in must be within a billion seconds of zero\n")
        if signer not in ("issuer", "stranger"):
            raise web.HTTPBadRequest(text="signed_by must be issuer or stranger\n")
        token = self.token(
            request.match_info["name"],
            scope=query.get("scope"),
            expires_in=seconds,
            audience=query.get("aud", AUDIENCE),
            tenant=query.get("tenant"),
            signed_by_stranger=signer == "stranger",
        )
        return web.Response(text=token, headers={"Cache-Control": "no-store"})


def _document(content: dict[str, JSON]) -> web.Response:
    return web.Response(
        body=orjson.dumps(content),
        content_type="application/json",
        headers={"Cache-Control": "public, max-age=300"},
    )
