"""Authorization header → raw token (RFC 6750 §2.1). The only owner of that rule."""

import re
from collections.abc import Iterable

from gateway.core.model import Header
from gateway.core.reasons import (
    CREDENTIALS_MALFORMED,
    CREDENTIALS_MISSING,
    CREDENTIALS_MULTIPLE,
    TOKEN_TOO_LARGE,
    Denial,
)

MAX_TOKEN_BYTES = 16 * 1024

# The grammar `"Bearer" 1*SP b64token` of RFC 6750 §2.1; schemes are case-insensitive (RFC 9110 §11.1).
_CREDENTIALS = re.compile(rb"bearer +([A-Za-z0-9\-._~+/]+=*)", re.IGNORECASE)


def parse(headers: Iterable[Header]) -> bytes:
    """Return the one bearer token of a request.

    Raises `Denial`: `credentials_missing`, `credentials_multiple`, `credentials_malformed` or
    `token_too_large`.
    """
    credentials: bytes | None = None
    for name, value in headers:
        if len(name) == 13 and name.lower() == b"authorization":
            if credentials is not None:
                raise Denial(CREDENTIALS_MULTIPLE)
            credentials = value
    if credentials is None:
        raise Denial(CREDENTIALS_MISSING)
    if len(credentials) > MAX_TOKEN_BYTES:
        raise Denial(TOKEN_TOO_LARGE, f"{len(credentials)} bytes, at most {MAX_TOKEN_BYTES} are accepted")
    match = _CREDENTIALS.fullmatch(credentials.strip(b" \t"))
    if match is None:
        raise Denial(CREDENTIALS_MALFORMED)
    return match[1]
