"""Strict JSON Web Signatures in compact serialisation (RFC 7515), and the keys that verify them.

The only file that imports python-jose. Of that library it uses key objects and nothing that
parses a token: its parser is lenient where a gateway must not be. What a token's header may
choose ends at `kid`, as a look-up among its issuer's own keys.
"""

import binascii
import hashlib
import json
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import count
from string import ascii_lowercase, ascii_uppercase, digits
from typing import Final, TypeAlias, cast

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from jose import jwk as jose_jwk
from jose.backends.base import Key
from jose.exceptions import JOSEError

from gateway.core import json_text, token_types
from gateway.core.model import JSON
from gateway.core.reasons import (
    ALGORITHM_NOT_ALLOWED,
    CRITICAL_HEADER_UNSUPPORTED,
    TOKEN_MALFORMED,
    TOKEN_TYPE_INVALID,
    Denial,
)

PublicKey: TypeAlias = rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey

RSA_ALGORITHMS: Final = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"})
EC_ALGORITHMS: Final = frozenset({"ES256", "ES384", "ES512"})
HMAC_ALGORITHMS: Final = frozenset({"HS256", "HS384", "HS512"})
ASYMMETRIC_ALGORITHMS: Final = RSA_ALGORITHMS | EC_ALGORITHMS | {"EdDSA"}
ALGORITHMS: Final = ASYMMETRIC_ALGORITHMS | HMAC_ALGORITHMS

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
MAX_KEYS: Final = 100
"""Keys of one set that are kept. Issuers have two or three, or one for each of some tenants."""
MAX_ENTRIES: Final = 1000
"""Entries of one set that are looked at."""
MAX_SAME_KID: Final = 8
"""Keys of one name: a forged token makes the gateway try each of them."""
_URL_SAFE: Final = ascii_uppercase + ascii_lowercase + digits + "-_"
_USUAL: Final = 512
"""Bytes of a header that is remembered with what it says."""
# Of base64url without padding, as base64 has it; all that is not in that alphabet becomes what is in neither.
_STANDARD: Final = bytes(
    ord({"-": "+", "_": "/"}.get(chr(octet), chr(octet) if chr(octet) in _URL_SAFE else "!"))
    for octet in range(256)
)
# A text of 4n + 2 or 4n + 3 characters ends with bits that belong to no octet, and are zero. 4n + 1 is none.
_LAST_CHARACTERS: Final = {
    1: frozenset[bytes](),
    2: frozenset(_URL_SAFE[at].encode() for at in range(0, 64, 16)),
    3: frozenset(_URL_SAFE[at].encode() for at in range(0, 64, 4)),
}
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
    """EdDSA with Ed25519 (RFC 8037 §3.1), which python-jose lacks."""

    def __init__(self, key: ed25519.Ed25519PublicKey, algorithm: str) -> None:  # noqa: ARG002 -- jose's constructor
        self._key = key

    def verify(self, msg: bytes, sig: bytes) -> bool:
        try:
            self._key.verify(sig, msg)
        except InvalidSignature:
            return False
        return True


for _name in ("PS256", "PS384", "PS512"):
    jose_jwk.register_key(_name, _PSSKey)
jose_jwk.register_key("EdDSA", _EdDSAKey)


@dataclass(frozen=True, slots=True)
class VerificationKey:
    """A key of an issuer, with one ready verifier per algorithm it may be used with."""

    kid: str | None
    algorithms: frozenset[str]
    thumbprint: str
    """SHA-256 of the key, its `kid` and its algorithms: equal keys are the same key."""
    verifiers: Mapping[str, Key] = field(compare=False, repr=False)

    def verify(self, token: "UnverifiedToken") -> bool:
        """Tell whether this key made the token's signature, with the algorithm the token names."""
        return self.verifiers[token.algorithm].verify(token.signing_input, token.signature)


_SERIALS: Final = count(1)


