"""Keys and tokens for the tests: valid ones, and invalid ones that no library would sign.

Keys are generated at run time and cached per process, because RSA is slow: `rsa_key("a")` always returns the
same key.
"""

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Final, TypeAlias

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from gateway.core.model import JSON

ISSUER: Final = "https://idp.example.com/"
AUDIENCE: Final = "orders-api"

Private: TypeAlias = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey

_HASHES: Final[dict[str, hashes.HashAlgorithm]] = {
    "256": hashes.SHA256(),
    "384": hashes.SHA384(),
    "512": hashes.SHA512(),
}
_CURVES: Final[dict[str, ec.EllipticCurve]] = {
    "P-256": ec.SECP256R1(),
    "P-384": ec.SECP384R1(),
    "P-521": ec.SECP521R1(),
    "secp256k1": ec.SECP256K1(),
}


@dataclass(frozen=True)
class SigningKey:
    """A key pair of an issuer."""

    kid: str
    algorithm: str
    """What `sign` uses unless told otherwise."""
    private: Private

    def jwk(self, **changes: JSON) -> dict[str, JSON]:
        """Return the public JWK; a change to None removes the member."""
        return _without_nones({"kid": self.kid, "use": "sig", **_parameters(self.private), **changes})

    def pem(self) -> bytes:
        """Return the public key as PEM."""
        return self.private.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )

    def private_pem(self) -> bytes:
        """Return the private key as PEM, PKCS #8."""
        return self.private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )


@cache
def rsa_key(name: str = "rsa", bits: int = 2048) -> SigningKey:
    """Return an RSA key; its name is its `kid`."""
    return SigningKey(name, "RS256", rsa.generate_private_key(public_exponent=65537, key_size=bits))


@cache
def ec_key(name: str = "ec", curve: str = "P-256") -> SigningKey:
    """Return a key on a curve (by its JWK name, or `secp256k1`); its name is its `kid`."""
    algorithm = {"P-384": "ES384", "P-521": "ES512"}.get(curve, "ES256")
    return SigningKey(name, algorithm, ec.generate_private_key(_CURVES[curve]))


@cache
def ed25519_key(name: str = "ed25519") -> SigningKey:
    """Return an Ed25519 key; its name is its `kid`."""
    return SigningKey(name, "EdDSA", ed25519.Ed25519PrivateKey.generate())


@cache
def secret(name: str = "secret", size: int = 64) -> bytes:
    """Return the bytes of a MAC key; `sign` takes them as they are."""
    return hashlib.shake_256(name.encode()).digest(size)


def claims(
    subject: str = "member", *, now: float | None = None, lifetime: float = 300, **changes: JSON
) -> dict[str, JSON]:
    """Return claims that a gateway with `ISSUER` and `AUDIENCE` accepts, with changes.

    `now` is in Unix seconds, by default the clock's. To remove a claim use `without`.
    """
    issued_at = int(time.time() if now is None else now)
    return {
        "iss": ISSUER,
        "sub": subject,
        "aud": AUDIENCE,
        "iat": issued_at,
        "exp": issued_at + int(lifetime),
        **changes,
    }


def without(members: Mapping[str, JSON], *names: str) -> dict[str, JSON]:
    """Return the claims without some of them."""
    return {name: value for name, value in members.items() if name not in names}


def sign(
    payload: Mapping[str, JSON] | bytes,
    key: SigningKey | bytes,
    algorithm: str | None = None,
    **header: JSON,
) -> bytes:
    """Return a signed token in compact serialisation.

    `payload` in bytes is signed as it is, JSON or not. `key` in bytes is a MAC secret. `algorithm`
    is what the header says and what is done. `header` adds members; None removes one.
    """
    if algorithm is None:
        algorithm = key.algorithm if isinstance(key, SigningKey) else "HS256"
    kid = key.kid if isinstance(key, SigningKey) else None
    members = _without_nones({"alg": algorithm, "typ": "JWT", "kid": kid, **header})
    return sign_raw(_json(members), payload if isinstance(payload, bytes) else _json(payload), key, algorithm)


def sign_raw(header: bytes, payload: bytes, key: SigningKey | bytes, algorithm: str) -> bytes:
    """Return a token with a header and payload of any bytes, whose signature is good."""
    signing_input = base64url(header) + b"." + base64url(payload)
    return signing_input + b"." + base64url(signature(signing_input, key, algorithm))


def unsigned(header: Mapping[str, JSON], payload: Mapping[str, JSON], mac: bytes = b"") -> bytes:
    """Return a token with any header and any bytes for a signature."""
    return b".".join((base64url(_json(header)), base64url(_json(payload)), base64url(mac)))


def resigned(token: bytes, mac: bytes) -> bytes:
    """Return the token with other bytes for a signature."""
    return token.rpartition(b".")[0] + b"." + base64url(mac)


def signature(signing_input: bytes, key: SigningKey | bytes, algorithm: str) -> bytes:
    """Sign as `algorithm` says (RFC 7518 §3, RFC 8037 §3.1)."""
    digest = _HASHES.get(algorithm[2:], hashes.SHA256())
    if isinstance(key, bytes):
        return hmac.digest(key, signing_input, digest.name)
    private = key.private
    if isinstance(private, rsa.RSAPrivateKey):
        pss = padding.PSS(padding.MGF1(digest), digest.digest_size)
        return private.sign(signing_input, pss if algorithm.startswith("PS") else padding.PKCS1v15(), digest)
    if isinstance(private, ec.EllipticCurvePrivateKey):
        r, s = decode_dss_signature(private.sign(signing_input, ec.ECDSA(digest)))
        size = (private.curve.key_size + 7) // 8
        return r.to_bytes(size, "big") + s.to_bytes(size, "big")
    return private.sign(signing_input)


def base64url(octets: bytes) -> bytes:
    """Encode without padding (RFC 7515 §2)."""
    return base64.urlsafe_b64encode(octets).rstrip(b"=")


def _json(value: Mapping[str, JSON]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _without_nones(members: dict[str, JSON]) -> dict[str, JSON]:
    return {name: value for name, value in members.items() if value is not None}


def _parameters(private: Private) -> dict[str, JSON]:
    """Return the public parameters of a JWK (RFC 7518 §6, RFC 8037 §2)."""
    if isinstance(private, ed25519.Ed25519PrivateKey):
        return {"kty": "OKP", "crv": "Ed25519", "x": _text(private.public_key().public_bytes_raw())}
    if isinstance(private, rsa.RSAPrivateKey):
        numbers = private.public_key().public_numbers()
        return {
            "kty": "RSA",
            "n": _text(numbers.n.to_bytes((private.key_size + 7) // 8, "big")),
            "e": _text(numbers.e.to_bytes(3, "big")),
        }
    point = private.public_key().public_numbers()
    size = (private.curve.key_size + 7) // 8
    curve = next(name for name, known in _CURVES.items() if known.name == private.curve.name)
    return {
        "kty": "EC",
        "crv": curve,
        "x": _text(point.x.to_bytes(size, "big")),
        "y": _text(point.y.to_bytes(size, "big")),
    }


def _text(octets: bytes) -> str:
    return base64url(octets).decode()
