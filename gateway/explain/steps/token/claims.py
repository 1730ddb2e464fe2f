"""The steps of a token's claims: times, audience, and the other claims."""

import math
from collections.abc import Mapping
from typing import Final

from gateway.core.model import JSON, Claims, Issuer
from gateway.core.reasons import (
    AUDIENCE_MISMATCH,
    CLAIM_MALFORMED,
    CLAIM_MISSING,
    CLAIM_NOT_ACCEPTED,
    ID_TOKEN_NOT_ACCEPTED,
    SUBJECT_MALFORMED,
    SUBJECT_MISSING,
    TOKEN_EXPIRED,
    TOKEN_ISSUED_IN_FUTURE,
    TOKEN_LIFETIME_TOO_LONG,
    TOKEN_NOT_YET_VALID,
    Denial,
)
from gateway.core.tokens import claims as claim_rules
from gateway.core.tokens.claim_paths import at_path
from gateway.explain.answer import Cause, Fix
from gateway.explain.fixes import claim_fixes
from gateway.explain.steps.token.claim_denials import DATES, every_denial
from gateway.explain.steps.token.payload import API_KEY_FIX, is_api_key, seconds
from gateway.explain.steps.token.reading import Read
from gateway.explain.trail import Trail
from gateway.explain.wording import ago, listed, moment, shown, span

_TIMES: Final = (TOKEN_EXPIRED, TOKEN_NOT_YET_VALID, TOKEN_ISSUED_IN_FUTURE, TOKEN_LIFETIME_TOO_LONG)
_REGISTERED: Final = ("aud", "jti", "iss")
"""Claims that are where they are, by RFC 7519."""
_SKEW_AHEAD: Final = 300.0
"""Seconds. If a token is dated ahead by less, the issuer's clock is the likely cause."""
_SKEW_BEHIND: Final = 30.0
"""Seconds beyond the leeway. If a token expired longer ago, a wrong clock is not the likely cause."""


def check(trail: Trail, read: Read) -> Claims | None:
    """Take the steps; return the claims if they suffice to look up the user."""
    payload, issuer = read.token.payload, read.issuer
    denials, claims = every_denial(payload, issuer, trail.now)
    _times(trail, payload, issuer, denials)
    _audience(trail, payload, issuer, denials)
    _rest(trail, payload, issuer, denials, claims)
    if claims is None:
        trail.skip_rest("the claims cannot be read")
        return None
    if at_path(payload, issuer.subject) is None:
        trail.skip_rest("the token names no subject")
        return None
    return claims


def is_id_token(payload: Mapping[str, JSON]) -> bool:
    """Return whether a token is an ID token, or another that is for the client and not for services."""
    return claim_rules.kind_of(payload) is not None


ID_TOKEN_FIX: Final = Fix(
    "Send the access token: an ID token tells the client which user signed in, and is only for the client"
    " (OpenID Connect Core 1.0 §2)."
)


def _fix_of_kind(payload: Mapping[str, JSON]) -> Fix:
    """Return what to send in place of a token that is no access token."""
    kind = claim_rules.kind_of(payload)
    if kind is None or kind.name == claim_rules.ID_KIND:
        return ID_TOKEN_FIX
    is_refresh = kind.name == claim_rules.REFRESH_KIND
    use = "is for its issuer alone, or for the client" if is_refresh else "has another use"
    return Fix(f"Send the access token: {kind.name} {use}.")


# Times ---------------------------------------------------------------------------------------------


def _times(trail: Trail, payload: Mapping[str, JSON], issuer: Issuer, denials: list[Denial]) -> None:
    now = trail.now
    expected = f"`exp` after, `nbf` and `iat` before {moment(now)}, with a leeway of {span(issuer.leeway)}"
    if issuer.max_lifetime is not None:
        expected += f"; a lifetime of at most {span(issuer.max_lifetime)}"
    dates = {name: value for name in DATES if (value := _date(payload, name)) is not None}
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


def _date(payload: Mapping[str, JSON], name: str) -> float | None:
    meant = claim_rules.meant_date(payload.get(name))
    return seconds(payload, name) if meant is None else meant


