"""The claims of a verified token, each checked by the gateway's own rules (RFC 7519 §4.1).

The signature has been verified when these functions run, so the claims are the issuer's. These functions
decide whether they are acceptable, with a time that the caller passes in.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from gateway.core.caches import shared, shared_instant, shared_word
from gateway.core.model import JSON, Claims, Issuer, Scalar
from gateway.core.reasons import (
    AUDIENCE_MISMATCH,
    CLAIM_MALFORMED,
    CLAIM_MISSING,
    CLAIM_NOT_ACCEPTED,
    ID_TOKEN_NOT_ACCEPTED,
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
from gateway.core.tokens.claim_paths import at_path

MAX_SUBJECT_CHARACTERS: Final = 255
MAX_DATE: Final = 253_402_300_799
"""The last second of the year 9999. No valid date is later, and some stores cannot store later dates."""
# C0 and C1 controls, the line and paragraph separators, and halves of surrogate pairs.
_UNCLEAN: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
CLIENTS: Final = ("azp", "client_id", "appid", "cid")
"""Claims that name the client (OpenID Connect Core 1.0 §2, RFC 9068 §2.2; Entra v1; Okta)."""
_API_KEY_ROLES: Final = frozenset({"anon", "service_role"})
# OpenID Connect Core 1.0 §2 and §3.1.3.6, §3.3.2.11; `s_hash` is FAPI's.
_OF_ID_TOKENS: Final = ("nonce", "at_hash", "c_hash", "s_hash")
ID_KIND: Final = "an ID token"
REFRESH_KIND: Final = "a refresh token"
LOGOUT_KIND: Final = "a logout token"
"""Names of a `Kind`."""
_USES: Final = {
    "id": ID_KIND,
    "id_token": ID_KIND,
    "refresh": REFRESH_KIND,
    "refresh_token": REFRESH_KIND,
}
# What Keycloak (`typ`), Cognito (`token_use`), Simple JWT for Django (`token_type`) and Flask-JWT-Extended
# (`type`) call their tokens, in lower case. The last name is common, so that only one value of it counts.
_KINDS: Final = {
    "typ": {
        **_USES,
        "serialized-id": ID_KIND,
        "offline": REFRESH_KIND,
        "logout": LOGOUT_KIND,
    },
    "token_use": _USES,
    "token_type": _USES,
    "type": {"refresh": REFRESH_KIND},
}
# RFC 7800 §3.1; RFC 9449 §5 and §6.2 (the answer of an introspection), and what Keycloak writes into `typ`.
_BINDING: Final = ("cnf", "token_type", "typ")
_MARKS: Final = frozenset({"events", *_KINDS, *_OF_ID_TOKENS})


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


def verify(
    payload: Mapping[str, JSON], issuer: Issuer, now: float, kept: Mapping[str, JSON] | None = None
) -> Claims:
    """Check every claim of a token with a valid signature. `now` is in Unix seconds.

    `kept` becomes the payload of the result; by default all of `payload`. Raises `Denial` with a reason of
    the token group. Times are checked first, so that an expired token is reported as expired, even if it has
    other mistakes.
    """
    _check_present(payload, issuer)
    expires_at = _date(payload, "exp", issuer)
    not_before = _date(payload, "nbf", issuer)
    issued_at = _date(payload, "iat", issuer)
    _check_times(issuer, now, expires_at, not_before, issued_at)
    subject = _subject(payload, issuer)
    audiences = _audiences(payload, issuer)
    check_kind(payload, issuer)
    _check_bound(payload, issuer)
    _check_expected(payload, issuer)
    return Claims(
        issuer=issuer.issuer,
        issuer_name=issuer.name,
        subject=subject,
        audiences=audiences,
        expires_at=expires_at,
        issued_at=issued_at,
        jti=_optional_string(payload, "jti", issuer),
        tenant=_tenant(payload, issuer),
        scopes=_words(payload, issuer.claims.scopes, issuer.scope_separator, issuer),
        roles=_words(payload, issuer.claims.roles, " ", issuer),
        payload=payload if kept is None else kept,
        leeway=issuer.leeway,
        realm=issuer.realm,
    )


@dataclass(frozen=True, slots=True)
class Kind:
    """What shows that a token is no access token."""

    name: str
    """With its article: `an ID token`."""
    mark: str
    """The claim that shows it."""


def kind_of(payload: Mapping[str, JSON]) -> Kind | None:
    """Return what a token is, if its claims show that it is no access token; None if they do not.

    A logout token has `events` (OpenID Connect Back-Channel Logout 1.0 §2.4). The marks of ID tokens come
    last: issuers may allow ID tokens, and nothing else.
    """
    if payload.keys().isdisjoint(_MARKS):
        return None
    if payload.get("events") is not None:
        return Kind(LOGOUT_KIND, "events")
    found: Kind | None = None
    for mark, kinds in _KINDS.items():
        value = payload.get(mark)
        if isinstance(value, str) and (name := kinds.get(value.lower())) is not None:
            if name != ID_KIND:
                return Kind(name, mark)
            found = Kind(name, mark)
    if found is not None:
        return found
    mark = next((mark for mark in _OF_ID_TOKENS if payload.get(mark) is not None), "")
    return Kind(ID_KIND, mark) if mark else None


def _denial(reason: Reason, issuer: Issuer, detail: str, claim: str | None = None) -> Denial:
    return Denial(reason, detail, issuer=issuer.name, claim=claim)


def _check_present(payload: Mapping[str, JSON], issuer: Issuer) -> None:
    if at_path(payload, issuer.subject) is None:
        role = payload.get("role")
        looks_like_key = isinstance(role, str) and role in _API_KEY_ROLES
        raise _denial(
            SUBJECT_MISSING,
            issuer,
            "an API key (role `anon` or `service_role`) is not a user: send the user's access token"
            if looks_like_key
            else f"the token has no `{issuer.subject}`",
        )
    for path in sorted(issuer.require):
        if at_path(payload, path) is None:
            raise _denial(CLAIM_MISSING, issuer, f"`{path}` is missing", path)


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
        what = "is text, and must be a number of seconds" if isinstance(value, str) else "is not a number"
        raise _denial(CLAIM_MALFORMED, issuer, f"`{name}` {what}", name)
    if not 0 <= value <= MAX_DATE:
        what = "is not a date between 1970 and 9999"
        if _is_in_milliseconds(value):
            what = "is in milliseconds, and must be in seconds"
        raise _denial(CLAIM_MALFORMED, issuer, f"`{name}` {what}", name)
    return shared_instant(float(value))


def _is_in_milliseconds(value: float) -> bool:
    """Return whether a number is no date in seconds, but one in milliseconds."""
    return MAX_DATE < value <= MAX_DATE * 1000


def meant_date(value: JSON) -> float | None:
    """Return the date, in seconds, that a malformed one probably means; None if that is not clear."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return None
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    seconds = value / 1000 if _is_in_milliseconds(value) else value
    return float(seconds) if 0 <= seconds <= MAX_DATE else None


