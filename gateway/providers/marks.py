"""The marks of tokens of any provider: what a JWT is for, how long it lives, and what is unusual about it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from gateway.core.model import JSON
from gateway.core.text import json_text
from gateway.core.tokens import claims
from gateway.core.tokens.jws import ALGORITHMS
from gateway.providers.provider import Kind, Unverified

WORDS: Final[Mapping[Kind, str]] = {
    Kind.ACCESS: "an access token",
    Kind.ID: "an ID token",
    Kind.REFRESH: "a refresh token",
    Kind.SESSION: "a session token",
    Kind.WORKLOAD: "a token of a machine",
    Kind.LOGOUT: "a logout token",
    Kind.EVENT: "a security event",
    Kind.CUSTOM: "a token made for another use",
    Kind.API_KEY: "an API key",
    Kind.ENCRYPTED: "an encrypted token (JWE, RFC 7516)",
    Kind.OPAQUE: "an opaque token",
    Kind.UNKNOWN: "a JWT that does not say what it is for",
}
_MILLISECONDS: Final = 10_000_000_000
"""Seconds of the year 2286. A date beyond it is probably in milliseconds."""
_KINDS: Final = {
    claims.ID_KIND: Kind.ID,
    claims.REFRESH_KIND: Kind.REFRESH,
    claims.LOGOUT_KIND: Kind.LOGOUT,
}
"""The kinds that `gateway.core.tokens.claims` refuses."""
_SAY_SO: Final = ("typ", "token_use", "token_type", "type")
"""Claims whose value is the kind."""
_HEADER_TYPES: Final[Mapping[str, Kind]] = {
    "at+jwt": Kind.ACCESS,
    "logout+jwt": Kind.LOGOUT,
    "secevent+jwt": Kind.EVENT,
    "dpop+jwt": Kind.CUSTOM,
}
_LARGE: Final = 8 * 1024


@dataclass(frozen=True, slots=True)
class Lifetime:
    """The dates of a token, in Unix seconds, as far as they can be understood."""

    issued_at: float | None
    not_before: float | None
    expires_at: float | None
    state: str
    """`valid`, `expired`, `not_yet_valid` or `unknown`."""


def kind_of(token: Unverified) -> tuple[Kind, str | None]:
    """Return what a JWT is for, by the marks that all providers share, and the mark.

    Backchannel Logout 1.0 §2.4 has `events`, RFC 9068 §2.1 the header's `typ`, OpenID Connect Core 1.0 §2
    the hashes and `nonce`. Keycloak writes a `typ` into the payload, Amazon Cognito `token_use`.
    """
    payload = token.payload
    if payload.get("events") is not None:
        logout = any("logout" in name for name in _names(payload["events"]))
        return (Kind.LOGOUT if logout else Kind.EVENT), "The claim `events` marks it."
    header_type = token.header.get("typ")
    if isinstance(header_type, str):
        bare = header_type.lower().removeprefix("application/")
        if bare in _HEADER_TYPES:
            return _HEADER_TYPES[bare], f"The header's `typ` says so: {header_type}."
    if (found := claims.kind_of(payload)) is not None:
        said = token.text(found.mark) if found.mark in _SAY_SO else None
        why = f"The claim `{found.mark}` " + ("marks it." if said is None else f"says so: {said}.")
        return _KINDS[found.name], why
    for name, value in (("typ", "Bearer"), ("token_use", "access"), ("token_type", "access")):
        if token.text(name) == value:
            return Kind.ACCESS, f"The claim `{name}` says so: {value}."
    if payload.get("sub") is None and payload.get("role") in ("anon", "service_role"):
        return Kind.API_KEY, "It has a role and no user."
    for name in ("scope", "scp", "client_id", "cid", "appid"):
        if payload.get(name) is not None:
            return Kind.ACCESS, f"The claim `{name}` marks it."
    return Kind.UNKNOWN, None


def lifetime_of(payload: Mapping[str, JSON], now: float) -> Lifetime:
    """Read the dates; one in milliseconds or in text is converted, and `notes_of` tells of it."""
    issued_at, not_before, expires_at = (seconds(payload.get(name)) for name in ("iat", "nbf", "exp"))
    state = "unknown" if expires_at is None else "valid"
    if not_before is not None and now < not_before:
        state = "not_yet_valid"
    if expires_at is not None and now >= expires_at:
        state = "expired"
    return Lifetime(issued_at, not_before, expires_at, state)


def seconds(value: JSON) -> float | None:
    """Return a date in Unix seconds, also one in milliseconds or in text; None if it is none."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    while value > _MILLISECONDS and value / 1000 > 1_000_000:
        value = value / 1000
    return float(value) if 0 <= value <= claims.MAX_DATE else None


