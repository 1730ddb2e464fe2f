"""Explains a request that was denied, from what was kept of it: without its token, and so only in part.

The reason is known for certain. What the token said is known in part, and was not verified unless the reason
comes after the signature. Every step says whether it is of the time of the request or of now.
"""

import time
from collections.abc import Callable
from typing import Final, Protocol

from gateway.core.model import Issuer, StoreUnavailable, UserStatus
from gateway.core.policy import STATUS_REASONS
from gateway.core.reasons import (
    AUDIENCE_MISMATCH,
    CATALOGUE,
    ISSUER_UNTRUSTED,
    KEY_UNKNOWN,
    METHOD_NOT_ALLOWED,
    ROLE_MISSING,
    ROUTE_NOT_FOUND,
    SCOPE_INSUFFICIENT,
    TOKEN_EXPIRED,
    TOKEN_ISSUED_IN_FUTURE,
    TOKEN_NOT_YET_VALID,
    USER_NOT_FOUND,
    Group,
    Reason,
)
from gateway.core.tokens.issuer_patterns import is_pattern
from gateway.core.tokens.jws import KeySet
from gateway.explain.answer import Cause, Explanation, Fix, Outcome, Step
from gateway.explain.evidence.issuer_clocks import IssuerClocks
from gateway.explain.evidence.users import Users
from gateway.explain.fixes.remedies import Remedies
from gateway.explain.setup import Setup
from gateway.explain.steps.stores.clock import told as clocks_told
from gateway.explain.wording import Commands, ago, listed, moment, shown
from gateway.stores.postgres.directory.user_rows import UserNotFound, UserRecord
from gateway.telemetry.denials import DenialRecord

_CAUSES: Final = {
    TOKEN_EXPIRED: Cause.TOKEN_EXPIRED,
    AUDIENCE_MISMATCH: Cause.AUDIENCE_MISMATCH,
    KEY_UNKNOWN: Cause.KEY_UNKNOWN,
    ROUTE_NOT_FOUND: Cause.ROUTE_NOT_FOUND,
    METHOD_NOT_ALLOWED: Cause.METHOD_NOT_ALLOWED,
    ROLE_MISSING: Cause.ROLE_MISSING,
    SCOPE_INSUFFICIENT: Cause.SCOPE_INSUFFICIENT,
    **{reason: Cause(f"user_{status}") for status, reason in STATUS_REASONS.items()},
}
"""The causes of reasons that have only one. For the others, the token is needed."""
_TIMES: Final = frozenset({TOKEN_EXPIRED, TOKEN_NOT_YET_VALID, TOKEN_ISSUED_IN_FUTURE})
_UNTRUSTED: Final = "untrusted"


class Keys(Protocol):
    """The verification keys of all issuers."""

    def current(self, realm: str, /) -> KeySet | None:
        """Return the keys to trust now; None if there are none."""


class Directory(Protocol):
    """The users."""

    async def get(self, user_id: str) -> UserRecord:
        """Return a user by its id. Raises `UserNotFound` and `StoreUnavailable`."""