def _blame_time(trail: Trail, issuer: Issuer, denial: Denial, dates: Mapping[str, float]) -> None:
    name, cause = {
        TOKEN_EXPIRED.code: ("exp", Cause.TOKEN_EXPIRED),
        TOKEN_NOT_YET_VALID.code: ("nbf", Cause.TOKEN_NOT_YET_VALID),
        TOKEN_ISSUED_IN_FUTURE.code: ("iat", Cause.TOKEN_ISSUED_IN_FUTURE),
    }[denial.reason.code]
    off = abs(trail.now - dates[name])
    expired = denial.reason is TOKEN_EXPIRED
    summary = f"{denial.reason.title}: {denial.detail}"
    skew = None if trail.clocks is None else trail.clocks.skew(issuer.name)
    small = off - issuer.leeway < _SKEW_BEHIND if expired else off <= _SKEW_AHEAD
    if (never := _never_valid(dates)) is not None:
        trail.blame(denial, cause, f"{summary}; {never}", _LIFETIME_FIX)
        return
    if small and expired and skew is not None and skew.agrees:
        small = False
        summary += (
            f"; the clocks agree, as of the issuer's last {skew.tokens} tokens that this worker verified"
        )
    if small:
        fix = claim_fixes.of_clocks(trail, issuer, ahead=-off if expired else off)
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
        if (zone := _zone(dates.get("iat", trail.now) - trail.now)) is not None:
            summary += (
                f"; that is {zone} nearly to the minute, as if the issuer wrote local time in place of UTC"
            )
            fix = Fix(
                "Let the issuer write its dates in UTC, as seconds since 1970 (RFC 7519 §2): look for a"
                " local time that is converted without its time zone; if there is none, the issuer's clock is"
                " wrong by hours. To wait does not help: the next token is dated ahead, too."
            )
        trail.blame(denial, cause, summary, fix)


def _never_valid(dates: Mapping[str, float]) -> str | None:
    """Return why a token with these dates was valid at no time; None if it was."""
    end = dates.get("exp")
    begins = [name for name in ("iat", "nbf") if end is not None and dates.get(name, -math.inf) >= end]
    if not begins:
        return None
    return f"its `exp` is not after its `{begins[0]}`, so it was valid at no time"


_LIFETIME_FIX: Final = Fix(
    "Correct the issuer, or the program that makes the token: a new one would be refused as well. Look for a"
    " lifetime of zero or less, and for dates in two units or time zones."
)
_ZONES: Final = 14 * 3600
"""Seconds. No time zone is farther from UTC."""
_ZONE_SLACK: Final = 90.0
"""Seconds between the issue of a token and its use, and between two clocks."""


def _zone(ahead: float) -> str | None:
    """Return how far a date is ahead, in hours, if it is by a time zone; None if it is not."""
    halves = round(ahead / 1800)
    if not 0 < halves * 1800 <= _ZONES or abs(ahead - halves * 1800) > _ZONE_SLACK:
        return None
    return f"{halves / 2:g} h"


def _blame_lifetime(trail: Trail, issuer: Issuer, denial: Denial, dates: Mapping[str, float]) -> None:
    longest = ""
    if "exp" in dates and "iat" in dates:
        longest = f" of {span(dates['exp'] - dates['iat'])}"
    trail.blame(
        denial,
        Cause.TOKEN_LIFETIME_TOO_LONG,
        f"{denial.reason.title}: {denial.detail}",
        Fix(
            f"Let the issuer issue tokens with a shorter lifetime. To accept one{longest} is a decision"
            f" (`{trail.field(issuer, 'max_lifetime')}`): a stolen token would count for as long."
        ),
    )


# Audience and the rest -----------------------------------------------------------------------------


def _audience(trail: Trail, payload: Mapping[str, JSON], issuer: Issuer, denials: list[Denial]) -> None:
    configured = sorted(issuer.audiences or ())
    expected = f"`aud` with one of {listed(configured)}"
    if issuer.audiences is None:
        expected = "any `aud`: `expect` names the client"
    aud = payload.get("aud")
    denial = next((denial for denial in denials if denial.reason is AUDIENCE_MISMATCH), None)
    if denial is None:
        trail.step("audience", "pass", expected, shown(aud))
        return
    trail.step("audience", "fail", expected, shown(aud))
    kind = claim_rules.kind_of(payload)
    if kind is not None:
        summary = f"This is {kind.name}, made for {shown(aud)}, not an access token: `{kind.mark}` shows it"
        trail.blame(denial, Cause.ID_TOKEN_USED, summary, _fix_of_kind(payload))
        return
    trail.blame(
        denial,
        Cause.AUDIENCE_MISMATCH,
        f"The token is for the audience {shown(aud)}, but the audiences of issuer {issuer.name} are"
        f" {listed(configured)}",
        claim_fixes.of_audience(trail, payload, issuer),
    )


