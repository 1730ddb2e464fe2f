"""Authorization header → raw token (RFC 6750 §2.1). The only owner of that rule."""

from collections.abc import Sequence
from typing import Final

from gateway.core.reasons import (
    CREDENTIALS_MALFORMED,
    CREDENTIALS_MISSING,
    CREDENTIALS_MULTIPLE,
    TOKEN_TOO_LARGE,
    Denial,
)

MAX_TOKEN_BYTES = 16 * 1024

# The characters of b64token without its final `=` (RFC 6750 §2.1).
_TOKEN_CHARACTERS: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~+/"


def parse(authorizations: Sequence[bytes]) -> bytes:
    """Return the one bearer token of a request, from the values of its Authorization fields.

    Raises `Denial`: `credentials_missing`, `credentials_multiple`, `credentials_malformed` or
    `token_too_large`.
    """
    if not authorizations:
        raise Denial(CREDENTIALS_MISSING)
    if len(authorizations) > 1:
        raise Denial(CREDENTIALS_MULTIPLE)
    credentials = authorizations[0]
    if len(credentials) > MAX_TOKEN_BYTES:
        raise Denial(TOKEN_TOO_LARGE, f"{len(credentials)} bytes, at most {MAX_TOKEN_BYTES} are accepted")
    # Schemes are case-insensitive (RFC 9110 §11.1), and one space or more follows.
    scheme, _, token = credentials.strip(b" \t").partition(b" ")
    token = token.lstrip(b" ")
    body = token.rstrip(b"=")
    if scheme.lower() != b"bearer" or not body or body.translate(None, _TOKEN_CHARACTERS):
        raise Denial(CREDENTIALS_MALFORMED)
    return token
