"""Makes the keys that verify tokens, of JSON Web Keys, PEM files and secrets, and refuses unfit ones.

The only file that imports python-jose. Of that library it uses key objects and nothing that parses a token:
its parser is lenient where a gateway must not be.
"""

import binascii
import contextlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final, TypeAlias

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from jose import jwk as jose_jwk
from jose.backends.base import Key
from jose.exceptions import JOSEError

from gateway.core.model import JSON
from gateway.core.text import json_text
from gateway.core.tokens import roca
from gateway.core.tokens.jws import (
    EDDSA_ALGORITHMS,
    RSA_ALGORITHMS,
    KeySet,
    VerificationKey,
    decode_segment,
    thumbprint,
)

PrivateKey: TypeAlias = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey
PublicKey: TypeAlias = rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey

# An ES algorithm is bound to its curve (RFC 7518 §3.4).
_CURVES: Final[dict[str, ec.EllipticCurve]] = {
    "P-256": ec.SECP256R1(),
    "P-384": ec.SECP384R1(),
    "P-521": ec.SECP521R1(),
}
_CURVE_ALGORITHMS: Final = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}
_PSS_HASHES: Final[dict[str, hashes.HashAlgorithm]] = {
    "PS256": hashes.SHA256(),
    "PS384": hashes.SHA384(),
    "PS512": hashes.SHA512(),
}
# A MAC key is at least as long as the hash (RFC 7518 §3.2).
_SECRET_BYTES: Final = {"HS256": 32, "HS384": 48, "HS512": 64}
# Below 2048 bits RSA is broken or near it (RFC 7518 §3.3); above 8192 a verification is an attack on our CPU.
_RSA_BITS: Final = range(2048, 8192 + 1)
# Ed25519 (RFC 8032 §5.1): `y` of all points A with 8·A = 0, without the sign of `x`. These are 1, -1, 0 and
# two of order 8; 0 and 1 have a second spelling, p more. A signature for such a key needs no private key.
_P25519: Final = 2**255 - 19
_Y_OF_ORDER_8: Final = 0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD84D3D706A17C7
_SMALL_ORDER: Final = frozenset(
    {0, 1, _P25519, _P25519 + 1, _P25519 - 1, _Y_OF_ORDER_8, _P25519 - _Y_OF_ORDER_8}
)
MAX_KEYS: Final = 100
"""Keys of one set that are kept. Issuers have two or three, or one for each of some tenants."""
MAX_ENTRIES: Final = 1000
"""Entries of one set that are looked at."""
MAX_SAME_KID: Final = 8
"""Keys of one name: a forged token makes the gateway try each of them."""
_PEM_OR_JWK: Final = re.compile(rb'----[- ]BEGIN |"kty"\s*:')


class KeyRejected(ValueError):
    """A key that must not be used; the text says why."""


class _PSSKey(Key):
    """RSASSA-PSS (RFC 7518 §3.5), which python-jose lacks: MGF1 and salt follow the hash."""

    def __init__(self, key: rsa.RSAPublicKey, algorithm: str) -> None:
        self._key = key
        self._hash = _PSS_HASHES[algorithm]
        self._padding = padding.PSS(padding.MGF1(self._hash), self._hash.digest_size)

    def verify(self, msg: bytes, sig: bytes) -> bool:
        try:
            self._key.verify(sig, msg, self._padding, self._hash)
        except InvalidSignature:
            return False
        return True


class _EdDSAKey(Key):
    """EdDSA with Ed25519 (RFC 8037 §3.1, RFC 9864 §2.2), which python-jose lacks."""

    def __init__(
        self,
        key: ed25519.Ed25519PublicKey | ed25519.Ed25519PrivateKey,
        algorithm: str,  # noqa: ARG002 -- jose's constructor
    ) -> None:
        self._private = key if isinstance(key, ed25519.Ed25519PrivateKey) else None
        self._key = key.public_key() if isinstance(key, ed25519.Ed25519PrivateKey) else key

    def sign(self, msg: bytes) -> bytes:
        if self._private is None:
            raise TypeError("a public key does not sign")
        return self._private.sign(msg)

    def verify(self, msg: bytes, sig: bytes) -> bool:
        try:
            self._key.verify(sig, msg)
        except InvalidSignature:
            return False
        return True


for _name in ("PS256", "PS384", "PS512"):
    jose_jwk.register_key(_name, _PSSKey)
for _name in EDDSA_ALGORITHMS:
    jose_jwk.register_key(_name, _EdDSAKey)


def signature(private: PrivateKey, algorithm: str) -> Callable[[bytes], bytes]:
    """Return what signs with a private key, which must be one for the algorithm (RFC 7515 §5.1)."""
    key: Key = jose_jwk.construct(private, algorithm)  # type: ignore[arg-type]  # takes key objects, too
    return key.sign