def _rest(
    trail: Trail, payload: Mapping[str, JSON], issuer: Issuer, denials: list[Denial], claims: Claims | None
) -> None:
    wrong = [denial for denial in denials if denial.reason not in (*_TIMES, AUDIENCE_MISMATCH)]
    needed = ", ".join(f"`{path}`" for path in sorted(issuer.require | {issuer.subject}))
    expected = f"{needed}, each of the right type"
    if issuer.claims.tenant is not None and not issuer.claims.tenant.optional:
        expected += f"; the tenant at `{issuer.claims.tenant.path}`"
    if issuer.expect:
        wanted = ", ".join(f"`{path}` {shown([*values])}" for path, values in issuer.expect.items())
        expected += f"; one of the values of {wanted}"
    found = f"{issuer.subject} {shown(at_path(payload, issuer.subject))}"
    for path in issuer.expect:
        found += f", {path} {shown(at_path(payload, path))}"
    if claims is not None:
        tenant, jti = claims.tenant, claims.jti
        found += f", tenant {shown(tenant)}, scopes {listed(claims.scopes)}, jti {shown(jti)}"
    found += _absent(trail, payload, issuer)
    detail = "; ".join(denial.detail or denial.reason.title for denial in wrong) or None
    trail.step("claims", "fail" if wrong else "pass", expected, found, detail)
    for denial in wrong:
        _blame_claim(trail, payload, issuer, denial)


def _absent(trail: Trail, payload: Mapping[str, JSON], issuer: Issuer) -> str:
    """Return at which paths of `claims` the token has nothing: a mistaken path looks like absent roles."""
    paths = [path for _, path in issuer.claims.by_setting() if at_path(payload, path) is None]
    never = {*trail.never_found(issuer.name)}
    found = [
        f"`{path}`{' (nor in any other token of this issuer so far)' if path in never else ''}"
        for path in paths
    ]
    return f"; nothing at {', '.join(found)}" if found else ""


def _blame_claim(trail: Trail, payload: Mapping[str, JSON], issuer: Issuer, denial: Denial) -> None:
    summary = f"{denial.reason.title}: {denial.detail}"
    if denial.reason is SUBJECT_MISSING:
        cause, fix = (
            Cause.SUBJECT_MISSING,
            Fix(f"Let the issuer put a `{issuer.subject}` into all tokens, also those of machine clients."),
        )
        if is_api_key(payload):
            cause, fix = Cause.API_KEY_USED, API_KEY_FIX
    elif denial.reason is SUBJECT_MALFORMED:
        cause, fix = _malformed_subject(issuer.subject, at_path(payload, issuer.subject))
    elif denial.reason is ID_TOKEN_NOT_ACCEPTED or (denial.reason is CLAIM_MISSING and is_id_token(payload)):
        cause, fix = Cause.ID_TOKEN_USED, _fix_of_kind(payload)
    elif denial.reason is CLAIM_MISSING:
        cause, fix = Cause.CLAIM_MISSING, claim_fixes.of_missing(trail, payload, issuer, denial)
    elif denial.reason is CLAIM_MALFORMED and denial.claim in DATES:
        cause, fix = Cause.TOKEN_MALFORMED, _seconds_fix(denial.claim, payload.get(denial.claim))
    elif denial.reason is CLAIM_NOT_ACCEPTED:
        cause, fix = Cause.CLAIM_NOT_ACCEPTED, claim_fixes.of_value(trail, payload, issuer, denial)
    elif denial.claim in _REGISTERED:
        cause, fix = Cause.TOKEN_MALFORMED, Fix("Let the issuer write the claim as in RFC 7519 §4.1.")
    else:
        cause, fix = (
            Cause.TOKEN_MALFORMED,
            Fix(
                "Let the issuer write the claim in this form, or correct the path to it, if the token has it"
                f" elsewhere: `{trail.field(issuer, 'claims')}`."
            ),
        )
    trail.blame(denial, cause, summary, fix)


def _seconds_fix(name: str, value: JSON) -> Fix:
    meant, example = claim_rules.meant_date(value), ""
    if meant is not None:
        example = f": {meant:.0f}, not {shown(value)}"
    return Fix(f"Let the issuer write `{name}` as a number of seconds since 1970{example} (RFC 7519 §2).")


def _malformed_subject(path: str, sub: JSON) -> tuple[Cause, Fix]:
    if isinstance(sub, str) and not sub:
        return Cause.SUBJECT_MISSING, Fix(f"Let the issuer put a `{path}` into the tokens.")
    if isinstance(sub, str):
        cause = Cause.TOKEN_MALFORMED if sub.strip() == sub else Cause.SUBJECT_SPACING_OR_ENCODING
        return cause, Fix(
            f"Let the issuer write a `{path}` of at most 255 characters, without control characters such as"
            " line ends, which come from a field that was not trimmed."
        )
    if not isinstance(sub, int | float) or isinstance(sub, bool):
        what = {list: "a list", dict: "an object", bool: "true or false"}.get(type(sub), "null")
        return Cause.SUBJECT_NOT_A_STRING, Fix(
            f"Let the issuer write one string as `{path}`, and not {what}: its mapping of the claim has"
            " another type (RFC 7519 §4.1.2)."
        )
    return Cause.SUBJECT_NOT_A_STRING, Fix(
        f"Let the issuer write `{path}` as a string, {shown(str(sub))} with quotes (RFC 7519 §4.1.2):"
        " programs may read a number differently, so the gateway does not accept one."
    )
