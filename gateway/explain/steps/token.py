"""The steps from the raw token to its issuer's key: shape, header, issuer, key, signature."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from gateway.core import claims as claim_rules
from gateway.core import json_text, token_types, tokens
from gateway.core.issuer_patterns import IssuerPattern, IssuerTable, is_pattern
from gateway.core.model import JSON, Issuer
from gateway.core.reasons import (
    ALGORITHM_NOT_ALLOWED,
    CRITICAL_HEADER_UNSUPPORTED,
    ISSUER_UNTRUSTED,
    KEY_UNKNOWN,
    KEYS_UNAVAILABLE,
    SIGNATURE_INVALID,
    TOKEN_TOO_LARGE,
    TOKEN_TYPE_INVALID,
    Denial,
)
from gateway.core.requests import bearer
from gateway.core.tokens import HMAC_ALGORITHMS, KeySet, UnverifiedToken, VerificationKey
from gateway.explain import issuers
from gateway.explain.answer import Cause, Fix
from gateway.explain.keys import ColdKeys
from gateway.explain.setup import Introspector
from gateway.explain.steps import credential, opaque
from gateway.explain.trail import Trail
from gateway.explain.wording import listed, shown, span, yaml_line

_OF_THE_HEADER: Final = (ALGORITHM_NOT_ALLOWED, TOKEN_TYPE_INVALID, CRITICAL_HEADER_UNSUPPORTED)
_API_KEY_ROLES: Final = ("anon", "service_role")
_OTHERS: Final = 20
"""Issuers whose keys are looked through."""
_ROTATION: Final = 3600.0
"""Seconds. If a token with an unknown key is older, its key was probably withdrawn."""


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
    issuer = _issuer(trail, token)
    if introspector is not None and issuer is not None and issuer.name in introspector.names:
        return await _introspected(trail, introspector, issuer, raw)
    _header(trail, token, raw, issuer)
    if issuer is None:
        trail.skip_rest("the issuer is not known")
        return None
    candidates = await _keys(trail, keys, token, issuer)
    _signature(trail, keys, token, issuer, candidates)
    return Read(token, issuer)


async def _introspected(trail: Trail, introspector: Introspector, issuer: Issuer, raw: bytes) -> Read | None:
    payload = await opaque.ask(trail, introspector, issuer, raw)
    return None if payload is None else Read(UnverifiedToken("", None, payload, b"", b""), issuer)


def is_api_key(payload: Mapping[str, JSON]) -> bool:
    """Return whether a token looks like the API key of a backend service, which has no user."""
    return payload.get("sub") is None and payload.get("role") in _API_KEY_ROLES


def seconds(payload: Mapping[str, JSON], name: str) -> float | None:
    """Return a date of a token without checking its range; None if it is not a number."""
    value = payload.get(name)
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


API_KEY_FIX: Final = Fix(
    "Send the access token that the user received at sign-in, not the project's API key."
)


# Shape and header ----------------------------------------------------------------------------------


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
        if of_shape and credential.is_stranger(trail, raw, denial):
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
    if denial.reason in _OF_THE_HEADER:
        return denial.reason.hint
    if denial.reason is TOKEN_TOO_LARGE:
        return (
            "Let the issuer put less into the token: long lists of groups or permissions are a usual cause."
        )
    segments = raw.count(b".") + 1
    if segments == 5:
        return "This is an encrypted token (JWE): let the issuer sign access tokens without encrypting them."
    if segments == 1:
        return (
            "This is an opaque token or an API key: let the issuer issue JWT access tokens, or configure"
            " `introspection` for it."
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
    advice = "For an algorithm with a shared secret, the issuer's `keys` must be that secret."
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


def _header_of(raw: bytes) -> str:
    """Return the header of any token as text."""
    octets = tokens.decode_segment(raw.partition(b".")[0])
    try:
        json_text.check_depth(octets or b"")
        header: JSON = json.loads(octets or b"")
    except ValueError:
        return "not JSON"
    if not isinstance(header, dict):
        return "not a JSON object"
    names = ("alg", "typ", "kid", "crit", "enc")
    return ", ".join(f"{name} {shown(header[name])}" for name in names if name in header)


# Issuer --------------------------------------------------------------------------------------------


def _unlisted(trail: Trail, iss: str) -> Issuer | None:
    """Return the issuer whose pattern an `iss` matches, with a tenant that is not configured."""
    return next(
        (
            issuer
            for issuer in trail.setup.issuers
            if is_pattern(issuer.issuer) and IssuerPattern(issuer.issuer).tenant_of(iss) is not None
        ),
        None,
    )


def _issuer(trail: Trail, token: UnverifiedToken) -> Issuer | None:
    expected = f"`iss` one of {listed(issuer.issuer for issuer in trail.setup.issuers)}"
    try:
        iss = claim_rules.issuer_of(token.payload)
    except Denial as denial:
        found = shown(token.payload.get("iss"))
        trail.step("issuer", "fail", expected, found, denial.reason.hint)
        cause, fix = Cause.CLAIM_MISSING, Fix("Let the issuer put its `iss` into its tokens.")
        if is_api_key(token.payload):
            cause, fix = Cause.API_KEY_USED, API_KEY_FIX
        trail.blame(denial, cause, denial.reason.title, fix)
        return None
    exact = IssuerTable(trail.setup.issuers).find(iss)
    if exact is not None:
        trail.step("issuer", "pass", expected, shown(iss), f"issuer {exact.realm}")
        return exact
    untrusted = Denial(ISSUER_UNTRUSTED)
    if is_api_key(token.payload):
        trail.step("issuer", "fail", expected, shown(iss))
        trail.blame(untrusted, Cause.API_KEY_USED, "This is an API key, not a user's token", API_KEY_FIX)
        return None
    other = _unlisted(trail, iss)
    if other is not None:
        trail.step("issuer", "fail", expected, shown(iss), f"another tenant of issuer {other.name}")
        fix = Fix(
            "Get the token from a configured tenant; or, if this one is yours or a customer's, add it to"
            f" `{trail.field(other, 'tenants')}`."
        )
        summary = f"The token's issuer {shown(iss)} is another tenant of issuer {other.name}"
        trail.blame(untrusted, Cause.ISSUER_UNKNOWN, summary, fix)
        return None
    near = issuers.nearest(iss, trail.setup.issuers)
    if near is None:
        trail.step("issuer", "fail", expected, shown(iss), "no configured issuer is similar")
        fix = Fix(
            "Get the token from a configured issuer. If this issuer is yours and trusted, add it to"
            " `issuers` with its audiences and keys."
        )
        summary = f"The token's issuer {shown(iss)} is not configured, and no configured issuer is similar"
        trail.blame(untrusted, Cause.ISSUER_UNKNOWN, summary, fix)
        return None
    detail = f"issuer {near.issuer.name} differs from it by {near.difference}"
    trail.step("issuer", "fail", expected, shown(iss), detail)
    summary = (
        f"The token's issuer is {shown(iss)}, but the configured issuer is {shown(near.issuer.issuer)}:"
        f" they differ in {near.difference}, and must be exactly equal"
        f" ({shown(issuers.marked(iss, near.issuer.issuer))})"
    )
    if not near.same:
        fix = Fix(
            f"Let the client sign in at this gateway's issuer: this token is from {near.other}. To trust that"
            " issuer, too, is a decision: all of its users would count here."
        )
        trail.blame(untrusted, Cause.ISSUER_ALMOST_CONFIGURED, summary, fix)
        return None
    if iss.startswith("http:") and near.issuer.issuer.startswith("https:"):
        fix = Fix(
            "Let the issuer write `https` into its tokens: behind a proxy it has to be told its public URL."
            " With"
            " `http` in the configuration, keys may be fetched without TLS."
        )
    else:
        field = trail.field(near.issuer, "issuer")
        fix = Fix("Configure the `iss` exactly as in the tokens.", config=yaml_line(field, iss))
    trail.blame(untrusted, Cause.ISSUER_ALMOST_CONFIGURED, summary, fix)
    return replace(near.issuer, issuer=iss)


# Key and signature ---------------------------------------------------------------------------------


async def _keys(
    trail: Trail, keys: ColdKeys, token: UnverifiedToken, issuer: Issuer
) -> tuple[VerificationKey, ...]:
    """Choose the candidate keys as the pipeline does, which has just loaded them."""
    name = issuer.realm
    if keys.current(name) is None:
        await keys.refresh(name)
    keyset, status = keys.current(name), keys.status()[name]
    expected = "the one key that fits" if token.kid is None else f"the key {shown(token.kid)}"
    facts = ["1 key" if status.keys == 1 else f"{status.keys} keys"]
    if status.age is not None:
        facts.append(f"loaded {span(status.age)} ago")
    facts.append("no error since then" if status.last_error is None else f"last error: {status.last_error}")
    if status.skipped:
        facts.append("; ".join(status.skipped[:3]))
    if status.left_out:
        facts.append(f"{status.left_out} more published keys are ignored: there are too many")
    if keys.is_ahead(name):
        facts.append("fetched for this explanation, as for a request: the loaded keys did not suffice")
    detail = ", ".join(facts)
    if keyset is None:
        trail.step("key", "fail", expected, "no keys", detail)
        if keys.is_no_tenant(name):
            trail.blame(
                Denial(ISSUER_UNTRUSTED),
                Cause.ISSUER_UNKNOWN,
                f"Issuer {issuer.name} has no tenant {shown(issuer.tenant)}: {status.last_error}",
                Fix("Get the token from a tenant of the issuer."),
            )
            return ()
        trail.blame(
            Denial(KEYS_UNAVAILABLE),
            Cause.KEYS_UNAVAILABLE,
            f"The keys of issuer {name} are not available: {status.last_error or 'they are not loaded yet'}",
            Fix(f"Make the issuer's keys available, or correct `{trail.field(issuer, 'keys')}`."),
        )
        return ()
    candidates = keyset.candidates(token.kid, token.algorithm)
    if not any(token.algorithm in key.algorithms and key.verify(token) for key in candidates):
        await _load_others(trail, keys)
    if not candidates:
        trail.step("key", "fail", expected, _key_names(keyset), detail)
        _blame_key(trail, keys, token, issuer)
        return ()
    key = candidates[0]
    if token.algorithm not in key.algorithms and token.algorithm in issuer.algorithms:
        trail.step("key", "fail", f"{expected}, for {token.algorithm}", _key_names(keyset), detail)
        trail.blame(
            Denial(ALGORITHM_NOT_ALLOWED),
            Cause.ALGORITHM_NOT_ALLOWED,
            f"The token names {token.algorithm}, but its key {shown(key.kid)} is for"
            f" {', '.join(sorted(key.algorithms))}",
            Fix("The issuer signed with another key than the token names, or another issuer made the token."),
        )
        return ()
    found = f"key {shown(key.kid)}" if len(candidates) == 1 else f"{len(candidates)} keys {shown(key.kid)}"
    trail.step("key", "pass", expected, found, detail)
    return candidates


async def _load_others(trail: Trail, keys: ColdKeys) -> None:
    """Load the keys of the other issuers: one of them may have made the token."""
    for other in trail.setup.issuers[:_OTHERS]:
        if not is_pattern(other.issuer) and keys.current(other.name) is None and other.name in keys.status():
            await keys.refresh(other.name)


def _blame_key(trail: Trail, keys: ColdKeys, token: UnverifiedToken, issuer: Issuer) -> None:
    summary = f"The key set of issuer {issuer.realm} has no key {shown(token.kid)}"
    if token.kid is None:
        summary = f"The token names no key, and issuer {issuer.name} does not have exactly one that fits"
    advice = ""
    if token.kid is None:
        advice = "Let the issuer name its key (`kid`) in the header of its tokens: it has several keys. "
    unusable = [why for why in keys.status()[issuer.realm].skipped if token.kid and token.kid in why]
    for other in trail.setup.issuers:
        held = keys.current(other.name)
        if other.name == issuer.name or held is None or token.kid is None:
            continue
        if any(key.kid == token.kid for key in held.keys):
            summary += f"; issuer {other.name} has a key with this name"
            advice = (
                f"Find out which issuer made the token: its `iss` is that of {issuer.name}, its key that of"
                f" {other.name}. One of both may have the keys of the other configured. "
            )
    if not keys.heard(issuer.realm):
        # It is not known which keys the issuer publishes now.
        error = keys.status()[issuer.realm].last_error
        trail.blame(
            Denial(KEYS_UNAVAILABLE),
            Cause.KEYS_UNAVAILABLE,
            f"{summary}, and the issuer cannot be asked whether it has one now: {error}",
            Fix(f"Make the issuer's keys available, or correct `{trail.field(issuer, 'keys')}`."),
        )
        return
    if unusable:
        trail.blame(
            Denial(KEY_UNKNOWN),
            Cause.KEY_UNKNOWN,
            f"{summary} that can be used. It publishes one that cannot: {unusable[0]}",
            Fix("Let the issuer publish the key as RFC 7517 describes it, or sign with another one."),
        )
        return
    if keys.left_out(issuer.realm, token.kid):
        trail.blame(
            Denial(KEYS_UNAVAILABLE),
            Cause.KEYS_UNAVAILABLE,
            f"{summary}: the issuer publishes it, but after too many other keys",
            Fix("Let the issuer publish fewer keys, and first those that it signs with."),
        )
        return
    rotation = _rotation(trail, keys, token, issuer)
    if rotation is not None:
        trail.blame(
            Denial(KEY_UNKNOWN),
            Cause.KEY_ROTATED_OUT,
            f"{summary}. {rotation}",
            Fix(
                "Let the client get a new token; an issuer must publish old keys until their tokens expire."
                " If a new one is refused, too, the key was never there: the token is from another issuer, or"
                " the issuer does not publish the key that it signs with."
            ),
        )
        return
    trail.blame(
        Denial(KEY_UNKNOWN),
        Cause.KEY_UNKNOWN,
        summary,
        Fix(
            f"{advice}The issuer must publish the key under this `kid` where the gateway looks for it"
            f" (`{trail.field(issuer, 'keys')}`); if it does, the token is from another issuer."
        ),
    )


def _rotation(trail: Trail, keys: ColdKeys, token: UnverifiedToken, issuer: Issuer) -> str | None:
    """Return the evidence that the key was withdrawn, known or inferred; None if there is none."""
    if token.kid is None:
        return None
    left = keys.status()[issuer.realm].withdrawn.get(token.kid)
    if left is not None:
        return f"It was rotated out: this process had the key, and the issuer withdrew it {span(left)} ago"
    issued_at = seconds(token.payload, "iat")
    if issued_at is None or trail.now - issued_at <= _ROTATION:
        return None
    return (
        "It was probably rotated out. Only the token's age indicates that: its unverified `iat` is"
        f" {span(trail.now - issued_at)} old"
    )


def _signature(
    trail: Trail,
    keys: ColdKeys,
    token: UnverifiedToken,
    issuer: Issuer,
    candidates: tuple[VerificationKey, ...],
) -> None:
    if not candidates or token.algorithm not in candidates[0].algorithms:
        trail.step(
            "signature",
            "skipped",
            detail="there is no key to verify it with; the steps below are not verified",
        )
        return
    key = candidates[0]
    expected = f"a signature of key {shown(key.kid)} with {token.algorithm}"
    if any(candidate.verify(token) for candidate in candidates):
        trail.step("signature", "pass", expected, "it is valid")
        return
    maker = _maker(trail, keys, token)
    detail = (
        "the steps below are not verified"
        if maker is None
        else f"{maker} made it; the steps below are not verified"
    )
    trail.step("signature", "fail", expected, "another signature", detail)
    summary = f"The key {shown(key.kid)} of issuer {issuer.name} did not make the token's signature"
    advice = (
        "The token was altered, cut off in copying, or signed with another key of the same name. Get a new"
        " one from the issuer; if that fails, too, the issuer does not sign with the key that it publishes."
    )
    if maker is not None:
        summary += f"; {maker} did"
    trail.blame(Denial(SIGNATURE_INVALID), Cause.SIGNATURE_INVALID, summary, Fix(advice))


def _maker(trail: Trail, keys: ColdKeys, token: UnverifiedToken) -> str | None:
    """Return the key that made a signature, among all configured issuers' keys."""
    for issuer in trail.setup.issuers:
        held = keys.current(issuer.name)
        for key in () if held is None else held.keys:
            if token.algorithm in key.algorithms and key.verify(token):
                return f"key {shown(key.kid)} of issuer {issuer.name}"
    return None


def _key_names(keyset: KeySet) -> str:
    return (
        ", ".join(f"{shown(key.kid)} ({', '.join(sorted(key.algorithms))})" for key in keyset.keys) or "none"
    )
