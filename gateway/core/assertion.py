"""Signed identity: the JWT that tells an upstream who a user is, and the keys that sign it.

- A new key is published before it signs, so that all gateways and verifiers know it by then.
- When another key signs, the earlier one stays published until nothing that it has signed is valid, and for
  `OVERLAP` more, because a gateway may hear late of the new one.
- An assertion is made once for a decision and is remembered with it. A decision ends when half of the
  assertion's time is over, so each request carries one that is valid for at least the other half.
"""

import base64
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import orjson
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from gateway.core.model import JSON, Claims, User
from gateway.core.tokens.key_material import signature

OVERLAP: Final = 3600.0
"""Seconds for which a key stays published after the last assertion that it should have signed has expired."""
HEADER: Final = "X-Gateway-Assertion"
KEYS_PATH: Final = "/.well-known/jwks.json"
"""Where the public keys are, on each listener."""
_COORDINATE_BYTES: Final = 32


class SigningKeyUnusable(ValueError):
    """A private key that cannot sign with its algorithm; the text says why."""


class Signed(NamedTuple):
    """An assertion."""

    field: bytes
    """The header field, with its line end."""
    until: float
    """When a decision with it ends, in Unix seconds."""


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A private key of the gateway. Raises `SigningKeyUnusable`."""

    pem: str = field(repr=False)
    """PKCS #8, not encrypted."""
    algorithm: str
    """`ES256` or `EdDSA` (RFC 7518 §3.4, RFC 8037 §3.1)."""
    signs_from: float
    """When it begins to sign, in Unix seconds."""
    jwk: Mapping[str, JSON] = field(init=False, repr=False, compare=False)
    """The public key (RFC 7517 §4)."""
    _sign: Callable[[bytes], bytes] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        try:
            private = serialization.load_pem_private_key(self.pem.encode(), None)
        except (ValueError, TypeError) as error:
            raise SigningKeyUnusable("it is not an unencrypted private key in PEM") from error
        if self.algorithm == "EdDSA" and isinstance(private, ed25519.Ed25519PrivateKey):
            public = _octet_key(private)
        elif (
            self.algorithm == "ES256"
            and isinstance(private, ec.EllipticCurvePrivateKey)
            and isinstance(private.curve, ec.SECP256R1)
        ):
            public = _elliptic_key(private)
        else:
            raise SigningKeyUnusable(f"it is not a key for {self.algorithm}")
        # RFC 7638 §3: the required members, in the order of their names.
        digest = hashlib.sha256(orjson.dumps(public, option=orjson.OPT_SORT_KEYS)).digest()
        kid = _base64url(digest).decode()
        object.__setattr__(self, "jwk", {**public, "kid": kid, "use": "sig", "alg": self.algorithm})
        object.__setattr__(self, "_sign", signature(private, self.algorithm))

    @property
    def kid(self) -> str:
        """The thumbprint of the public key (RFC 7638)."""
        return str(self.jwk["kid"])

    def token(self, payload: Mapping[str, JSON]) -> bytes:
        """Return a JWT in compact serialisation (RFC 7515 §7.1)."""
        header = {"alg": self.algorithm, "kid": self.kid, "typ": "JWT"}
        signed = _base64url(orjson.dumps(header)) + b"." + _base64url(orjson.dumps(payload))
        return signed + b"." + _base64url(self._sign(signed))


def new_pem(algorithm: str) -> str:
    """Return a new private key in PEM."""
    private = (
        ed25519.Ed25519PrivateKey.generate()
        if algorithm == "EdDSA"
        else ec.generate_private_key(ec.SECP256R1())
    )
    return private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()


def payload(
    claims: Claims, user: User | None, *, issuer: str, audience: str, issued_at: float, ttl: float, jti: str
) -> dict[str, JSON]:
    """Return what an assertion says. Without a user, it has no `sub`."""
    said: dict[str, JSON] = {
        "iss": issuer,
        "aud": audience,
        "iat": int(issued_at),
        "exp": int(issued_at + ttl),
        "jti": jti,
        "original_iss": claims.issuer,
        "original_sub": claims.subject,
        "scope": " ".join(claims.scopes),
    }
    if user is not None:
        said |= {"sub": user.id, "status": user.status.value, "roles": list(user.roles)}
        if user.tenant is not None:
            said["tenant"] = user.tenant
    return said


def is_assertion(payload: Mapping[str, JSON]) -> bool:
    """Return whether a token with this payload looks like an assertion, of any gateway."""
    return "original_iss" in payload and "original_sub" in payload


def signing(keys: Iterable[SigningKey], now: float) -> SigningKey | None:
    """Return the key that signs at a moment; None if there is none.

    The first key of all signs even if the clock that made it is ahead.
    """
    ordered = _ordered(keys)
    begun = [key for key in ordered if key.signs_from <= now]
    return begun[-1] if begun else next(iter(ordered), None)


def published(keys: Iterable[SigningKey], now: float, ttl: float) -> list[SigningKey]:
    """Return the keys that verify assertions now or soon, the oldest first. `ttl` is that of assertions."""
    ordered = _ordered(keys)
    ends = [key.signs_from + ttl + OVERLAP for key in ordered[1:]]
    return [key for key, end in zip(ordered, [*ends, now + 1], strict=False) if now < end]


def jwks(keys: Sequence[SigningKey]) -> bytes:
    """Return a JWK set with the public keys (RFC 7517 §5)."""
    return orjson.dumps({"keys": [dict(key.jwk) for key in keys]})


def _ordered(keys: Iterable[SigningKey]) -> list[SigningKey]:
    return sorted(keys, key=lambda key: (key.signs_from, key.kid))


def _octet_key(private: ed25519.Ed25519PrivateKey) -> dict[str, JSON]:
    x = _base64url(private.public_key().public_bytes_raw())
    return {"kty": "OKP", "crv": "Ed25519", "x": x.decode()}


def _elliptic_key(private: ec.EllipticCurvePrivateKey) -> dict[str, JSON]:
    point = private.public_key().public_numbers()
    x, y = (_base64url(each.to_bytes(_COORDINATE_BYTES, "big")).decode() for each in (point.x, point.y))
    return {"kty": "EC", "crv": "P-256", "x": x, "y": y}


def _base64url(octets: bytes) -> bytes:
    """Encode without padding (RFC 7515 §2)."""
    return base64.urlsafe_b64encode(octets).rstrip(b"=")
