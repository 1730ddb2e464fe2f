"""The claims of a verified token, each checked by the gateway's own rules (RFC 7519 §4.1).

The signature has been verified when these functions run, so the claims are the issuer's. These functions
decide whether they are acceptable, with a time that the caller passes in.
"""

import re
from collections.abc import Mapping
from typing import Final

from gateway.core.model import JSON, Claims, Issuer, shared, shared_instant
from gateway.core.reasons import (
    AUDIENCE_MISMATCH,
    CLAIM_MALFORMED,
    CLAIM_MISSING,
    ISSUER_MISSING,
    SUBJECT_MALFORMED,
    SUBJECT_MISSING,
    TOKEN_EXPIRED,
    TOKEN_ISSUED_IN_FUTURE,
    TOKEN_LIFETIME_TOO_LONG,
    TOKEN_NOT_YET_VALID,
    Denial,
    Reason,
)

MAX_SUBJECT_CHARACTERS: Final = 255
MAX_DATE: Final = 253_402_300_799
"""The last second of the year 9999. No valid date is later, and some stores cannot store later dates."""
# C0 and C1 controls, the line and paragraph separators, and halves of surrogate pairs.
_UNCLEAN: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_API_KEY_ROLES: Final = frozenset({"anon", "service_role"})


def is_clean(text: str) -> bool:
    """Return whether a claim may have this value: at least one character, and no control characters."""
    return bool(text) and not _UNCLEAN.search(text)


def issuer_of(payload: Mapping[str, JSON]) -> str:
    """Return the unverified `iss`. It may only be used to select the keys to try.

    Raises `Denial` `issuer_missing`.
    """
    issuer = payload.get("iss")
    if not isinstance(issuer, str) or not issuer:
        raise Denial(ISSUER_MISSING)
    return issuer


def verify(payload: Mapping[str, JSON], issuer: Issuer, now: float) -> Claims:
    """Check every claim of a token with a valid signature. `now` is in Unix seconds.

    Raises `Denial` with a reason of the token group. Times are checked first, so that an expired
    token is reported as expired, even if it has other mistakes.
    """
    _check_present(payload, issuer)
    expires_at = _date(payload, "exp", issuer)
    not_before = _date(payload, "nbf", issuer)
    issued_at = _date(payload, "iat", issuer)
    _check_times(issuer, now, expires_at, not_before, issued_at)
    return Claims(
        issuer=issuer.issuer,
        issuer_name=issuer.name,
        subject=_subject(payload, issuer),
        audiences=_audiences(payload, issuer),
        expires_at=expires_at,
        issued_at=issued_at,
        jti=_optional_string(payload, "jti", issuer),
        tenant=_tenant(payload, issuer),
        scopes=_words(payload, issuer.claims.scopes, issuer),
        roles=_words(payload, issuer.claims.roles, issuer),
        payload=payload,
        leeway=issuer.leeway,
    )


def at_path(payload: Mapping[str, JSON], path: str) -> JSON:
    """Return the claim at a dotted path, or None.

    A claim whose own name is the whole path comes first: names that are URLs carry dots.
    """
    if path in payload:
        return payload[path]
    value: JSON = dict(payload)
    for name in path.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _denial(reason: Reason, issuer: Issuer, detail: str) -> Denial:
    return Denial(reason, detail, issuer=issuer.name)


def _check_present(payload: Mapping[str, JSON], issuer: Issuer) -> None:
    if payload.get("sub") is None:
        role = payload.get("role")
        looks_like_key = isinstance(role, str) and role in _API_KEY_ROLES
        raise _denial(
            SUBJECT_MISSING,
            issuer,
            "an API key (role `anon` or `service_role`) is not a user: send the user's access token"
            if looks_like_key
            else "the token has no `sub`",
        )
    for name in sorted(issuer.require):
        if payload.get(name) is None:
            raise _denial(CLAIM_MISSING, issuer, f"`{name}` is missing")


