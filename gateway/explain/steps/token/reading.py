"""The steps from the raw token to what it says: shape and header, then issuer, key and signature."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from gateway.core.model import JSON, Issuer
from gateway.core.reasons import (
    ALGORITHM_NOT_ALLOWED,
    CRITICAL_HEADER_UNSUPPORTED,
    TOKEN_TOO_LARGE,
    TOKEN_TYPE_INVALID,
    Denial,
)
from gateway.core.requests import bearer
from gateway.core.text import json_text
from gateway.core.tokens import jws as tokens
from gateway.core.tokens import token_types
from gateway.core.tokens.jws import HMAC_ALGORITHMS, UnverifiedToken
from gateway.explain.answer import Cause, Fix
from gateway.explain.evidence.keys import ColdKeys
from gateway.explain.setup import Introspector
from gateway.explain.steps.token import credential, opaque
from gateway.explain.steps.token import issuer as issuer_step
from gateway.explain.steps.token import key as key_step
from gateway.explain.trail import Trail
from gateway.explain.wording import listed, shown

_OF_THE_HEADER: Final = (ALGORITHM_NOT_ALLOWED, TOKEN_TYPE_INVALID, CRITICAL_HEADER_UNSUPPORTED)


@dataclass(frozen=True, slots=True)
class Read:
    """A token whose issuer is known or guessed."""

    token: UnverifiedToken
    issuer: Issuer
    """With the token's own `iss`, even if the configuration has another spelling."""


async def read(
    trail: Trail, keys: ColdKeys, raw: bytes, introspector: Introspector | None = None
) -> Read | None:
    """Take the steps; return None if the token cannot be read or its issuer is not configured."""
    if trail.knows("shape"):
        trail.skip_rest("the request carries no token")
        return None
    if introspector is not None and (asked := introspector.issuer_of(raw)) is not None:
        return await _introspected(trail, introspector, asked, raw)
    token = _parse(trail, raw)
    if token is None:
        trail.skip_rest("the token could not be read")
        return None
    issuer = issuer_step.check(trail, token)
    if introspector is not None and issuer is not None and issuer.name in introspector.names:
        return await _introspected(trail, introspector, issuer, raw)
    _header(trail, token, raw, issuer)
    if issuer is None:
        trail.skip_rest("the issuer is not known")
        return None
    await key_step.check(trail, keys, token, issuer)
    return Read(token, issuer)


async def _introspected(trail: Trail, introspector: Introspector, issuer: Issuer, raw: bytes) -> Read | None:
    payload = await opaque.ask(trail, introspector, issuer, raw)
    return None if payload is None else Read(UnverifiedToken("", None, payload, b"", b""), issuer)


def _parse(trail: Trail, raw: bytes) -> UnverifiedToken | None:
    expected = "three segments of base64url with JSON, separated by dots (RFC 7515 §3.1)"
    found = f"{raw.count(b'.') + 1} segments, {len(raw)} bytes"
    try:
        bearer.parse([b"Bearer " + raw])
        token = tokens.parse(raw, token_types.known_to(trail.setup.issuers))
    except Denial as denial:
        if denial.reason in _OF_THE_HEADER:
            trail.step("shape", "pass", expected, found)
            trail.step("header", "fail", denial.reason.hint, _header_of(raw), denial.detail)
        else:
            trail.step("shape", "fail", expected, found, denial.detail or denial.reason.hint)
        of_shape = denial.reason not in (*_OF_THE_HEADER, TOKEN_TOO_LARGE)
        if of_shape and credential.is_no_token(trail, raw, denial):
            return None
        cause = (
            Cause.ALGORITHM_NOT_ALLOWED if denial.reason is ALGORITHM_NOT_ALLOWED else Cause.TOKEN_MALFORMED
        )
        summary = denial.reason.title
        if denial.detail:
            summary += f": {denial.detail}"
        trail.blame(denial, cause, summary, Fix(_shape_advice(raw, denial)))
        return None
    trail.step("shape", "pass", expected, found)
    return token


