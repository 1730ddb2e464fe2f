"""Opaque tokens (RFC 7662): which issuer is asked about one, and what its answer means.

The answer takes the place of a verified payload: `claims` then checks it, as any token's.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from gateway.core.model import JSON, Credential, Issuer
from gateway.core.reasons import ID_TOKEN_NOT_ACCEPTED, ISSUER_UNTRUSTED, TOKEN_INACTIVE, Denial
from gateway.core.text import json_text
from gateway.core.tokens import claims
from gateway.core.tokens import jws as tokens
from gateway.core.tokens.jws import VerificationKey

# RFC 6749 §7.1, RFC 9449 §5, RFC 8693 §3; some servers write what the request's hint has (RFC 7009 §2.1).
_ACCESS_TYPES: Final = frozenset(
    {"bearer", "dpop", "access_token", "urn:ietf:params:oauth:token-type:access_token"}
)
_ACCESS_USES: Final = frozenset({"access", "access_token"})

INTROSPECTED: Final = VerificationKey(None, frozenset(), "introspection", {})
"""The key of every opaque token. It verifies nothing: the issuer's endpoint does."""


class NotUnderstood(ValueError):
    """An answer that RFC 7662 §2.2 does not allow; the text says why."""


@dataclass(frozen=True, slots=True)
class Introspected:
    """What an issuer said of a token that is active."""

    payload: Mapping[str, JSON]
    until: float
    """How long that counts, in Unix seconds: until the token expires at most."""


class OpaqueTokens:
    """Which issuer is asked about a token, by configured name and prefix. An empty prefix fits any."""

    def __init__(self, issuers: Iterable[tuple[Issuer, str]]) -> None:
        by_prefix = sorted(issuers, key=lambda each: -len(each[1]))
        self._prefixes = tuple((prefix.encode(), issuer) for issuer, prefix in by_prefix if prefix)
        self._any = next((issuer for issuer, prefix in by_prefix if not prefix), None)

    def issuer_of(self, raw: bytes) -> Issuer | None:
        """Return the issuer to ask: by the longest prefix, or the one without a prefix; None for a JWT."""
        for prefix, issuer in self._prefixes:
            if raw.startswith(prefix):
                return None if looks_signed(raw) else issuer
        return None if self._any is None or looks_signed(raw) else self._any


def looks_signed(raw: bytes) -> bool:
    """Tell whether a token is meant to be a JWS (RFC 7515 §3.1), good or not.

    Such a token names its issuer, so no other issuer is told of it.
    """
    segments = raw.split(b".")
    header = tokens.decode_segment(segments[0]) if len(segments) == 3 else None
    return header is not None and header.lstrip().startswith(b"{")


def check_kind(raw: bytes, issuer: Issuer) -> None:
    """Raise a `Denial` for a JWT that shows that it is no access token, before its issuer is asked about it.

    Endpoints answer such a question in many ways, and some of them not at all.
    """
    if looks_signed(raw):
        claims.check_kind(tokens.parse(raw).payload, issuer)


def payload_of(answer: JSON, issuer: Issuer, credential: Credential) -> dict[str, JSON]:
    """Return the claims of a token from the answer about it (RFC 7662 §2.2).

    Without a `jti`, the SHA-256 of the token takes its place, so that it can be revoked. Raises `Denial` with
    `token_inactive`, `issuer_untrusted` or `id_token_not_accepted`; `NotUnderstood` for no such answer.
    """
    if not isinstance(answer, dict):
        raise NotUnderstood("the answer is not a JSON object")
    odd = json_text.oddity(answer)
    if odd is not None:
        raise NotUnderstood(f"the answer holds {odd}")
    active = answer.get("active")
    if not isinstance(active, bool):
        raise NotUnderstood("the answer has no `active` that is true or false")
    if not active:
        raise Denial(TOKEN_INACTIVE, issuer=issuer.name)
    # An endpoint may serve several issuers.
    if answer.get("iss") not in (None, issuer.issuer):
        raise Denial(ISSUER_UNTRUSTED, "the answer's `iss` is not the issuer's", issuer=issuer.name)
    _check_type(answer, issuer)
    payload = {**answer, "iss": issuer.issuer}
    if payload.get("jti") is None:
        payload["jti"] = credential.digest.hex()
    return payload


def _check_type(answer: Mapping[str, JSON], issuer: Issuer) -> None:
    """Raise a `Denial` for what is no access token: endpoints know refresh tokens, too (RFC 7662 §2.1).

    An audience is what only access tokens have. Where none is asked for, the answer must tell the type.
    """
    untold = answer.get("token_type") is None and answer.get("token_use") is None
    if untold and issuer.audiences is None and issuer.id_tokens == "deny":
        detail = "with `audiences: null`, the answer must have a `token_type`: refresh tokens are active, too"
        raise Denial(ID_TOKEN_NOT_ACCEPTED, detail, issuer=issuer.name, claim="token_type")
    for name, accepted in (("token_type", _ACCESS_TYPES), ("token_use", _ACCESS_USES)):
        value = answer.get(name)
        if value is not None and (not isinstance(value, str) or value.lower() not in accepted):
            detail = f"`{name}` shows that it is no access token"
            raise Denial(ID_TOKEN_NOT_ACCEPTED, detail, issuer=issuer.name, claim=name)
