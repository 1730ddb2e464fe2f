"""Checks claims as the pipeline does, and goes on after each denial as if its cause were mended."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Final, TypeAlias

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

DATES: Final = ("iat", "nbf", "exp")
_NO_SUBJECT: Final = "?"
"""A placeholder for a missing subject."""

Mended: TypeAlias = tuple[Mapping[str, JSON], Issuer]
"""The payload and the issuer with which to go on."""


def every_denial(
    payload: Mapping[str, JSON], issuer: Issuer, now: float
) -> tuple[list[Denial], Claims | None]:
    """Return all denials in the order of the pipeline, and the claims if they can be read in the end."""
    denials: list[Denial] = []
    while True:
        try:
            return denials, claim_rules.verify(payload, issuer, now)
        except Denial as denial:
            denials.append(denial)
            mended = _subject(denial, payload, issuer) or _claim(denial, payload, issuer)
            if mended is None:
                return denials, None
            payload, issuer = mended


def _subject(denial: Denial, payload: Mapping[str, JSON], issuer: Issuer) -> Mended | None:
    sub = at_path(payload, issuer.subject)
    if denial.reason is SUBJECT_MISSING:
        sub = _NO_SUBJECT
    elif denial.reason is not SUBJECT_MALFORMED or isinstance(sub, bool):
        return None
    elif isinstance(sub, int | float):
        sub = str(sub)
    elif isinstance(sub, str) and sub.strip() not in ("", sub):
        sub = sub.strip()
    else:
        return None
    return {**payload, "sub": sub}, replace(issuer, subject="sub")


def _claim(denial: Denial, payload: Mapping[str, JSON], issuer: Issuer) -> Mended | None:
    reason, path = denial.reason, denial.claim
    if reason is CLAIM_MISSING and path in issuer.require:
        return payload, replace(issuer, require=frozenset())
    if reason is CLAIM_MISSING:
        return payload, replace(issuer, claims=replace(issuer.claims, tenant=None))
    if reason is ID_TOKEN_NOT_ACCEPTED:
        return {name: value for name, value in payload.items() if name != path}, issuer
    if reason is CLAIM_NOT_ACCEPTED and path in issuer.expect:
        expect = {other: values for other, values in issuer.expect.items() if other != path}
        return payload, replace(issuer, expect=expect)
    if reason is CLAIM_NOT_ACCEPTED:
        return payload, replace(issuer, allow_unbound=True)
    if reason in (TOKEN_EXPIRED, TOKEN_NOT_YET_VALID, TOKEN_ISSUED_IN_FUTURE):
        return payload, replace(issuer, leeway=math.inf)
    if reason is TOKEN_LIFETIME_TOO_LONG:
        return payload, replace(issuer, max_lifetime=None)
    if reason is AUDIENCE_MISMATCH:
        return {**payload, "aud": [*sorted(issuer.audiences or ())]}, issuer
    if reason is CLAIM_MALFORMED and path in DATES:
        meant = claim_rules.meant_date(payload.get(path))
        return None if meant is None else ({**payload, path: meant}, issuer)
    return None
