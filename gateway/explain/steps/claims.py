"""The steps of a token's claims: times, audience, and the other claims."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from gateway.core import claims as claim_rules
from gateway.core.model import JSON, Claims, Issuer
from gateway.core.reasons import (
    AUDIENCE_MISMATCH,
    CLAIM_MISSING,
    SUBJECT_MALFORMED,
    SUBJECT_MISSING,
    TOKEN_EXPIRED,
    TOKEN_ISSUED_IN_FUTURE,
    TOKEN_LIFETIME_TOO_LONG,
    TOKEN_NOT_YET_VALID,
    Denial,
)
from gateway.explain.answer import Cause, Fix
from gateway.explain.steps.token import API_KEY_FIX, Read, is_api_key, seconds
from gateway.explain.trail import Trail
from gateway.explain.wording import ago, listed, moment, shown, span, yaml_line

_TIMES: Final = (TOKEN_EXPIRED, TOKEN_NOT_YET_VALID, TOKEN_ISSUED_IN_FUTURE, TOKEN_LIFETIME_TOO_LONG)
_SKEW_AHEAD: Final = 300.0
"""Seconds. If a token is dated ahead by less, the issuer's clock is the likely cause."""
_SKEW_BEHIND: Final = 30.0
"""Seconds beyond the leeway. If a token expired longer ago, a wrong clock is not the likely cause."""
_NO_SUBJECT: Final = "?"
"""A placeholder for a missing subject."""
# OpenID Connect Core 1.0 §2 and §3.1.3.6, and the claims with which some providers mark their tokens.
_OF_ID_TOKENS: Final = ("nonce", "at_hash", "c_hash", "s_hash")
_KINDS_OF_ID_TOKENS: Final = (("token_use", "id"), ("typ", "ID"))


def check(trail: Trail, read: Read) -> Claims | None:
    """Take the steps; return the claims if they suffice to look up the user."""
    payload, issuer = read.token.payload, read.issuer
    denials, claims = _every_denial(payload, issuer, trail.now)
    _times(trail, payload, issuer, denials)
    _audience(trail, payload, issuer, denials)
    _rest(trail, payload, issuer, denials, claims)
    if claims is None:
        trail.skip_rest("the claims cannot be read")
        return None
    if payload.get("sub") is None:
        trail.skip_rest("the token names no subject")
        return None
    return claims


def is_id_token(payload: Mapping[str, JSON]) -> bool:
    """Return whether a token is an ID token, which is for the client and not for services."""
    return any(name in payload for name in _OF_ID_TOKENS) or any(
        payload.get(name) == kind for name, kind in _KINDS_OF_ID_TOKENS
    )


ID_TOKEN_FIX: Final = Fix(
    "Send the access token: an ID token tells the client which user signed in, and is only for the client"
    " (OpenID Connect Core 1.0 §2)."
)


def _every_denial(
    payload: Mapping[str, JSON], issuer: Issuer, now: float
) -> tuple[list[Denial], Claims | None]:
    """Check the claims as the pipeline does; go on after each denial as if it were fixed."""
    denials: list[Denial] = []
    while True:
        try:
            return denials, claim_rules.verify(payload, issuer, now)
        except Denial as denial:
            denials.append(denial)
            mended = _mended(denial, payload, issuer)
            if mended is None:
                return denials, None
            payload, issuer = mended


def _mended(
    denial: Denial, payload: Mapping[str, JSON], issuer: Issuer
) -> tuple[Mapping[str, JSON], Issuer] | None:
    reason, sub = denial.reason, payload.get("sub")
    if reason is SUBJECT_MISSING:
        return {**payload, "sub": _NO_SUBJECT}, issuer
    if reason is CLAIM_MISSING:
        return payload, replace(issuer, require=frozenset())
    if reason in (TOKEN_EXPIRED, TOKEN_NOT_YET_VALID, TOKEN_ISSUED_IN_FUTURE):
        return payload, replace(issuer, leeway=math.inf)
    if reason is TOKEN_LIFETIME_TOO_LONG:
        return payload, replace(issuer, max_lifetime=None)
    if reason is AUDIENCE_MISMATCH:
        return {**payload, "aud": [*sorted(issuer.audiences)]}, issuer
    if reason is SUBJECT_MALFORMED and isinstance(sub, int | float) and not isinstance(sub, bool):
        return {**payload, "sub": str(sub)}, issuer
    if reason is SUBJECT_MALFORMED and isinstance(sub, str) and (stripped := sub.strip()) not in ("", sub):
        return {**payload, "sub": stripped}, issuer
    return None