def key_from_jwk(jwk: JSON) -> VerificationKey:
    """Build a key from a public JSON Web Key (RFC 7517 §4, RFC 7518 §6, RFC 8037 §2).

    Raises `KeyRejected`.
    """
    if not isinstance(jwk, dict):
        raise KeyRejected("a key must be a JSON object")
    odd = json_text.oddity(jwk)
    if odd is not None:
        raise KeyRejected(f"it holds {odd}")
    if "d" in jwk:
        raise KeyRejected("it is a private key: a reader of it could sign tokens")
    kid, use, operations, algorithm = (jwk.get(name) for name in ("kid", "use", "key_ops", "alg"))
    if kid is not None and not isinstance(kid, str):
        raise KeyRejected("its `kid` is not a string")
    if algorithm is not None and not isinstance(algorithm, str):
        raise KeyRejected("its `alg` is not a string")
    if use is not None and use != "sig":
        raise KeyRejected("its `use` is not `sig`")
    if operations is not None and not (isinstance(operations, list) and "verify" in operations):
        raise KeyRejected("its `key_ops` do not include `verify`")
    try:
        public = _public_key_from_jwk(jwk)
    except (ValueError, UnsupportedAlgorithm) as error:
        if isinstance(error, KeyRejected):
            raise
        raise KeyRejected(f"its parameters are not those of a key: {error}") from error
    return _verification_key(public, kid, algorithm)


def key_from_pem(pem: bytes) -> VerificationKey:
    """Build a key from a PEM public key (SubjectPublicKeyInfo) or X.509 certificate.

    Raises `KeyRejected`; a private key is one reason: it has no business here.
    """
    if b"PRIVATE KEY-----" in pem:
        raise KeyRejected("this is a private key; give the gateway the public one")
    try:
        if b"-----BEGIN CERTIFICATE-----" in pem:
            public: object = x509.load_pem_x509_certificate(pem).public_key()
        else:
            public = serialization.load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise KeyRejected("this is no PEM public key or certificate") from error
    if not isinstance(public, rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey):
        raise KeyRejected("only RSA, EC and Ed25519 keys verify tokens")
    return _verification_key(public, None, None)


def key_from_secret(secret: bytes) -> VerificationKey:
    """Build a MAC key; it serves each HS algorithm that it is long enough for (RFC 7518 §3.2).

    Raises `KeyRejected` when it is too short for all of them, or is a public key: using one as a
    secret is how tokens are forged (CVE-2024-33663).
    """
    if _PEM_OR_JWK.search(secret) or _is_public(secret):
        raise KeyRejected("this is an asymmetric key, not a secret; use `pem_file`")
    algorithms = frozenset(name for name, length in _SECRET_BYTES.items() if len(secret) >= length)
    if not algorithms:
        raise KeyRejected(f"a secret needs at least 32 bytes, this one has {len(secret)}")
    try:
        verifiers = {name: jose_jwk.construct(secret, name) for name in algorithms}
    except JOSEError as error:
        raise KeyRejected(str(error)) from error
    return VerificationKey(None, algorithms, thumbprint(secret, None, algorithms), verifiers)


def _is_public(secret: bytes) -> bool:
    """Return whether a secret is a public key or certificate: in DER, in base64 as in `x5c`, or for SSH."""
    if secret.startswith((b"ssh-", b"ecdsa-sha2-")):
        return True
    encodings = [secret]
    with contextlib.suppress(ValueError):
        encodings.append(binascii.a2b_base64(b"".join(secret.split()), strict_mode=True))
    return any(_is_der(octets) for octets in encodings)


def _is_der(octets: bytes) -> bool:
    if not octets.startswith(b"\x30"):
        return False
    for load in (serialization.load_der_public_key, x509.load_der_x509_certificate):
        try:
            load(octets)
        except (ValueError, UnsupportedAlgorithm):
            continue
        return True
    return False


@dataclass(frozen=True, slots=True)
class ReadKeys:
    """What became of a JWK Set."""

    keys: KeySet
    skipped: tuple[str, ...] = ()
    """Why entries are not used, one sentence each."""
    left_out: int = 0
    """Entries that were not looked at, because there are enough before them."""
    left_out_kids: frozenset[str] = frozenset()
    """The `kid` of these, of the first `MAX_ENTRIES` of them."""