def _shape_advice(raw: bytes, denial: Denial) -> str:
    if not raw.strip():
        return "Look at the client: there was no token yet, or none was put in, when it sent the request."
    header = _header_object(raw)
    if denial.reason is ALGORITHM_NOT_ALLOWED and str(header.get("alg")).lower() == "none":
        return (
            "The token has no signature, so any program can have made it. Get a token from the issuer; if"
            " this one is from there, let the issuer sign its access tokens."
        )
    if denial.reason is TOKEN_TYPE_INVALID:
        return "Send an access token: tokens of other types have another use."
    if denial.reason in _OF_THE_HEADER:
        return denial.reason.hint
    if denial.reason is TOKEN_TOO_LARGE:
        return (
            "Let the issuer put less into the token: long lists of groups or permissions are a usual cause."
        )
    segments = raw.count(b".") + 1
    if any(not isinstance(header.get(name, ""), str) for name in ("alg", "kid", "typ")):
        return (
            "Let the issuer, or the program that makes the token, write `alg`, `kid` and `typ` as texts (RFC"
            " 7515 §4.1)."
        )
    if segments == 5:
        return "This is an encrypted token (JWE): let the issuer sign access tokens without encrypting them."
    if segments == 1:
        return (
            "This is an opaque token or an API key: let the issuer issue JWT access tokens, or configure"
            " `introspection` for it."
        )
    if segments == 3 and set(raw) & set(b"+/="):
        return (
            "The token has `+`, `/` or `=`, as in ordinary base64: a program on its way has encoded it anew."
            " Send it as the issuer made it: in base64url, with `-` and `_`, and without padding (RFC 7515"
            " §2)."
        )
    return "Copy the complete token, beginning with `eyJ`, without additions and line breaks."


def _header(trail: Trail, token: UnverifiedToken, raw: bytes, issuer: Issuer | None) -> None:
    if issuer is None:
        trail.step("header", "pass", "a signature algorithm, `typ` JWT or at+jwt, no `crit`", _header_of(raw))
        return
    types = listed(sorted(issuer.token_types)) if issuer.token_types is not None else "none, JWT or at+jwt"
    expected = f"`alg` one of {', '.join(sorted(issuer.algorithms))}; `typ` {types}; no `crit`"
    try:
        token_types.check(token.typ, issuer)
    except Denial as denial:
        trail.step("header", "fail", expected, _header_of(raw), denial.detail)
        trail.blame(
            denial,
            Cause.TOKEN_MALFORMED,
            f"{denial.reason.title}: its `typ` is {shown(token.typ)}",
            Fix("Send an access token: tokens of other types have another use."),
        )
        return
    if token.algorithm in issuer.algorithms:
        trail.step("header", "pass", expected, _header_of(raw))
        return
    trail.step("header", "fail", expected, _header_of(raw))
    advice = _OF_HMAC if token.algorithm in HMAC_ALGORITHMS else _OF_A_KEY_PAIR
    advice = advice.format(trail.field(issuer, "keys"))
    if (token.algorithm in HMAC_ALGORITHMS) == issuer.algorithms.issubset(HMAC_ALGORITHMS):
        advice = (
            "Let the issuer sign with a configured algorithm. If it has changed to this one, to accept it is"
            f" a decision (`{trail.field(issuer, 'algorithms')}`)."
        )
    trail.blame(
        Denial(ALGORITHM_NOT_ALLOWED),
        Cause.ALGORITHM_NOT_ALLOWED,
        f"The token is signed with {token.algorithm}, which is not in the algorithms of issuer {issuer.name}",
        Fix(advice),
    )


_OF_HMAC: Final = (
    "The issuer is configured with a key pair, and this token was made with a shared secret: by a client with"
    " its own secret, or by somebody who forges. Get the token from the issuer, and let the issuer sign with"
    " a configured algorithm. Only an issuer that really signs with a shared secret has it in `{}`."
)
_OF_A_KEY_PAIR: Final = (
    "The issuer is configured with a shared secret, and this token was made with a private key. If the issuer"
    " has changed to a key pair, let `{}` name where it publishes its public keys, in place of the secret."
)


def _header_of(raw: bytes) -> str:
    """Return the header of any token as text."""
    header = _header_object(raw)
    if not header:
        return "not a JSON object"
    names = ("alg", "typ", "kid", "crit", "enc")
    return ", ".join(f"{name} {shown(header[name])}" for name in names if name in header)


def _header_object(raw: bytes) -> Mapping[str, JSON]:
    """Return the header of any token; empty if it is no JSON object."""
    octets = tokens.decode_segment(raw.partition(b".")[0])
    try:
        json_text.check_depth(octets or b"")
        header: JSON = json.loads(octets or b"")
    except ValueError:
        return {}
    return header if isinstance(header, dict) else {}