# Times ---------------------------------------------------------------------------------------------


def _times(trail: Trail, payload: Mapping[str, JSON], issuer: Issuer, denials: list[Denial]) -> None:
    now = trail.now
    expected = f"`exp` after, `nbf` and `iat` before {moment(now)}, with a leeway of {span(issuer.leeway)}"
    if issuer.max_lifetime is not None:
        expected += f"; a lifetime of at most {span(issuer.max_lifetime)}"
    dates = {name: value for name in ("iat", "nbf", "exp") if (value := seconds(payload, name)) is not None}
    found = ", ".join(f"{name} {moment(value)} ({ago(value, now)})" for name, value in dates.items())
    wrong = [denial for denial in denials if denial.reason in _TIMES]
    trail.step(
        "times",
        "fail" if wrong else "pass",
        expected,
        found or "no dates",
        wrong[0].detail if wrong else None,
    )
    for denial in wrong:
        if denial.reason is TOKEN_LIFETIME_TOO_LONG:
            _blame_lifetime(trail, issuer, denial, dates)
        else:
            _blame_time(trail, issuer, denial, dates)


def _blame_time(trail: Trail, issuer: Issuer, denial: Denial, dates: Mapping[str, float]) -> None:
    name, cause = {
        TOKEN_EXPIRED.code: ("exp", Cause.TOKEN_EXPIRED),
        TOKEN_NOT_YET_VALID.code: ("nbf", Cause.TOKEN_NOT_YET_VALID),
        TOKEN_ISSUED_IN_FUTURE.code: ("iat", Cause.TOKEN_ISSUED_IN_FUTURE),
    }[denial.reason.code]
    off = abs(trail.now - dates[name])
    expired = denial.reason is TOKEN_EXPIRED
    summary = f"{denial.reason.title}: {denial.detail}"
    if off - issuer.leeway < _SKEW_BEHIND if expired else off <= _SKEW_AHEAD:
        # Add the time until the setting is applied, and round up to half minutes.
        leeway = 30 * math.ceil((off + 30) / 30)
        fix = Fix(
            "Synchronise the clocks of issuer and gateway (NTP); until then, allow the difference.",
            config=f"{trail.field(issuer, 'leeway')}: {leeway}s",
        )
        trail.blame(
            denial,
            Cause.CLOCK_SKEW,
            f"{summary}; the difference is so small that a wrong clock is the likely cause",
            fix,
        )
    elif expired:
        trail.blame(
            denial, cause, summary, Fix("Let the client refresh its token, or the user sign in again.")
        )
    else:
        fix = Fix(f"Use the token after {moment(dates[name])}; correct the issuer's clock if it is wrong.")
        trail.blame(denial, cause, summary, fix)


def _blame_lifetime(trail: Trail, issuer: Issuer, denial: Denial, dates: Mapping[str, float]) -> None:
    config = None
    if "exp" in dates and "iat" in dates:
        config = f"{trail.field(issuer, 'max_lifetime')}: {math.ceil(dates['exp'] - dates['iat'])}s"
    trail.blame(
        denial,
        Cause.TOKEN_LIFETIME_TOO_LONG,
        f"{denial.reason.title}: {denial.detail}",
        Fix("Let the issuer issue tokens with a shorter lifetime, or accept a longer one.", config=config),
    )


# Audience and the rest -----------------------------------------------------------------------------