class KeySet:
    """The keys of one issuer at one moment (RFC 7517 §5)."""

    __slots__ = ("_by_kid", "_nameless", "keys", "serial")

    def __init__(self, keys: Iterable[VerificationKey]) -> None:
        self.serial = next(_SERIALS)
        """A number that no other set of this process has."""
        self.keys = tuple(keys)
        self._by_kid: dict[str, list[VerificationKey]] = {}
        for key in self.keys:
            if key.kid is not None:
                self._by_kid.setdefault(key.kid, []).append(key)
        self._nameless = tuple(key for key in self.keys if key.kid is None)

    def candidates(self, kid: str | None, algorithm: str) -> tuple[VerificationKey, ...]:
        """Return the keys that may have made a signature: one of them must verify it. Empty: none may.

        All keys that `kid` names and that fit the algorithm are candidates; keys may share a name (RFC 7517
        §4.5). Where none of that name fits, they are returned as they are: the caller tells an unknown
        key from one that does not fit. Without `kid`, which OpenID Connect Core 1.0 §10.1 allows an
        issuer with one key alone, the only key that fits is the candidate, and two are as good as none.
        An unmatched `kid` may mean a key without a name, under the same rule.
        """
        if kid is not None and (named := self._by_kid.get(kid)) is not None:
            return tuple(key for key in named if algorithm in key.algorithms) or tuple(named)
        among = self.keys if kid is None else self._nameless
        fitting = tuple(key for key in among if algorithm in key.algorithms)
        return fitting if len(fitting) == 1 else ()


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
        raise KeyRejected("it is a private key: whoever can read it can sign tokens")
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
    if _PEM_OR_JWK.search(secret):
        raise KeyRejected("this is an asymmetric key, not a secret; use `pem_file`")
    algorithms = frozenset(name for name, length in _SECRET_BYTES.items() if len(secret) >= length)
    if not algorithms:
        raise KeyRejected(f"a secret needs at least 32 bytes, this one has {len(secret)}")
    try:
        verifiers = {name: jose_jwk.construct(secret, name) for name in algorithms}
    except JOSEError as error:
        raise KeyRejected(str(error)) from error
    return VerificationKey(None, algorithms, _thumbprint(secret, None, algorithms), verifiers)


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


def keyset_from_jwks(document: JSON) -> ReadKeys:
    """Read a JWK Set (RFC 7517 §5) that `json_text.read` has read.

    The first `MAX_KEYS` usable keys among the first `MAX_ENTRIES` entries are kept. An entry that cannot
    be used costs itself alone. Raises `KeyRejected` when the document is no JWK Set at all.
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
            sharing[key.kid] += 1
            if key.kid is not None and sharing[key.kid] > MAX_SAME_KID:
                raise KeyRejected(f"{MAX_SAME_KID} keys before it have the same `kid`")
        except KeyRejected as error:
            rejected.append(f"keys[{looked_at - 1}]: {error}")
        else:
            usable[key.thumbprint] = key
    return ReadKeys(
        KeySet(usable.values()),
        tuple(rejected),
        len(keys) - looked_at,
        frozenset(_kids(keys[looked_at : looked_at + MAX_ENTRIES])),
    )


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
        fitting = RSA_ALGORITHMS
    elif isinstance(public, ec.EllipticCurvePublicKey):
        fitting = frozenset(alg for curve, alg in _CURVE_ALGORITHMS.items() if curve == public.curve.name)
    else:
        fitting = frozenset({"EdDSA"})
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
    return VerificationKey(kid, algorithms, _thumbprint(material, kid, algorithms), verifiers)


def _thumbprint(material: bytes, kid: str | None, algorithms: frozenset[str]) -> str:
    names = json.dumps([kid, sorted(algorithms)]).encode()
    return hashlib.sha256(hashlib.sha256(material).digest() + names).hexdigest()


@dataclass(frozen=True, slots=True)
class UnverifiedToken:
    """A token taken apart. Nothing in it may be believed before its key has verified it."""

    algorithm: str
    kid: str | None
    payload: Mapping[str, JSON]
    signing_input: bytes
    signature: bytes
    typ: str | None = None
    """As `token_types.media_type` writes it."""


def parse(token: bytes, types: Collection[str | None] = token_types.USUAL) -> UnverifiedToken:
    """Take a JWS in compact serialisation apart (RFC 7515 §5.2), strictly.

    `types` has the values that `typ` may have; None is that of a header without it.

    Raises `Denial`: `token_malformed`, `token_type_invalid`, `critical_header_unsupported` or
    `algorithm_not_allowed`.
    """
    segments = token.split(b".")
    if len(segments) != 3:
        raise Denial(TOKEN_MALFORMED, f"{len(segments)} segments instead of three")
    header_segment, payload_segment, signature_segment = segments
    algorithm, kid, typ = (
        _header(header_segment) if len(header_segment) <= _USUAL else _read_header(header_segment)
    )
    if typ not in types:
        raise Denial(TOKEN_TYPE_INVALID)
    payload = _json_object(payload_segment, "payload")
    signature = decode_segment(signature_segment)
    if signature is None:
        raise Denial(TOKEN_MALFORMED, "the signature is not base64url")
    return UnverifiedToken(algorithm, kid, payload, token[: -len(signature_segment) - 1], signature, typ)


def _read_header(segment: bytes) -> tuple[str, str | None, str | None]:
    """Return `alg`, `kid` and `typ` of a token's header."""
    header = _json_object(segment, "header")
    algorithm, kid, typ = header.get("alg"), header.get("kid"), header.get("typ")
    if not isinstance(algorithm, str):
        raise Denial(TOKEN_MALFORMED, "the header names no `alg`")
    if kid is not None and not isinstance(kid, str):
        raise Denial(TOKEN_MALFORMED, "the header's `kid` is not a string")
    if typ is not None and not isinstance(typ, str):
        raise Denial(TOKEN_TYPE_INVALID)
    if "crit" in header:
        raise Denial(CRITICAL_HEADER_UNSUPPORTED)
    if algorithm not in ALGORITHMS:
        raise Denial(ALGORITHM_NOT_ALLOWED, "`alg` is none of RS, PS, ES, HS with 256, 384, 512, or EdDSA")
    return algorithm, kid, None if typ is None else token_types.media_type(typ)


