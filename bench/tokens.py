"""Many different tokens of one issuer, with new keys for every run."""

import base64
import json
import time
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, TypeAlias

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256

ISSUER: Final = "https://issuer.example.com/"
ISSUER_NAME: Final = "bench"
AUDIENCE: Final = "bench"
_KEY_ID: Final = "bench"
_LIFETIME: Final = 6 * 3600

_Key: TypeAlias = rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey


@dataclass(frozen=True, slots=True)
class Signer:
    """A private key, and the public data to verify its tokens."""

    key: _Key
    algorithm: str
    jwks: str

    @classmethod
    def rs256(cls) -> "Signer":
        """Make a key of 2048 bits, as most issuers use. It signs a token in half a millisecond."""
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        numbers = key.public_key().public_numbers()
        n, e = _base64url(numbers.n.to_bytes(256)), _base64url(numbers.e.to_bytes(3))
        return cls(key, "RS256", _jwks({"kty": "RSA", "alg": "RS256", "n": n, "e": e}))

    @classmethod
    def ed25519(cls) -> "Signer":
        """Make a key that signs ten times as fast."""
        key = ed25519.Ed25519PrivateKey.generate()
        x = _base64url(key.public_key().public_bytes_raw())
        return cls(key, "EdDSA", _jwks({"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "x": x}))

    @property
    def pem(self) -> bytes:
        """The public key."""
        return self.key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )

    def token(self, subject: str, jti: str | None = None) -> str:
        """Return a token of the issuer that is valid for hours."""
        now = int(time.time())
        header = {"alg": self.algorithm, "typ": "JWT", "kid": _KEY_ID}
        claims = {
            "iss": ISSUER, "sub": subject, "aud": AUDIENCE, "iat": now, "exp": now + _LIFETIME,
            "jti": jti or str(uuid.uuid4()), "scope": "openid profile orders:read",
        }  # fmt: skip
        signed = ".".join(_base64url(json.dumps(part).encode()) for part in (header, claims))
        return f"{signed}.{_base64url(self._sign(signed.encode()))}"

    def tokens(self, numbers: Iterable[int]) -> tuple[str, ...]:
        """Return a token for each of the users with these numbers."""
        return tuple(self.token(subject(number)) for number in numbers)

    def _sign(self, data: bytes) -> bytes:
        if isinstance(self.key, rsa.RSAPrivateKey):
            return self.key.sign(data, padding.PKCS1v15(), SHA256())
        return self.key.sign(data)


def subject(number: int) -> str:
    """Return the `sub` of the user with this number."""
    return f"user-{number:06}"


def _jwks(key: dict[str, str]) -> str:
    return json.dumps({"keys": [{**key, "kid": _KEY_ID, "use": "sig"}]})


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