def _audience(trail: Trail, payload: Mapping[str, JSON], issuer: Issuer, denials: list[Denial]) -> None:
    expected = f"`aud` with one of {listed(sorted(issuer.audiences))}"
    aud = payload.get("aud")
    denial = next((denial for denial in denials if denial.reason is AUDIENCE_MISMATCH), None)
    if denial is None:
        trail.step("audience", "pass", expected, shown(aud))
        return
    trail.step("audience", "fail", expected, shown(aud))
    if is_id_token(payload):
        summary = f"This is an ID token, made for the client {shown(aud)}, not an access token"
        trail.blame(denial, Cause.ID_TOKEN_USED, summary, ID_TOKEN_FIX)
        return
    values = [aud] if isinstance(aud, str) else aud if isinstance(aud, list) else []
    audiences: list[JSON] = [*sorted(issuer.audiences), *values[:1]]
    trail.blame(
        denial,
        Cause.AUDIENCE_MISMATCH,
        f"The token is for the audience {shown(aud)}, but the audiences of issuer {issuer.name} are"
        f" {listed(sorted(issuer.audiences))}",
        Fix(
            "Let the client request a token for a configured audience; or, if tokens for the other audience"
            " are also for these services, accept it.",
            config=yaml_line(trail.field(issuer, "audiences"), audiences) if values else None,
        ),
    )


def _rest(
    trail: Trail, payload: Mapping[str, JSON], issuer: Issuer, denials: list[Denial], claims: Claims | None
) -> None:
    wrong = [denial for denial in denials if denial.reason not in (*_TIMES, AUDIENCE_MISMATCH)]
    expected = (
        f"{', '.join(f'`{name}`' for name in sorted(issuer.require | {'sub'}))}, each of the right type"
    )
    found = f"sub {shown(payload.get('sub'))}"
    if claims is not None:
        tenant, jti = claims.tenant, claims.jti
        found += f", tenant {shown(tenant)}, scopes {listed(claims.scopes)}, jti {shown(jti)}"
    detail = "; ".join(denial.detail or denial.reason.title for denial in wrong) or None
    trail.step("claims", "fail" if wrong else "pass", expected, found, detail)
    for denial in wrong:
        _blame_claim(trail, payload, issuer, denial)


def _blame_claim(trail: Trail, payload: Mapping[str, JSON], issuer: Issuer, denial: Denial) -> None:
    sub, summary = payload.get("sub"), f"{denial.reason.title}: {denial.detail}"
    if denial.reason is SUBJECT_MISSING:
        cause, fix = (
            Cause.SUBJECT_MISSING,
            Fix("Let the issuer put a `sub` into the tokens, also into those of machine clients."),
        )
        if is_api_key(payload):
            cause, fix = Cause.API_KEY_USED, API_KEY_FIX
    elif denial.reason is SUBJECT_MALFORMED:
        cause, fix = _malformed_subject(sub)
    elif denial.reason is CLAIM_MISSING and is_id_token(payload):
        cause, fix = Cause.ID_TOKEN_USED, ID_TOKEN_FIX
    elif denial.reason is CLAIM_MISSING:
        there: list[JSON] = [name for name in sorted(issuer.require) if payload.get(name) is not None]
        config = yaml_line(trail.field(issuer, "require"), there)
        cause, fix = (
            Cause.CLAIM_MISSING,
            Fix("Let the issuer add the claim, or do not require it.", config=config),
        )
    else:
        cause, fix = (
            Cause.TOKEN_MALFORMED,
            Fix(
                "Let the issuer write the claim as in RFC 7519 §4.1, or correct the path to it:"
                f"  `{trail.field(issuer, 'claims')}`."
            ),
        )
    trail.blame(denial, cause, summary, fix)


def _malformed_subject(sub: JSON) -> tuple[Cause, Fix]:
    if isinstance(sub, str) and not sub:
        return Cause.SUBJECT_MISSING, Fix("Let the issuer put a `sub` into the tokens.")
    if isinstance(sub, str):
        cause = Cause.TOKEN_MALFORMED if sub.strip() == sub else Cause.SUBJECT_SPACING_OR_ENCODING
        return cause, Fix(
            "Let the issuer write a `sub` of at most 255 characters, without control characters such as line"
            " ends, which come from a field that was not trimmed."
        )
    return Cause.SUBJECT_NOT_A_STRING, Fix(
        f"Let the issuer write `sub` as a string, {shown(str(sub))} with quotes (RFC 7519 §4.1.2):"
        " programs may read a number differently, so the gateway does not accept one."
    )
