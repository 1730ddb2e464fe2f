"""The steps of key and signature: which key made the token, and why it cannot be used."""

from typing import Final

from gateway.core.model import Issuer
from gateway.core.reasons import (
    ALGORITHM_NOT_ALLOWED,
    ISSUER_UNTRUSTED,
    KEY_UNKNOWN,
    KEYS_UNAVAILABLE,
    SIGNATURE_INVALID,
    Denial,
)
from gateway.core.tokens.issuer_patterns import is_pattern
from gateway.core.tokens.jws import KeySet, UnverifiedToken, VerificationKey
from gateway.explain.answer import Cause, Fix
from gateway.explain.evidence.keys import ColdKeys
from gateway.explain.steps.token.payload import seconds
from gateway.explain.trail import Trail
from gateway.explain.wording import shown, span

_OTHERS: Final = 20
"""Issuers whose keys are looked through."""
_ROTATION: Final = 3600.0
"""Seconds. If a token with an unknown key is older, its key was probably withdrawn."""


async def check(trail: Trail, keys: ColdKeys, token: UnverifiedToken, issuer: Issuer) -> None:
    """Take the two steps."""
    candidates = await _keys(trail, keys, token, issuer)
    _signature(trail, keys, token, issuer, candidates)


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
    if token.kid is not None and (others := _with_key(trail, keys, token.kid, issuer)):
        names = " and ".join(filter(None, (", ".join(others[:-1]), others[-1])))
        has = f"issuer {names} has" if len(others) == 1 else f"issuers {names} have"
        summary += f"; {has} a key with this name"
        advice = (
            f"Find out which issuer made the token: its `iss` is that of {issuer.name}, its key that of"
            f" {names}. One of them may have the keys of the other configured. "
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


def _with_key(trail: Trail, keys: ColdKeys, kid: str, issuer: Issuer) -> list[str]:
    """Return the names of the other issuers that have a key of this name."""
    held = {each.name: keys.current(each.name) for each in trail.setup.issuers if each.name != issuer.name}
    return [name for name, keyset in held.items() if keyset and any(key.kid == kid for key in keyset.keys)]


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