def notes_of(token: Unverified, text: str, now: float, *, known: bool) -> Iterator[str]:
    """Yield what is unusual about a JWT, one sentence or two each.

    `known`: its provider is, whose own notes tell of subject and audience.
    """
    yield from _form(token, text)
    for name in ("exp", "iat", "nbf"):
        yield from _date(name, token.payload)
    yield from _times(token.payload, now)
    yield from _claims(token.payload, known=known)


def _form(token: Unverified, text: str) -> Iterator[str]:
    yield from _signature(token, text)
    if "crit" in token.header:
        yield "Its header has `crit`, an extension that must be understood: the gateway refuses it."
    if any(name in token.header for name in ("jku", "jwk", "x5u")):
        yield "Its header brings or names a key (`jku`, `jwk`, `x5u`), which the gateway never follows."
    if "nonce" in token.header:
        yield "Its header has a `nonce`: only the API that it is for can check its signature."
    if "kid" not in token.header:
        yield "It names no key (`kid`): its issuer may have only one key that fits."
    if "=" in text or "+" in text or "/" in text:
        yield "It is not base64url without padding, as RFC 7515 asks for: the gateway refuses it."
    for name, value in (("header", token.header), ("payload", token.payload)):
        odd = json_text.oddity(dict(value) if not isinstance(value, json_text.Repeated) else value)
        if odd is not None:
            yield f"Its {name} holds {odd}: the gateway refuses it."
    if len(text) > _LARGE:
        yield f"It is large, {len(text)} characters: many servers refuse headers beyond 8 KiB."


def _signature(token: Unverified, text: str) -> Iterator[str]:
    algorithm = token.header.get("alg")
    if text.count(".") == 1 or text.endswith("."):
        yield "It has no signature, so it proves nothing and is never accepted."
    elif isinstance(algorithm, str) and algorithm.lower() == "none":
        yield "`alg` is none: it is not signed, and never accepted."
    elif not isinstance(algorithm, str) or algorithm not in ALGORITHMS:
        yield "Its `alg` is none that the gateway accepts."
    elif algorithm.startswith("HS"):
        yield "It is signed with a shared secret (HS…): who can check such a token can also make one."


def _date(name: str, payload: Mapping[str, JSON]) -> Iterator[str]:
    value = payload.get(name)
    if value is None:
        if name == "exp":
            yield "It has no `exp`, so it never expires: the gateway refuses it by default."
    elif isinstance(value, str):
        yield f"`{name}` is text, not a number (RFC 7519 §2): the gateway refuses it as claim_malformed."
    elif isinstance(value, bool) or not isinstance(value, int | float):
        yield f"`{name}` is no number (RFC 7519 §2): the gateway refuses it as claim_malformed."
    elif value > _MILLISECONDS:
        yield (
            f"`{name}` is in milliseconds, and must be in seconds (RFC 7519 §2): divide it by 1000. As it"
            " is, it says a date thousands of years ahead."
        )


def _times(payload: Mapping[str, JSON], now: float) -> Iterator[str]:
    issued_at, expires_at = seconds(payload.get("iat")), seconds(payload.get("exp"))
    if issued_at is not None and issued_at > now + 30:
        yield f"It is issued {issued_at - now:.0f} s ahead of this machine's clock: one of the two is wrong."
    if issued_at is not None and expires_at is not None:
        lifetime = expires_at - issued_at
        if lifetime <= 0:
            yield "It expires before it is issued."
        elif lifetime > 86_400:
            days = lifetime / 86_400
            yield f"It lives for {days:.0f} days. `max_lifetime` refuses tokens that live too long."
    if issued_at is None:
        yield "It has no `iat`, so revocations of all tokens of a user cannot tell whether it is older."


def _claims(payload: Mapping[str, JSON], *, known: bool) -> Iterator[str]:
    subject = payload.get("sub")
    if subject is None:
        yield "It has no `sub`, so it names no user."
    elif not isinstance(subject, str):
        yield "`sub` is no text: the gateway refuses it as subject_malformed."
    elif not known and "@" in subject and not subject.endswith("@clients"):
        yield "`sub` is an e-mail address, which can change hands: a user's ID is a better `subject`."
    if payload.get("iss") is None:
        yield "It has no `iss`, so the gateway cannot tell whose it is, and refuses it."
    if not known and payload.get("aud") is None:
        yield "It has no `aud`, so it does not say which API it is for: let `expect` name its client."
    if "cnf" in payload:
        yield "It has `cnf`: it is bound to a key (RFC 7800), and is no plain bearer token."
    for name, value in payload.items():
        if isinstance(value, str) and (value.startswith("${") or value in ("undefined", "null")):
            yield f"`{name}` is {value!r}: the program that made the token filled nothing in."


def _names(value: JSON) -> list[str]:
    return [*value] if isinstance(value, dict) else []