def _check_times(
    issuer: Issuer, now: float, expires_at: float | None, not_before: float | None, issued_at: float | None
) -> None:
    leeway = issuer.leeway
    if expires_at is not None and now >= expires_at + leeway:
        raise _denial(TOKEN_EXPIRED, issuer, f"`exp` passed {now - expires_at:.0f} s ago")
    if not_before is not None and now < not_before - leeway:
        raise _denial(TOKEN_NOT_YET_VALID, issuer, f"`nbf` is {not_before - now:.0f} s ahead")
    if issued_at is not None and now < issued_at - leeway:
        raise _denial(TOKEN_ISSUED_IN_FUTURE, issuer, f"`iat` is {issued_at - now:.0f} s ahead")
    if issuer.max_lifetime is None:
        return
    if expires_at is None or issued_at is None:
        raise _denial(TOKEN_LIFETIME_TOO_LONG, issuer, "`exp` or `iat` is missing")
    if expires_at - issued_at > issuer.max_lifetime:
        raise _denial(
            TOKEN_LIFETIME_TOO_LONG,
            issuer,
            f"{expires_at - issued_at:.0f} s, at most {issuer.max_lifetime:.0f} s are accepted",
        )


def _date(payload: Mapping[str, JSON], name: str, issuer: Issuer) -> float | None:
    """Parse a NumericDate (RFC 7519 §2): a number of seconds, fractions allowed."""
    value = payload.get(name)
    if value is None:
        if name in payload:
            raise _denial(CLAIM_MALFORMED, issuer, f"`{name}` is null")
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _denial(CLAIM_MALFORMED, issuer, f"`{name}` is not a number")
    if not 0 <= value <= MAX_DATE:
        raise _denial(CLAIM_MALFORMED, issuer, f"`{name}` is not a date between 1970 and 9999")
    return shared_instant(float(value))


def _subject(payload: Mapping[str, JSON], issuer: Issuer) -> str:
    subject = payload["sub"]
    if not isinstance(subject, str):
        raise _denial(SUBJECT_MALFORMED, issuer, "`sub` is not a string")
    if not subject:
        raise _denial(SUBJECT_MALFORMED, issuer, "`sub` is empty")
    if len(subject) > MAX_SUBJECT_CHARACTERS:
        raise _denial(SUBJECT_MALFORMED, issuer, f"`sub` is longer than {MAX_SUBJECT_CHARACTERS} characters")
    if _UNCLEAN.search(subject):
        raise _denial(SUBJECT_MALFORMED, issuer, "`sub` holds control characters")
    return subject


def _audiences(payload: Mapping[str, JSON], issuer: Issuer) -> tuple[str, ...]:
    value = payload.get("aud")
    values = [value] if isinstance(value, str) else [] if value is None else value
    if not isinstance(values, list):
        raise _denial(CLAIM_MALFORMED, issuer, "`aud` is neither a string nor a list of strings")
    audiences = tuple(entry for entry in values if isinstance(entry, str))
    if len(audiences) != len(values):
        raise _denial(CLAIM_MALFORMED, issuer, "`aud` is neither a string nor a list of strings")
    # Many tokens share these strings, and so their memory.
    audiences = shared(audiences)
    if issuer.audiences.isdisjoint(audiences):
        raise _denial(AUDIENCE_MISMATCH, issuer, f"expected one of {sorted(issuer.audiences)}")
    return audiences


def _optional_string(payload: Mapping[str, JSON], path: str, issuer: Issuer) -> str | None:
    value = at_path(payload, path)
    if value is None:
        return None
    if not isinstance(value, str) or not is_clean(value):
        raise _denial(CLAIM_MALFORMED, issuer, f"`{path}` is not a string of printable characters")
    return value


def _tenant(payload: Mapping[str, JSON], issuer: Issuer) -> str | None:
    """Parse the tenant. A number is accepted, too, because some issuers number their tenants."""
    value = at_path(payload, issuer.claims.tenant)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return _optional_string(payload, issuer.claims.tenant, issuer)


def _words(payload: Mapping[str, JSON], path: str, issuer: Issuer) -> tuple[str, ...]:
    """Parse a set of names: a space-delimited string (RFC 8693 §4.2) or a list of strings."""
    value = at_path(payload, path)
    if value is None:
        return ()
    values = [word for word in value.split(" ") if word] if isinstance(value, str) else value
    if not isinstance(values, list):
        raise _denial(CLAIM_MALFORMED, issuer, f"`{path}` is neither a string nor a list of strings")
    words = tuple(word for word in values if isinstance(word, str) and not _UNCLEAN.search(word))
    if len(words) != len(values):
        raise _denial(CLAIM_MALFORMED, issuer, f"`{path}` is neither a string nor a list of strings")
    return shared(words)
