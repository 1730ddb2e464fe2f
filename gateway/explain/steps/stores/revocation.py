"""The step of the revocations that apply to a token."""

from typing import Final

from gateway.core.model import Claims, Resolution, RevocationKind, StoreUnavailable
from gateway.core.reasons import TOKEN_REVOKED, TOKENS_REVOKED_BEFORE, Denial
from gateway.core.revocations import Revocation, hits
from gateway.explain import changes
from gateway.explain.answer import Cause, Fix
from gateway.explain.evidence.stores import Evidence
from gateway.explain.trail import Trail
from gateway.explain.wording import ago, moment, shown

_CAUSES: Final = {
    "jti": Cause.TOKEN_REVOKED,
    "user": Cause.USER_TOKENS_REVOKED,
    "issuer": Cause.ISSUER_TOKENS_REVOKED,
}
AHEAD: Final = 60.0
"""Seconds. An instant that is farther ahead refuses new tokens, too; two clocks explain a nearer one."""
UNDATED: Final = (
    "Let the issuer write `iat` into its tokens (RFC 7519 §4.1.6): to sign in again does not help, because a"
    " token without it may always be an older one."
)


def lies_ahead(what: str, undo: str) -> str:
    """Return what to do about an instant in the future, before which tokens are refused."""
    return (
        f"To sign in again does not help before {what} has passed. Find out who set it, and why: a date in"
        f" milliseconds, or one that was meant as an end, is a usual mistake. If it is one, {undo}."
    )


def check(trail: Trail, claims: Claims, evidence: Evidence) -> None:
    """Report the revocations that apply to the token: their time, reason, author and end."""
    issued = "at an unknown time" if claims.issued_at is None else moment(claims.issued_at)
    expected = f"none of the jti {shown(claims.jti)}, and none of user or issuer since its issue, {issued}"
    resolution, rows = evidence.resolution, evidence.revocations
    if isinstance(rows, StoreUnavailable):
        rows = []
    hitting = [row for row in rows if row.kind == "jti" or hits(row.revoked_at, claims.issued_at)]
    revoked = resolution.revoked if isinstance(resolution, Resolution) else None
    for row in hitting:
        ahead = row.kind != "jti" and row.revoked_at > trail.now + AHEAD
        by_redis = revoked is None and isinstance(resolution, Resolution)
        _blame_revocation(
            trail, claims, row.kind, _told(row, trail.now), _row(row), evidence, unheard=by_redis, ahead=ahead
        )
    if revoked is not None and all(row.kind != revoked for row in hitting):
        told = "another program has set a key in Redis, and Postgres has no such row"
        _blame_revocation(trail, claims, revoked, told, told, evidence, unheard=False)
    if isinstance(resolution, Denial) and not hitting:
        trail.step("revocation", "skipped", expected, detail=resolution.reason.title)
        return
    if revoked is None and not hitting:
        trail.step("revocation", "pass", expected, "none")
        return
    kinds = ", ".join(dict.fromkeys([*(row.kind for row in hitting), *([revoked] if revoked else [])]))
    detail = "; ".join(_told(row, trail.now) for row in hitting) or "only Redis has it"
    trail.step("revocation", "warn" if revoked is None else "fail", expected, f"revoked: {kinds}", detail)


def _told(row: Revocation, now: float) -> str:
    return f"{moment(row.revoked_at)} ({ago(row.revoked_at, now)}){_rest(row)}"


def _row(row: Revocation) -> str:
    """Return what a row says, in the same words at any time."""
    return f"{moment(row.revoked_at)}{_rest(row)}"


def _rest(row: Revocation) -> str:
    until = "for ever" if row.expires_at is None else f"until {moment(row.expires_at)}"
    reason = "no reason given" if row.reason is None else f"reason: {shown(row.reason)}"
    by = "" if row.revoked_by is None else f" by {shown(row.revoked_by)}"
    return f"{by}, {reason}, {until}"


def _blame_revocation(
    trail: Trail,
    claims: Claims,
    kind: RevocationKind,
    told: str,
    row: str,
    evidence: Evidence,
    *,
    unheard: bool,
    ahead: bool = False,
) -> None:
    if unheard:
        trail.blame(
            None,
            Cause.CACHE_STALE,
            f"Postgres has a revocation of the {'token' if kind == 'jti' else kind} that Redis does not have"
            f" yet: {told}",
            Fix("Wait: gateways fill the blacklist from Postgres every 30 s."),
        )
        return
    name = claims.realm
    owner = evidence.served or evidence.truth
    value = {"jti": claims.jti or "", "issuer": "", "user": "" if owner is None else owner.id}[kind]
    words = {"jti": [name, value], "issuer": [name], "user": [value]}[kind]
    command = trail.commands.gateway("revocations", "lift", kind, operands=words)
    change = None if command is None else changes.lifted(kind, name, value, row)
    if kind == "user" and owner is None:
        command = change = None
    advice = "Let the user sign in again; or, if the revocation was a mistake, lift it."
    if kind != "jti" and claims.issued_at is None:
        advice = UNDATED
    elif ahead:
        advice = lies_ahead("its time", "lift it")
    whose = {
        "jti": "This token was",
        "user": "All tokens of the user were",
        "issuer": f"All tokens of issuer {name} were",
    }
    trail.blame(
        Denial(TOKEN_REVOKED if kind == "jti" else TOKENS_REVOKED_BEFORE),
        _CAUSES[kind],
        f"{whose[kind]} revoked: {told}",
        Fix(advice, command, change=change),
    )
