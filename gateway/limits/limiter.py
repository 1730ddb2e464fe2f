"""What decides on requests, with limits around it: `admit`, then spend of each budget that the request is in.

Without limits, it is not there. A request that finds tokens in its worker's buckets waits for nothing.
Another one waits for Redis, and not longer than Redis may take; then its worker's share answers.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from gateway.core.admission import Admission
from gateway.core.model import Request, Route
from gateway.core.reasons import (
    CONCURRENCY_EXCEEDED,
    QUOTA_EXCEEDED,
    RATE_LIMITED,
    Denial,
    Reason,
)
from gateway.limits import fields
from gateway.limits.bucket import Bucket
from gateway.limits.budget import Budget, BudgetBucket
from gateway.limits.lease_manager import LeaseManager
from gateway.limits.rules import Kind
from gateway.limits.subjects import Subject, subject_of

REASONS: Final[dict[Kind, Reason]] = {
    "rate": RATE_LIMITED, "quota": QUOTA_EXCEEDED, "concurrency": CONCURRENCY_EXCEEDED,
}  # fmt: skip


class Admitter(Protocol):
    """What decides on requests: `gateway.memo.Memo`."""

    @property
    def remembered(self) -> Container[bytes]:
        """The SHA-256 of each verified token in memory."""

    @property
    def heads(self) -> Container[object]:
        """The `Request.recurring` of the remembered heads."""

    async def admit(self, request: Request) -> Admission:
        """Return the admission, or raise `Denial`. Before it first waits, it calls `asyncio.sleep(0)`."""


@dataclass(frozen=True, slots=True)
class Several:
    """What several limits have spent for one request, or limits of which the client is not told."""

    buckets: Sequence[BudgetBucket]
    told: bool
    """Whether the client is told of them."""

    def fields(self) -> bytes:
        """Return the header fields about the limits that are not in shadow."""
        told = [each for each in self.buckets if self.told and not each.budget.limit.shadow]
        if not told:
            return b""
        policy = ", ".join([bucket.budget.policy for bucket in told])
        now = told[0].budget.manager.clock()
        state = ", ".join([fields.state(each.budget.limit, each, now) for each in told])
        return f"RateLimit-Policy: {policy}\r\nRateLimit: {state}\r\n".encode("ascii")

    def release(self) -> None:
        """End the request: of a concurrency, another one may begin."""
        for bucket in self.buckets:
            bucket.release()


@dataclass(frozen=True, slots=True)
class _Rule:
    """One limit on one route."""

    budget: Budget
    subject: Subject
    shadow: bool
    """Whether the limit or the route only counts what would be refused."""
    refused: tuple[str, str]
    """The labels of `limit_hits_total`."""

    @classmethod
    def of(cls, budget: Budget, route: Route) -> "_Rule":
        limit, shadow = budget.limit, budget.limit.shadow or route.shadow
        return cls(budget, subject_of(limit), shadow, (limit.name, "shadow" if shadow else "denied"))


class Limiter:
    """Decides as what it is wrapped around, and then spends of the budgets of the request's limits."""

    def __init__(
        self,
        admitter: Admitter,
        manager: LeaseManager,
        routes: Iterable[Route],
        hits: "defaultdict[tuple[str, ...], float]",
        report: Callable[[Request, Denial], None],
        *,
        forwards: bool = True,
    ) -> None:
        """`hits` counts what is refused, or would be, by limit and result.

        `report` is called with what is not refused in shadow.

        Without `forwards`, a request has no end, and no concurrency.
        """
        self._admit = admitter.admit
        self.remembered = admitter.remembered
        self.heads = admitter.heads
        self._manager = manager
        self._clock = manager.clock
        self._hits = hits
        self._report = report
        budgets = [
            budget
            for budget in manager.budgets.values()
            if budget.limit.counts != "failed" and (forwards or budget.limit.kind != "concurrency")
        ]
        self._plans = {
            route.name: plan
            for route in routes
            if (plan := tuple(_Rule.of(each, route) for each in budgets if each.limit.is_for(route.name)))
        }

    async def admit(self, request: Request) -> Admission:
        """Decide on a request, and count it. Raises `Denial`, also of a limit that has nothing left."""
        admission = await self._admit(request)
        route = admission.forwarding.route
        plan = self._plans.get(route.name)
        if plan is None or admission.forwarding.preflight is not None:
            admission.spent = None
            return admission
        now = self._clock()
        taken: list[BudgetBucket] = []
        try:
            for rule in plan:
                subject = rule.subject(request, admission)
                if subject is None:
                    continue
                budget = rule.budget
                bucket = budget.buckets.peek(subject) or budget.bucket(subject)
                spent = budget.try_take(bucket, now)
                if spent is None:
                    # From here on, in a task.
                    await asyncio.sleep(0)
                    spent = await budget.take(bucket)
                if spent:
                    taken.append(bucket)
                    continue
                self._hits[rule.refused] += 1
                denial = self._refusal(plan, rule, bucket, request, admission)
                if not rule.shadow:
                    raise denial
                self._report(request, denial)
        except BaseException:
            for bucket in taken:
                bucket.budget.put_back(bucket)
            raise
        # Only now: another limit may have refused the request, and then nothing was spent.
        for bucket in taken:
            bucket.budget.allowed += 1
        if len(taken) == 1 and not route.shadow:
            admission.spent = taken[0]
        else:
            admission.spent = Several(taken, told=not route.shadow) if taken else None
        return admission

    def _refusal(
        self, plan: Sequence[_Rule], refused: _Rule, bucket: Bucket, request: Request, admission: Admission
    ) -> Denial:
        """Return the denial for the limit that has nothing left; of several, the one that says so longest."""
        budget, now = refused.budget, self._clock()
        wait = fields.retry_after(budget.limit, bucket, now)
        for rule in plan:
            subject = rule.subject(request, admission)
            other = None if subject is None else rule.budget.buckets.peek(subject)
            if other is None or rule.shadow or refused.shadow or now >= other.refused_until:
                continue
            longer = fields.retry_after(rule.budget.limit, other, now)
            if longer > wait:
                budget, wait = rule.budget, longer
        denial = denial_of(budget, wait)
        denial.route = admission.forwarding.route
        claims, user = admission.claims, admission.user
        if claims is not None:
            denial.issuer, denial.subject = claims.issuer_name, claims.subject
        if user is not None:
            denial.user_id = user.id
        return denial


def denial_of(budget: Budget, wait: int) -> Denial:
    """Return the denial of a request over a limit. `wait` is in seconds."""
    limit = budget.limit
    denial = Denial(REASONS[limit.kind], f"the limit {limit.name} has nothing left for this {limit.per}")
    denial.retry_after = wait
    denial.fields = (
        ("RateLimit-Policy", budget.policy),
        ("RateLimit", fields.refused(limit, wait)),
    )
    return denial