_header = lru_cache(maxsize=256)(_read_header)
"""Remembers what good headers say: all tokens of one key have the same."""


def decode_segment(segment: bytes) -> bytes | None:
    """Decode base64url without padding (RFC 7515 §2); None when it is anything else.

    Only the canonical spelling passes, so one token has one spelling: no padding, no white
    space, no foreign character, no stray low bits at the end.
    """
    beyond = len(segment) % 4
    if beyond and segment[-1:] not in _LAST_CHARACTERS[beyond]:
        return None
    try:
        return binascii.a2b_base64(segment.translate(_STANDARD) + b"=" * (-beyond % 4), strict_mode=True)
    except ValueError:
        return None


def _json_object(segment: bytes, what: str) -> dict[str, JSON]:
    octets = decode_segment(segment)
    if octets is None:
        raise Denial(TOKEN_MALFORMED, f"the {what} is not base64url")
    try:
        json_text.check_depth(octets)
        value = _read_json(octets.decode("utf-8"))
    except json_text.TooDeep as error:
        raise Denial(TOKEN_MALFORMED, f"the {what}: {error}") from error
    except ValueError as error:
        raise Denial(TOKEN_MALFORMED, f"the {what} is not strict JSON") from error
    if not isinstance(value, dict):
        raise Denial(TOKEN_MALFORMED, f"the {what} is not a JSON object")
    return value


def _read_json(text: str) -> JSON:
    """Read strict JSON. Raises ValueError for all that is not."""
    if text.startswith("{"):
        # `decode` looks for white space around the text, which takes as long as a small payload.
        value, end = _STRICT.raw_decode(text)
        if end == len(text):
            return cast("JSON", value)
    return cast("JSON", _STRICT.decode(text))


def _distinct(pairs: list[tuple[str, JSON]]) -> dict[str, JSON]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a member's name occurs twice")
    return members


def _no_constant(name: str) -> JSON:
    raise ValueError(f"{name} is no JSON")


# Made once: to make one takes as long as to read a token with it.
_STRICT: Final = json.JSONDecoder(object_pairs_hook=_distinct, parse_constant=_no_constant)