def keyset_from_jwks(document: JSON, issuer: str | None = None) -> ReadKeys:
    """Read a JWK Set (RFC 7517 §5) that `json_text.read` has read.

    The first `MAX_KEYS` usable keys among the first `MAX_ENTRIES` entries are kept. An entry that cannot
    be used costs itself alone; one that names another `issuer` cannot. Raises `KeyRejected` when the document
    is no JWK Set at all.
    """
    keys = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(keys, list):
        raise KeyRejected("this is no JWK Set: it has no list `keys`")
    if isinstance(document, json_text.Repeated) and "keys" in document.names:
        raise KeyRejected("this is no JWK Set: it has more than one list `keys`")
    usable: dict[str, VerificationKey] = {}
    sharing: Counter[str | None] = Counter()
    rejected: list[str] = []
    looked_at = 0
    for jwk in keys[:MAX_ENTRIES]:
        if len(usable) == MAX_KEYS:
            break
        looked_at += 1
        try:
            key = key_from_jwk(jwk)
            _check_issuer(jwk, issuer)
            sharing[key.kid] += 1
            if key.kid is not None and sharing[key.kid] > MAX_SAME_KID:
                raise KeyRejected(f"{MAX_SAME_KID} keys before it have the same `kid`")
        except KeyRejected as error:
            rejected.append(f"keys[{looked_at - 1}]: {_named(jwk)}{error}")
        else:
            usable[key.thumbprint] = key
    return ReadKeys(
        KeySet(usable.values()),
        tuple(rejected),
        len(keys) - looked_at,
        frozenset(_kids(keys[looked_at : looked_at + MAX_ENTRIES])),
    )


def _check_issuer(jwk: JSON, issuer: str | None) -> None:
    """Raise `KeyRejected` for a key that names another issuer.

    Entra publishes the keys of several issuers in one set, and writes into each whose it is: the `iss` of one
    tenant, or a pattern with `{tenantid}`. A key of private accounts signs no organisation's tokens.
    """
    named = jwk.get("issuer") if isinstance(jwk, dict) else None
    if not isinstance(named, str) or issuer is None or "{" in named:
        return
    if named != issuer:
        raise KeyRejected(f"it is for the tokens of another issuer, {named[:200]!a}")


def _named(jwk: JSON) -> str:
    kid = jwk.get("kid") if isinstance(jwk, dict) else None
    return f"kid {kid[:64]!a}: " if isinstance(kid, str) else ""


def _kids(entries: Iterable[JSON]) -> Iterator[str]:
    for entry in entries:
        kid = entry.get("kid") if isinstance(entry, dict) else None
        if isinstance(kid, str):
            yield kid


def _public_key_from_jwk(jwk: dict[str, JSON]) -> PublicKey:
    kty = jwk.get("kty")
    if kty == "RSA":
        return rsa.RSAPublicNumbers(e=_integer(jwk, "e"), n=_integer(jwk, "n")).public_key()
    if kty == "EC":
        name = jwk.get("crv")
        curve = _CURVES.get(name) if isinstance(name, str) else None
        if curve is None:
            raise KeyRejected("its `crv` is not P-256, P-384 or P-521")
        return ec.EllipticCurvePublicNumbers(_integer(jwk, "x"), _integer(jwk, "y"), curve).public_key()
    if kty == "OKP" and jwk.get("crv") == "Ed25519":
        return ed25519.Ed25519PublicKey.from_public_bytes(_octets(jwk, "x"))
    if kty == "oct":
        raise KeyRejected("a published symmetric key is no secret")
    raise KeyRejected("its `kty` is not RSA, EC or OKP with Ed25519")


def _octets(jwk: dict[str, JSON], name: str) -> bytes:
    value = jwk.get(name)
    octets = decode_segment(value.encode()) if isinstance(value, str) else None
    if not octets:
        raise KeyRejected(f"its `{name}` is missing or not base64url")
    return octets


def _integer(jwk: dict[str, JSON], name: str) -> int:
    return int.from_bytes(_octets(jwk, name), "big")


def _verification_key(public: PublicKey, kid: str | None, algorithm: str | None) -> VerificationKey:
    if isinstance(public, rsa.RSAPublicKey):
        if public.key_size not in _RSA_BITS:
            raise KeyRejected(f"an RSA key has 2048 to 8192 bits, this one {public.key_size}")
        if roca.is_vulnerable(public.public_numbers().n):
            raise KeyRejected("its private key can be computed: it has the flaw ROCA (CVE-2017-15361)")
        fitting = RSA_ALGORITHMS
    elif isinstance(public, ec.EllipticCurvePublicKey):
        fitting = frozenset(alg for curve, alg in _CURVE_ALGORITHMS.items() if curve == public.curve.name)
    else:
        if int.from_bytes(public.public_bytes_raw(), "little") % 2**255 in _SMALL_ORDER:
            raise KeyRejected("tokens can be signed without a private key: it is a point of small order")
        # Two names of one algorithm (RFC 9864 §2.2).
        fitting = EDDSA_ALGORITHMS
        algorithm = None if algorithm in EDDSA_ALGORITHMS else algorithm
    algorithms = fitting if algorithm is None else fitting & {algorithm}
    if not algorithms:
        raise KeyRejected("no supported signature algorithm fits its type, curve and `alg`")
    try:
        # The stubs know encoded keys alone; the library takes ready ones too.
        verifiers = {name: jose_jwk.construct(public, name) for name in algorithms}  # type: ignore[arg-type]
    except JOSEError as error:
        raise KeyRejected(f"it cannot be used: {error}") from error
    material = public.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return VerificationKey(kid, algorithms, thumbprint(material, kid, algorithms), verifiers)