def _subject(payload: Mapping[str, JSON], issuer: Issuer) -> str:
    path = issuer.subject
    subject = at_path(payload, path)
    if not isinstance(subject, str):
        raise _denial(SUBJECT_MALFORMED, issuer, f"`{path}` is not a string")
    if not subject:
        raise _denial(SUBJECT_MALFORMED, issuer, f"`{path}` is empty")
    if len(subject) > MAX_SUBJECT_CHARACTERS:
        detail = f"`{path}` is longer than {MAX_SUBJECT_CHARACTERS} characters"
        raise _denial(SUBJECT_MALFORMED, issuer, detail)
    if _UNCLEAN.search(subject):
        raise _denial(SUBJECT_MALFORMED, issuer, f"`{path}` holds control characters")
    return subject


def _audiences(payload: Mapping[str, JSON], issuer: Issuer) -> tuple[str, ...]:
    value = payload.get("aud")
    values = [value] if isinstance(value, str) else [] if value is None else value
    if not isinstance(values, list):
        raise _denial(CLAIM_MALFORMED, issuer, "`aud` is neither a string nor a list of strings", "aud")
    audiences = tuple(entry for entry in values if isinstance(entry, str))
    if len(audiences) != len(values):
        raise _denial(CLAIM_MALFORMED, issuer, "`aud` is neither a string nor a list of strings", "aud")
    # Many tokens share these strings, and so their memory.
    audiences = shared(audiences)
    if issuer.audiences is not None and issuer.audiences.isdisjoint(audiences):
        raise _denial(AUDIENCE_MISMATCH, issuer, f"expected one of {sorted(issuer.audiences)}")
    return audiences


