"""Good tokens, and the parts to make bad ones of."""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from bench.tokens import AUDIENCE, ISSUER, subject
from gateway.core.model import JSON
from tests.tokens import SigningKey, base64url, ec_key, ed25519_key, rsa_key, signature

RSA: Final = rsa_key("rsa")
OTHER_RSA: Final = rsa_key("rsa-2")
P256: Final = ec_key("p256")
P384: Final = ec_key("p384", "P-384")
P521: Final = ec_key("p521", "P-521")
ED25519: Final = ed25519_key("ed25519")
KEYS: Final = (RSA, OTHER_RSA, P256, P384, P521, ED25519)
"""The keys of the issuer."""
FOREIGN: Final = rsa_key("foreign")
"""A key that is not the issuer's."""
SMALL_ORDER: Final[Mapping[str, bytes]] = {
    "one": b"\x01" + bytes(31),
    "order-2": b"\xec" + b"\xff" * 30 + b"\x7f",
    "order-4": bytes(32),
}
"""Ed25519 points of small order, which some issuer may publish as keys."""
LEEWAY: Final = 30
"""Seconds that both proxies allow between the clocks."""


@dataclass(frozen=True, slots=True)
class Case:
    """A request's Authorization, as it is sent to both proxies."""

    name: str
    field: bytes


def jwks() -> str:
    """Return the keys of the issuer, and keys of small order beside them."""
    small: list[JSON] = [
        {"kty": "OKP", "crv": "Ed25519", "use": "sig", "kid": name, "x": base64url(point).decode()}
        for name, point in SMALL_ORDER.items()
    ]
    return json.dumps({"keys": [*(key.jwk() for key in KEYS), *small]})


def claims(**changes: JSON) -> dict[str, JSON]:
    """Return claims that both proxies accept, with changes."""
    now = int(time.time())
    return {
        "iss": ISSUER, "sub": subject(0), "aud": AUDIENCE, "iat": now, "exp": now + 3600,
        "jti": "3f1c", "scope": "orders:read", **changes,
    }  # fmt: skip


def text(value: JSON) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def header(key: SigningKey = RSA, algorithm: str | None = None, /, **changes: JSON) -> dict[str, JSON]:
    """Return the header of a good token, with changes."""
    return {"alg": algorithm or key.algorithm, "typ": "JWT", "kid": key.kid, **changes}


def without(members: Mapping[str, JSON], name: str) -> dict[str, JSON]:
    return {each: value for each, value in members.items() if each != name}


def signed(
    head: Mapping[str, JSON] | bytes | None = None,
    payload: Mapping[str, JSON] | bytes | None = None,
    *,
    key: SigningKey | bytes = RSA,
    algorithm: str = "",
) -> bytes:
    """Return a token whose signature is good, with any header and payload.

    `algorithm` is how it is signed, by default what the key is for; a key of bytes is an HMAC secret.
    """
    if head is None:
        head = header(key) if isinstance(key, SigningKey) else {"alg": algorithm}
    if payload is None:
        payload = claims()
    return sealed(
        base64url(head if isinstance(head, bytes) else text(dict(head))),
        base64url(payload if isinstance(payload, bytes) else text(dict(payload))),
        key=key, algorithm=algorithm,
    )  # fmt: skip


def sealed(head: bytes, payload: bytes, *, key: SigningKey | bytes = RSA, algorithm: str = "") -> bytes:
    """Return a token of two segments as they are, with a good signature over them."""
    if isinstance(key, SigningKey) and not algorithm:
        algorithm = key.algorithm
    signing_input = head + b"." + payload
    return signing_input + b"." + base64url(signature(signing_input, key, algorithm))


def resealed(token: bytes, mac: bytes) -> bytes:
    """Return a token with other octets for its signature."""
    return token.rpartition(b".")[0] + b"." + base64url(mac)
