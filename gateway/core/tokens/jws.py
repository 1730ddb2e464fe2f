"""Strict JSON Web Signatures in compact serialisation (RFC 7515), and the sets of keys that verify them.

What a token's header may choose ends at `kid`, as a look-up among its issuer's own keys. `key_material` makes
the keys.
"""

import binascii
import hashlib
import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import count
from string import ascii_lowercase, ascii_uppercase, digits
from typing import Final, Protocol, cast

from gateway.core.model import JSON
from gateway.core.reasons import (
    ALGORITHM_NOT_ALLOWED,
    CRITICAL_HEADER_UNSUPPORTED,
    TOKEN_MALFORMED,
    TOKEN_TYPE_INVALID,
    Denial,
)
from gateway.core.text import json_text
from gateway.core.tokens import token_types

RSA_ALGORITHMS: Final = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"})
EC_ALGORITHMS: Final = frozenset({"ES256", "ES384", "ES512"})
EDDSA_ALGORITHMS: Final = frozenset({"EdDSA", "Ed25519"})
"""With the curve Ed25519, both names mean the same (RFC 9864 §2.2)."""
HMAC_ALGORITHMS: Final = frozenset({"HS256", "HS384", "HS512"})
ASYMMETRIC_ALGORITHMS: Final = RSA_ALGORITHMS | EC_ALGORITHMS | EDDSA_ALGORITHMS
ALGORITHMS: Final = ASYMMETRIC_ALGORITHMS | HMAC_ALGORITHMS

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


class Verifier(Protocol):
    """Verifies signatures with one key and one algorithm."""

    def verify(self, msg: bytes, sig: bytes) -> bool:
        """Tell whether the key made the signature."""


@dataclass(frozen=True, slots=True)
class VerificationKey:
    """A key of an issuer, with one ready verifier per algorithm it may be used with."""

    kid: str | None
    algorithms: frozenset[str]
    thumbprint: str
    """SHA-256 of the key, its `kid` and its algorithms: equal keys are the same key."""
    verifiers: Mapping[str, Verifier] = field(compare=False, repr=False)

    def verify(self, token: "UnverifiedToken") -> bool:
        """Tell whether this key made the token's signature, with the algorithm the token names."""
        return self.verifiers[token.algorithm].verify(token.signing_input, token.signature)

    def narrowed(self, algorithms: Collection[str]) -> "VerificationKey | None":
        """Return this key for fewer algorithms; None if none is left."""
        if self.algorithms.issubset(algorithms):
            return self
        left = self.algorithms.intersection(algorithms)
        if not left:
            return None
        verifiers = {name: self.verifiers[name] for name in left}
        return VerificationKey(
            self.kid, left, thumbprint(self.thumbprint.encode(), self.kid, left), verifiers
        )


def thumbprint(material: bytes, kid: str | None, algorithms: frozenset[str]) -> str:
    """Return the thumbprint of a key of this material."""
    names = json.dumps([kid, sorted(algorithms)]).encode()
    return hashlib.sha256(hashlib.sha256(material).digest() + names).hexdigest()


_SERIALS: Final = count(1)


class KeySet:
    """The keys of one issuer at one moment (RFC 7517 §5)."""

    __slots__ = ("_by_kid", "_nameless", "_parts", "keys", "serial")

    def __init__(self, keys: Iterable[VerificationKey], parts: Iterable["KeySet"] = ()) -> None:
        """`parts` are the sets of several sources that this one joins: see `joined`."""
        self._parts = tuple(parts)
        self.serial = next(_SERIALS)
        """A number that no other set of this process has."""
        self.keys = tuple(keys)
        self._by_kid: dict[str, list[VerificationKey]] = {}
        for key in self.keys:
            if key.kid is not None:
                self._by_kid.setdefault(key.kid, []).append(key)
        self._nameless = tuple(key for key in self.keys if key.kid is None)

    @classmethod
    def joined(cls, sets: Iterable["KeySet"]) -> "KeySet":
        """Return the keys of several sources as one set."""
        parts = tuple(sets)
        return cls((key for part in parts for key in part.keys), parts)

    def has(self, kid: str | None, algorithm: str) -> bool:
        """Return whether there is a key of this name for the algorithm: all other candidates are guesses."""
        return kid is not None and any(algorithm in key.algorithms for key in self._by_kid.get(kid, ()))

    def candidates(self, kid: str | None, algorithm: str) -> tuple[VerificationKey, ...]:
        """Return the keys that may have made a signature: one of them must verify it. Empty: none may.

        All keys that `kid` names and that fit the algorithm are candidates; keys may share a name (RFC 7517
        §4.5). Where none of that name fits, they are returned as they are: the caller tells an unknown
        key from one that does not fit. Without `kid`, which OpenID Connect Core 1.0 §10.1 allows an
        issuer with one key alone, the only key that fits is the candidate, and two are as good as none.
        An unmatched `kid` may mean a key without a name, under the same rule.

        Of several sources, each is one issuer's set under that rule: a secret or a PEM key, old or new, has
        no name, and another source may have its own key of that name.
        """
        named = () if kid is None else self._by_kid.get(kid, ())
        fitting = tuple(key for key in named if algorithm in key.algorithms)
        if fitting:
            return fitting
        if self._parts:
            found = {key.thumbprint: key for part in self._parts for key in part.candidates(kid, algorithm)}
            return tuple(key for key in found.values() if algorithm in key.algorithms) or tuple(named)
        if named:
            return tuple(named)
        among = self.keys if kid is None else self._nameless
        fitting = tuple(key for key in among if algorithm in key.algorithms)
        return fitting if len(fitting) == 1 else ()


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
        raise Denial(
            ALGORITHM_NOT_ALLOWED, "`alg` is none of RS, PS, ES, HS with 256, 384, 512, EdDSA, Ed25519"
        )
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