def check_kind(payload: Mapping[str, JSON], issuer: Issuer) -> None:
    """Raise a `Denial` `id_token_not_accepted` for what is no access token.

    Refresh and logout tokens are refused even where ID tokens are not.
    """
    kind = kind_of(payload)
    if kind is not None and not (issuer.id_tokens == "allow" and kind.name == ID_KIND):
        detail = f"`{kind.mark}` shows that it is {kind.name}"
        raise _denial(ID_TOKEN_NOT_ACCEPTED, issuer, detail, kind.mark)


def _check_bound(payload: Mapping[str, JSON], issuer: Issuer) -> None:
    if issuer.allow_unbound or payload.keys().isdisjoint(_BINDING):
        return
    mark = next((name for name in _BINDING if _binds(name, payload.get(name))), None)
    if mark is not None:
        detail = f"`{mark}` binds the token to a key of its client, of which a bearer token is no proof"
        raise _denial(CLAIM_NOT_ACCEPTED, issuer, detail, mark)


def _binds(name: str, value: JSON) -> bool:
    if name == "cnf":
        return value is not None
    return isinstance(value, str) and value.lower() == "dpop"


def _check_expected(payload: Mapping[str, JSON], issuer: Issuer) -> None:
    for path, accepted in issuer.expect.items():
        value = at_path(payload, path)
        if value is None:
            detail = f"`{path}` is missing, and `expect` names its values"
            raise _denial(CLAIM_NOT_ACCEPTED, issuer, detail, path)
        if not meets(value, accepted):
            detail = f"`{path}` has no value that `expect` names"
            raise _denial(CLAIM_NOT_ACCEPTED, issuer, detail, path)


def meets(value: JSON, accepted: tuple[Scalar, ...]) -> bool:
    """Return whether a claim has one of the accepted values; of a list, one element suffices."""
    return any(
        _equal(each, other) for each in (value if isinstance(value, list) else [value]) for other in accepted
    )


def _equal(value: JSON, other: Scalar) -> bool:
    # For Python, true equals 1.
    return value == other and isinstance(value, bool) == isinstance(other, bool)


def _optional_string(payload: Mapping[str, JSON], path: str, issuer: Issuer) -> str | None:
    value = at_path(payload, path)
    if value is None:
        return None
    if not isinstance(value, str) or not is_clean(value):
        raise _denial(CLAIM_MALFORMED, issuer, f"`{path}` is not a string of printable characters")
    return value


def _tenant(payload: Mapping[str, JSON], issuer: Issuer) -> str | None:
    """Parse the tenant. A number is accepted, too, because some issuers number their tenants."""
    if issuer.claims.tenant is None:
        return issuer.tenant
    path = issuer.claims.tenant.path
    value = at_path(payload, path)
    if value is None and not issuer.claims.tenant.optional:
        # A tenant that is not there would not be compared with the user's.
        raise _denial(CLAIM_MISSING, issuer, f"`{path}`, the tenant, is missing", path)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    tenant = _optional_string(payload, path, issuer)
    return None if tenant is None else shared_word(tenant)


def _words(
    payload: Mapping[str, JSON], paths: tuple[str, ...], separator: str, issuer: Issuer
) -> tuple[str, ...]:
    """Parse a set of names, joined from all paths: strings (RFC 8693 §4.2) or lists of strings."""
    words: list[str] = []
    for path in paths:
        value = at_path(payload, path)
        if value is None:
            continue
        values = (
            [word for part in value.split(separator) if (word := part.strip(" "))]
            if isinstance(value, str)
            else value
        )
        if not isinstance(values, list):
            raise _denial(CLAIM_MALFORMED, issuer, f"`{path}` is neither a string nor a list of strings")
        fitting = [word for word in values if isinstance(word, str) and not _UNCLEAN.search(word)]
        if len(fitting) != len(values):
            raise _denial(CLAIM_MALFORMED, issuer, f"`{path}` is neither a string nor a list of strings")
        words += fitting
    return shared(tuple(words) if len(paths) == 1 else tuple(dict.fromkeys(words)))
