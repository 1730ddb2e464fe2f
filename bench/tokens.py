"""Many different RS256 tokens of one issuer with one key, made anew for every run."""

import base64
import json
import time
import uuid
from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256

ISSUER: Final = "https://issuer.example.com/"
AUDIENCE: Final = "bench"
_KEY_ID: Final = "bench"
_LIFETIME: Final = 6 * 3600


@dataclass(frozen=True, slots=True)
class Tokens:
    """Tokens, one for each of as many subjects, and the public key that verifies them."""

    good: tuple[str, ...]
    forged: str
    """Like a good one, signed with another key."""
    subjects: tuple[str, ...]
    jwks: str
    pem: bytes


def subject(number: int) -> str:
    """Return the `sub` of the user with this number."""
    return f"user-{number:06}"


def make_tokens(number: int) -> Tokens:
    """Make a key, and with it `number` tokens."""
    key, stranger = (rsa.generate_private_key(public_exponent=65537, key_size=2048) for _ in range(2))
    numbers = key.public_key().public_numbers()
    jwk = {
        "kty": "RSA", "kid": _KEY_ID, "alg": "RS256", "use": "sig",
        "n": _base64url(numbers.n.to_bytes(256)), "e": _base64url(numbers.e.to_bytes(3)),
    }  # fmt: skip
    subjects = tuple(map(subject, range(number)))
    return Tokens(
        good=tuple(_token(key, subject) for subject in subjects),
        forged=_token(stranger, subjects[0]),
        subjects=subjects,
        jwks=json.dumps({"keys": [jwk]}),
        pem=key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        ),
    )


def _token(key: rsa.RSAPrivateKey, subject: str) -> str:
    now = int(time.time())
    header = {"alg": "RS256", "typ": "JWT", "kid": _KEY_ID}
    claims = {
        "iss": ISSUER, "sub": subject, "aud": AUDIENCE, "iat": now, "exp": now + _LIFETIME,
        "jti": str(uuid.uuid4()), "scope": "openid profile orders:read",
    }  # fmt: skip
    signed = ".".join(_base64url(json.dumps(part).encode()) for part in (header, claims))
    return f"{signed}.{_base64url(key.sign(signed.encode(), padding.PKCS1v15(), SHA256()))}"


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
