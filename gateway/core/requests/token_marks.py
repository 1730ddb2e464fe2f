"""What is kept of a refused token: enough to recognise it and to explain it, too little to use it."""

import base64
import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import orjson

from gateway.core.caches import FIFO
from gateway.core.model import JSON, Request, Route
from gateway.core.reasons import Denial
from gateway.core.requests import bearer, credentials
from gateway.core.text import json_text

_LONGEST: Final = 200
"""Characters of a text that is kept. The maker of the token chose the text."""
_AUDIENCES: Final = 5


@dataclass(frozen=True, slots=True)
class TokenMarks:
    """Marks of a token. All but the digest are what the token says; nothing has been verified."""

    digest: str
    """The first 16 hex digits of the token's SHA-256."""
    algorithm: str | None = None
    """`alg`; None for this and all that follows: there is none, or the token is not a JWT."""
    key: str | None = None
    """`kid`."""
    type: str | None = None
    """`typ`."""
    issuer: str | None = None
    """`iss`."""
    audience: str | None = None
    """The first values of `aud`, separated by spaces."""
    issued_at: float | None = None
    """`iat` in Unix seconds, as are the next two."""
    not_before: float | None = None
    expires_at: float | None = None


def marks_of(
    request: Request, route: Route | None, known: FIFO[bytes, TokenMarks] | None = None
) -> TokenMarks | None:
    """Return the marks of a request's token; None if it has none, or not exactly one.

    `known` remembers them by the token's SHA-256: in a flood, most tokens come again.
    """
    credential = request.credential
    raw = _token(request, route) if credential is None else credential.raw
    if raw is None:
        return None
    digest = hashlib.sha256(raw).digest() if credential is None else credential.digest
    if known is None:
        return _read(raw, digest)
    marks = known.get(digest)
    if marks is None:
        marks = _read(raw, digest)
        known.put(digest, marks)
    return marks


def _read(raw: bytes, sha256: bytes) -> TokenMarks:
    digest = sha256.hex()[:16]
    header, _, rest = raw.partition(b".")
    payload, dot, _ = rest.partition(b".")
    head, body = _object(header), _object(payload)
    if not dot or head is None or body is None:
        return TokenMarks(digest)
    audience = body.get("aud")
    audiences = audience if isinstance(audience, list) else [audience]
    return TokenMarks(
        digest,
        _text(head.get("alg")),
        _text(head.get("kid")),
        _text(head.get("typ")),
        _text(body.get("iss")),
        _text(" ".join(each for each in audiences[:_AUDIENCES] if isinstance(each, str))),
        _time(body.get("iat")),
        _time(body.get("nbf")),
        _time(body.get("exp")),
    )


def _token(request: Request, route: Route | None) -> bytes | None:
    try:
        if route is not None and route.credentials is not None:
            _, mark, query = request.target.partition("?")
            return credentials.find(request, mark + query, route.credentials).token
        return bearer.parse([value for name, value in request.headers if name.lower() == b"authorization"])
    except Denial:
        return None


def _object(part: bytes) -> Mapping[str, JSON] | None:
    try:
        text = base64.urlsafe_b64decode(part + b"=" * (-len(part) % 4))
        json_text.check_depth(text)
        value = orjson.loads(text)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _text(value: JSON) -> str | None:
    return value[:_LONGEST] if isinstance(value, str) and value else None


def _time(value: JSON) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) and abs(value) < 1e15 else None
