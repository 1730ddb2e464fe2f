"""`/v1/limits`: the limits, how budgets stand, who is refused, and how to give a budget anew."""

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from aiohttp import web

from gateway.admin.api import limit_reports as reports
from gateway.admin.api import models
from gateway.admin.api.operations import Answer, Operation, author_of, json, reads, takes
from gateway.admin.api.problems import not_found
from gateway.admin.endpoints.overview import Overview
from gateway.admin.health import Workers
from gateway.limits.holdings import Account, Sum, shown, together
from gateway.limits.operators import Budgets
from gateway.limits.rules import Limit
from gateway.stores.postgres.directory.audit import AuditLog

_RESULTS: Final = ("allowed", "denied", "shadow")


class Limits:
    """The configured limits. `budgets` is None if there are none."""

    def __init__(
        self, budgets: Budgets | None, audit: AuditLog, overview: Overview, workers: Workers | None
    ) -> None:
        self._budgets = budgets
        self._limits = {} if budgets is None else {limit.name: limit for limit in budgets.limits}
        self._audit = audit
        self._overview = overview
        self._workers = workers

    def operations(self) -> list[Operation]:
        return [
            reads("GET", "/limits", self.list_limits, reports.LimitParams,
                  "List the limits; with a subject, how its budgets stand", Answer(model=reports.Limits),
                  refusals=(404,)),
            reads("GET", "/limits/state", self.show_state, models.NoParams,
                  "Show what all workers hold of the budgets, and whom they refuse",
                  Answer(model=reports.LimitStates)),
            takes("POST", "/limits/reset", self.reset_limit, models.NoParams, reports.LimitReset,
                  "Give a subject its budget anew", Answer(204), refusals=(404,)),
        ]  # fmt: skip

    async def list_limits(self, _: web.Request, params: reports.LimitParams) -> web.Response:
        budgets = self._budgets
        if budgets is None:
            if params.limit is not None:
                raise self._unknown()
            return json(reports.Limits(shared=False, workers=0, limits=[]))
        listed = [*self._limits.values()] if params.limit is None else [self._limit(params.limit)]
        return json(
            reports.Limits(
                shared=budgets.shared,
                workers=budgets.workers,
                limits=[await self._told(budgets, limit, params.subject) for limit in listed],
            )
        )

    async def show_state(self, _: web.Request, __: models.NoParams) -> web.Response:
        now, budgets = time.time(), self._budgets
        if budgets is None:
            return json(
                reports.LimitStates(
                    at=models.instant(now), shared=True, workers=0, limits=[], throttled=[], spent=[]
                )
            )
        others = [] if self._workers is None else await self._workers.limits()
        known = together(self._limits.values(), [await budgets.holdings(), *others])
        hits = await self._overview.limit_hits()
        return json(
            reports.LimitStates(
                at=models.instant(now),
                shared=known.shared,
                workers=budgets.workers,
                limits=[self._state(limit, known.sums[name], hits) for name, limit in self._limits.items()],
                throttled=[*self._throttled(known.accounts, now)],
                spent=[*self._spent(known.accounts)],
            )
        )

    async def reset_limit(
        self, request: web.Request, _: models.NoParams, body: reports.LimitReset
    ) -> web.Response:
        limit = self._limit(body.limit)
        await self._audit.record(author_of(request, body.reason), "limit.reset", f"limit:{limit.name}")
        if self._budgets is not None:
            await self._budgets.reset(limit, body.subject)
        if self._workers is not None:
            await self._workers.pardon(limit.name, body.subject)
        return web.Response(status=204)

    def _throttled(self, accounts: Sequence[Account], now: float) -> Iterator[reports.Throttled]:
        refused = [each for each in accounts if each.refused_for is not None]
        for account in sorted(refused, key=lambda each: each.refused_for or 0.0, reverse=True):
            yield reports.Throttled(
                limit=account.limit,
                per=self._limits[account.limit].per,
                subject=shown(account.subject),
                since=models.instant(now - (account.refused_for or 0.0)),
                until=models.instant(now + account.again_in),
            )

    def _spent(self, accounts: Sequence[Account]) -> Iterator[reports.SpentBudget]:
        for account in accounts:
            limit = self._limits[account.limit]
            spent = account.spent(limit)
            if spent:
                yield reports.SpentBudget(
                    limit=account.limit,
                    per=limit.per,
                    subject=shown(account.subject),
                    capacity=limit.capacity,
                    spent=spent,
                    held=account.held,
                )

    @staticmethod
    def _state(limit: Limit, total: Sum, hits: Mapping[tuple[str, str], int]) -> reports.LimitState:
        allowed, refused, overlooked = (hits.get((limit.name, result), 0) for result in _RESULTS)
        return reports.LimitState(
            **dict(reports.ConfiguredLimit.of(limit)),
            subjects=total.subjects,
            throttled=total.throttled,
            held=total.held,
            running=total.running,
            allowed=allowed,
            refused=refused,
            overlooked=overlooked,
        )

    async def _told(self, budgets: Budgets, limit: Limit, subject: str | None) -> reports.RequestLimit:
        state = None if subject is None else await budgets.state_of(limit, subject)
        return reports.RequestLimit(
            **dict(reports.ConfiguredLimit.of(limit)),
            budget=None
            if state is None
            else reports.Budget(subject=state.subject, left=state.left, held=state.held),
        )

    def _limit(self, name: str) -> Limit:
        limit = self._limits.get(name)
        if limit is None:
            raise self._unknown()
        return limit

    def _unknown(self) -> Exception:
        known = ", ".join(self._limits) or "none"
        return not_found(f"This limit is not configured. Configured limits: {known}")
