"""How the gateway proves to an issuer which client it is, for each request anew.

By a secret (RFC 6749 §2.3.1), or by an assertion signed with a private key (RFC 7523 §2.2).
"""

import asyncio
import base64
import json
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol, TypeAlias
from urllib.parse import quote_plus

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from gateway.issuer_keys.fetch import FetchError

PrivateKey: TypeAlias = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey

ASSERTION_SECONDS: Final = 60
"""How long an assertion counts: long enough for a slow request and clocks that differ."""
_ASSERTION_TYPE: Final = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
_LARGEST: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class Proof:
    """What a request carries beside its own parameters."""

    headers: dict[str, str] = field(repr=False)
    form: dict[str, str] = field(repr=False)


class ClientAuthentication(Protocol):
    """One client, and its proof."""

    async def proof(self) -> Proof:
        """Return a new proof. Raises `FetchError` when a file cannot be read or used."""
        ...


@dataclass(frozen=True, slots=True)
class ClientSecret:
    """HTTP Basic with the client's ID and secret, each form-encoded first (RFC 6749 §2.3.1)."""

    client_id: str
    secret: str | Path = field(repr=False)
    """The secret, or the file that has it; one line end after it is not part of it."""

    async def proof(self) -> Proof:
        secret = self.secret
        if isinstance(secret, Path):
            try:
                secret = (await _read(secret)).removesuffix(b"\n").removesuffix(b"\r").decode()
            except UnicodeDecodeError as error:
                raise FetchError(f"{self.secret}: the client's secret is not UTF-8 text") from error
            if not secret:
                raise FetchError(f"{self.secret}: the client's secret is empty")
        pair = f"{quote_plus(self.client_id)}:{quote_plus(secret)}".encode()
        return Proof({"Authorization": f"Basic {base64.b64encode(pair).decode()}"}, {})


@dataclass(frozen=True, slots=True)
class PrivateKeyJwt:
    """An assertion signed with the client's private key (RFC 7523 §3), which the gateway alone has."""

    client_id: str
    key_file: Path
    """PEM, not encrypted: RSA, EC P-256 or Ed25519."""
    key_id: str | None
    audience: str
    """The issuer (RFC 7523 §3, and OpenID Connect Core 1.0 §9)."""
    clock: Callable[[], float]
    """Unix seconds."""

    async def proof(self) -> Proof:
        pem = await _read(self.key_file)
        assertion = await asyncio.to_thread(self._signed, pem)
        form = {
            "client_id": self.client_id,
            "client_assertion_type": _ASSERTION_TYPE,
            "client_assertion": assertion,
        }
        return Proof({}, form)

    def _signed(self, pem: bytes) -> str:
        try:
            key = serialization.load_pem_private_key(pem, None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise FetchError(f"{self.key_file}: this is no PEM private key without a password") from error
        now = int(self.clock())
        header = {"alg": _algorithm(key, self.key_file), "typ": "JWT"}
        if self.key_id is not None:
            header["kid"] = self.key_id
        claims = {
            "iss": self.client_id,
            "sub": self.client_id,
            "aud": self.audience,
            "jti": secrets.token_urlsafe(16),
            "iat": now,
            "exp": now + ASSERTION_SECONDS,
        }
        signing_input = f"{_encoded(header)}.{_encoded(claims)}"
        return f"{signing_input}.{_base64url(_signature(key, signing_input.encode()))}"


def _algorithm(key: object, file: Path) -> str:
    match key:
        case rsa.RSAPrivateKey() if key.key_size >= 2048:
            return "RS256"
        case ec.EllipticCurvePrivateKey(curve=ec.SECP256R1()):
            return "ES256"
        case ed25519.Ed25519PrivateKey():
            return "EdDSA"
        case _:
            raise FetchError(f"{file}: the key must be RSA with 2048 bits or more, EC P-256 or Ed25519")


def _signature(key: object, octets: bytes) -> bytes:
    match key:
        case rsa.RSAPrivateKey():
            return key.sign(octets, padding.PKCS1v15(), hashes.SHA256())
        case ec.EllipticCurvePrivateKey():
            # Both numbers in 32 bytes each, not in DER (RFC 7518 §3.4).
            r, s = decode_dss_signature(key.sign(octets, ec.ECDSA(hashes.SHA256())))
            return r.to_bytes(32, "big") + s.to_bytes(32, "big")
        case ed25519.Ed25519PrivateKey():
            return key.sign(octets)
        case _:
            raise TypeError(f"no signatures with {type(key).__name__}")


def _encoded(members: Mapping[str, object]) -> str:
    return _base64url(json.dumps(members, separators=(",", ":")).encode())


def _base64url(octets: bytes) -> str:
    return base64.urlsafe_b64encode(octets).rstrip(b"=").decode()


async def _read(path: Path) -> bytes:
    try:
        content = await asyncio.to_thread(path.read_bytes)
    except OSError as error:
        raise FetchError(f"{path}: {error.strerror or error}") from error
    if len(content) > _LARGEST:
        raise FetchError(f"{path}: larger than {_LARGEST // 1024} KiB")
    return content
