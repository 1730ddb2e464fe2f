"""Failed authentications: they are counted, and a client with too many is answered before any cryptography.

A client over such a limit gets a 429, unless its token is remembered as valid, or it sends none. The answer
costs one look into the bounded table of buckets. A valid token spends nothing. So others behind the same
address go on: with tokens that are remembered at once, with new ones as soon as a failure would be allowed.
"""

import asyncio
import base64
from collections import defaultdict
from collections.abc import Callable
from functools import lru_cache
from typing import Final

import orjson

from gateway.core.admission import Admission, Forwarding
from gateway.core.model import Credential, Request, Route
from gateway.core.reasons import (
    CREDENTIALS_MISSING,
    KEY_UNKNOWN,
    TOKEN_EXPIRED,
    TOKEN_REVOKED,
    Denial,
    Group,
)
from gateway.core.text import json_text
from gateway.limits import fields
from gateway.limits.bucket import LONGEST_REFUSAL
from gateway.limits.budget import Budget
from gateway.limits.lease_manager import LeaseManager
from gateway.limits.limiter import Admitter, denial_of
from gateway.limits.subjects import KID, named, network_of

_LONGEST_HEADER: Final = 2048
_NOT_GUESSED: Final = frozenset({CREDENTIALS_MISSING, TOKEN_EXPIRED, TOKEN_REVOKED})
"""Reasons that say nothing of an attack: the token was valid once, or there is none."""


class Guard:
    """Wraps what decides on requests. `read` reads a request's head, and looks at no token."""

    def __init__(
        self,
        admitter: Admitter,
        manager: LeaseManager,
        read: Callable[[Request], Forwarding],
        hits: "defaultdict[tuple[str, ...], float]",
        report: Callable[[Request, Denial], None],
    ) -> None:
        self._admit = admitter.admit
        self.remembered = admitter.remembered
        self.heads = admitter.heads
        self._read = read
        self._clock = manager.clock
        self._hits = hits
        self._report = report
        budgets = [budget for budget in manager.budgets.values() if budget.limit.counts == "failed"]
        self.needed = bool(budgets)
        """Whether there is a limit of failed authentications at all."""
        self._budgets = tuple(budgets)
        self._of_clients = tuple(budget for budget in budgets if budget.limit.per == "client")
        self._of_keys = tuple(budget for budget in budgets if budget.limit.per == KID)

    async def admit(self, request: Request) -> Admission:
        """Decide on a request. Raises `Denial`, also for a client or a key that failed too often."""
        self._refuse(request)
        try:
            return await self._admit(request)
        except Denial as denial:
            if is_failure(denial):
                await self._count(request, denial)
            raise

    def _refuse(self, request: Request) -> None:
        """Raise a `Denial` if a budget of the client or of its token's key is empty."""
        now = self._clock()
        for budget in self._of_clients:
            bucket = budget.buckets.peek(network_of(request.client))
            if bucket is not None and now < bucket.refused_until and not budget.limit.shadow:
                found = self._unknown_token(request)
                if found is not None and budget.limit.is_for(found[0].name):
                    raise self._refusal(budget, fields.retry_after(budget.limit, bucket, now), found[0])
        if not any(len(budget.buckets) for budget in self._of_keys):
            return
        found = self._unknown_token(request)
        kid = None if found is None else kid_of(found[1].raw)
        for budget in self._of_keys:
            bucket = None if kid is None else budget.buckets.peek(kid)
            if found is None or bucket is None or now >= bucket.refused_until or budget.limit.shadow:
                continue
            if budget.limit.is_for(found[0].name):
                raise self._refusal(budget, fields.retry_after(budget.limit, bucket, now), found[0])

    def _unknown_token(self, request: Request) -> tuple[Route, Credential] | None:
        """Return the route and the token of a request.

        None without a token, if it is remembered as valid, and on a route in shadow, which refuses nothing.
        """
        if request.credential is not None and request.credential.digest in self.remembered:
            # Most requests: their heads need not be read again.
            return None
        try:
            forwarding = self._read(request)
        except Denial:
            return None
        credential = request.credential or forwarding.credential
        if forwarding.credential is None or credential is None or credential.digest in self.remembered:
            return None
        if forwarding.route.shadow:
            return None
        return forwarding.route, credential

    async def _count(self, request: Request, failure: Denial) -> None:
        """Spend of the budgets of failures. Raises the `Denial` of one that has nothing left."""
        for budget in self._budgets:
            limit = budget.limit
            route = failure.route
            if limit.routes and (route is None or route.name not in limit.routes):
                continue
            subject = self._subject(limit.per, request, failure)
            if subject is None:
                continue
            bucket = budget.bucket(subject)
            spent = budget.try_take(bucket, self._clock())
            if spent is None:
                await asyncio.sleep(0)
                spent = await budget.take(bucket)
            if spent:
                budget.allowed += 1
                continue
            now = self._clock()
            wait = fields.retry_after(limit, bucket, now)
            if now >= bucket.refused_until:
                bucket.refused_until = now + min(float(wait), LONGEST_REFUSAL)
            denial = self._refusal(budget, wait, route)
            denial.issuer, denial.realm = failure.issuer, failure.realm
            if not limit.shadow:
                raise denial from failure
            self._report(request, denial)

    def _subject(self, per: str, request: Request, failure: Denial) -> str | None:
        if per == "client":
            return network_of(request.client)
        if per == "route":
            return None if failure.route is None else failure.route.name
        if failure.reason is not KEY_UNKNOWN:
            # Else tokens that are forged with the name of a good key would lock out that key.
            return None
        found = self._unknown_token(request)
        return None if found is None else kid_of(found[1].raw)

    def _refusal(self, budget: Budget, wait: int, route: Route | None) -> Denial:
        self._hits[budget.limit.name, "shadow" if budget.limit.shadow else "denied"] += 1
        denial = denial_of(budget, wait)
        denial.route = route
        return denial


def is_failure(denial: Denial) -> bool:
    """Return whether a denial is of a token that may be guessed."""
    reason = denial.reason
    return reason.group is Group.TOKEN and reason.status == 401 and reason not in _NOT_GUESSED


def kid_of(raw: bytes) -> str | None:
    """Return the `kid` in the header of a token (RFC 7515 §4.1.4) as limits know it; None without one."""
    return _kid_of(raw.partition(b".")[0])


@lru_cache(maxsize=256)
def _kid_of(header: bytes) -> str | None:
    if len(header) > _LONGEST_HEADER:
        return None
    try:
        decoded = base64.urlsafe_b64decode(header + b"=" * (-len(header) % 4))
        json_text.check_depth(decoded)
        members = orjson.loads(decoded)
    except ValueError:
        return None
    kid = members.get("kid") if isinstance(members, dict) else None
    return named(kid) if isinstance(kid, str) else None