class DenialExplainer:
    """Explains denials that were kept. `clock` returns Unix seconds."""

    def __init__(
        self,
        setup: Setup,
        keys: Keys,
        directory: Directory,
        clock: Callable[[], float] = time.time,
        users: Users | None = None,
        clocks: IssuerClocks | None = None,
    ) -> None:
        """`users` is needed where the users are in tables of another system.

        `clocks` has what the tokens of this worker showed of the issuers' clocks.
        """
        self._clocks = clocks
        self._users = users
        self._issuers = {issuer.name: issuer for issuer in setup.issuers}
        self._commands = Commands(setup.config, setup.schema)
        self._keys = keys
        self._directory = directory
        self._clock = clock

    async def explain(self, denial: DenialRecord) -> Explanation:
        """Explain a denial as far as what was kept of it tells."""
        now, reason = self._clock(), CATALOGUE[denial.reason]
        steps = [self._route(denial, reason)]
        if denial.token is not None:
            steps += [
                self._issuer(denial, reason),
                self._key(denial, reason),
                self._times(denial, reason, now),
            ]
        user, record = await self._user(denial, reason)
        steps.append(user)
        steps.append(
            Step("token", "skipped", detail="it is not kept. With the token, every step can be checked")
            if denial.token is not None
            else Step("token", "skipped", detail="the request had none, or more than one")
        )
        detail = "" if denial.detail is None else f" ({denial.detail})"
        request, when = f"{denial.method} {denial.path}", ago(denial.at, now)
        summary = f"{request} was denied {when} with {denial.status}: {reason.title}{detail}."
        if denial.shadow:
            summary = (
                f"{request} passed {when}, because of `mode: shadow`, and was counted."
                f" Else: {denial.status}, {reason.title}{detail}."
            )
        return Explanation(
            decision="allow" if denial.shadow else "deny",
            reason=reason.code,
            cause=_CAUSES.get(reason),
            summary=summary,
            fix=await self._fix(denial, reason, record),
            steps=tuple(steps),
        )

    def _route(self, denial: DenialRecord, reason: Reason) -> Step:
        outcome: Outcome = "fail" if reason in {ROUTE_NOT_FOUND, METHOD_NOT_ALLOWED} else "pass"
        return Step("route", outcome, found=f"route {denial.route}", detail=f"{denial.method} {denial.path}")

    def _issuer(self, denial: DenialRecord, reason: Reason) -> Step:
        token = denial.token
        said = None if token is None or token.issuer is None else f"`iss` {shown(token.issuer)}"
        issuer = self._issuers.get(denial.issuer)
        if issuer is not None:
            return Step("issuer", "pass", found=f"issuer {issuer.name}", detail=said)
        if reason is ISSUER_UNTRUSTED or denial.issuer == _UNTRUSTED:
            known = listed(each.issuer for each in self._issuers.values())
            return Step("issuer", "fail", expected=known, found=said)
        return Step("issuer", "skipped", detail=said)

    def _key(self, denial: DenialRecord, reason: Reason) -> Step:
        token, issuer = denial.token, self._issuers.get(denial.issuer)
        if token is None or token.algorithm is None:
            return Step("key", "skipped", detail="the token was not a JWT")
        found = f"`alg` {shown(token.algorithm)}, `kid` {shown(token.key)}"
        if reason is KEY_UNKNOWN:
            return Step("key", "fail", found=found, detail=self._key_now(token.key, issuer))
        return Step("key", "pass" if denial.subject_hash is not None else "skipped", found=found)

    def _key_now(self, kid: str | None, issuer: Issuer | None) -> str | None:
        """Say whether an unknown key is known in the meantime."""
        if issuer is None or kid is None or is_pattern(issuer.issuer):
            return None
        keys = self._keys.current(issuer.name)
        known = [] if keys is None else [key.kid for key in keys.keys if key.kid is not None]
        if kid in known:
            return "the issuer has a key with this `kid` now: the same token may pass now"
        return f"now the issuer has {listed(known)}"

    def _times(self, denial: DenialRecord, reason: Reason, now: float) -> Step:
        token = denial.token
        if token is None or token.expires_at is token.issued_at is token.not_before is None:
            return Step("times", "skipped", detail="the token said none, or was not a JWT")
        named = (("iat", token.issued_at), ("nbf", token.not_before), ("exp", token.expires_at))
        found = ", ".join(f"`{name}` {moment(value)}" for name, value in named if value is not None)
        outcome: Outcome = (
            "fail" if reason in _TIMES else "pass" if denial.subject_hash is not None else "skipped"
        )
        detail = f"the request was at {moment(denial.at)}"
        if token.expires_at is not None:
            word = "expired" if token.expires_at <= now else "expires"
            detail += f"; the token {word} {ago(token.expires_at, now)}"
        skew = None if self._clocks is None or reason not in _TIMES else self._clocks.skew(denial.issuer)
        if skew is not None:
            detail += f"; {clocks_told(skew)}"
        return Step("times", outcome, found=found, detail=detail)

    async def _user(self, denial: DenialRecord, reason: Reason) -> tuple[Step, UserRecord | None]:
        """Return the step, and the user as it is now."""
        whose = None if denial.subject_hash is None else f"the subject has the hash {denial.subject_hash}"
        if denial.user_id is None:
            if reason is USER_NOT_FOUND:
                return Step("user", "fail", found="no user was behind the token", detail=whose), None
            return Step("user", "skipped", detail=whose or "the request did not come so far"), None
        outcome: Outcome = "fail" if reason.group in {Group.USER, Group.POLICY} else "pass"
        found = f"user {denial.user_id}"
        try:
            record = await self._directory.get(denial.user_id)
        except UserNotFound:
            return Step("user", outcome, found=found, detail="it has been removed since"), None
        except StoreUnavailable as error:
            return Step("user", outcome, found=found, detail=f"its status is not known now: {error}"), None
        return Step("user", outcome, found=found, detail=f"now it is {record.user.status}"), record

    async def _fix(self, denial: DenialRecord, reason: Reason, record: UserRecord | None) -> Fix:
        if reason in STATUS_REASONS.values() and record is not None:
            return await self._fix_of_status(reason, record)
        if reason is USER_NOT_FOUND:
            return Fix(
                f"{reason.hint} The command finds the identities that the subject may be, by the hash.",
                self._commands.gateway("orphans", "--from-api"),
            )
        if denial.token is None or reason.group is Group.OURS:
            return Fix(reason.hint)
        command = self._commands.gateway("explain", "-", "--method", denial.method, "--url", denial.path)
        return Fix(
            f"{reason.hint} The command reads the client's token from stdin and shows every step.", command
        )

    async def _fix_of_status(self, reason: Reason, record: UserRecord) -> Fix:
        status = record.user.status
        if status is UserStatus.ACTIVE:
            return Fix("The user is active now: the client may try again.")
        if STATUS_REASONS[status] is not reason:
            return Fix(f"The user is {status} now. {STATUS_REASONS[status].hint}")
        action = "restore" if status is UserStatus.DELETED else "activate"
        advice = f"If the user may use the gateway again, {action} it."
        users = self._users
        if users is None or users.diagnostics is None:
            return Remedies(self._commands).status(advice, record.user)
        remedies = Remedies(self._commands, users.source)
        try:
            rule = await users.diagnostics.rule_of(record.user.id)
        except StoreUnavailable:
            return Fix(advice)
        remedies.server = await users.server()
        return remedies.status(advice, record.user, () if rule is None else rule.holding)
