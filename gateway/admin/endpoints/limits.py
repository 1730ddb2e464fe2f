"""`/v1/limits`: the limits, how a budget stands, and how to give it anew."""

from aiohttp import web

from gateway.admin.api import models, reports
from gateway.admin.api.operations import Answer, Operation, author_of, json, reads, takes
from gateway.admin.api.problems import not_found
from gateway.limits.operators import Budgets
from gateway.limits.rules import Limit
from gateway.stores.postgres.directory.audit import AuditLog


class Limits:
    """The configured limits. `budgets` is None if there are none."""

    def __init__(self, budgets: Budgets | None, audit: AuditLog) -> None:
        self._budgets = budgets
        self._limits = {} if budgets is None else {limit.name: limit for limit in budgets.limits}
        self._audit = audit

    def operations(self) -> list[Operation]:
        return [
            reads("GET", "/limits", self.list_limits, reports.LimitParams,
                  "List the limits; with a subject, how its budgets stand", Answer(model=reports.Limits),
                  refusals=(404,)),
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

    async def reset_limit(
        self, request: web.Request, _: models.NoParams, body: reports.LimitReset
    ) -> web.Response:
        limit = self._limit(body.limit)
        await self._audit.record(author_of(request, body.reason), "limit.reset", f"limit:{limit.name}")
        if self._budgets is not None:
            await self._budgets.reset(limit, body.subject)
        return web.Response(status=204)

    async def _told(self, budgets: Budgets, limit: Limit, subject: str | None) -> reports.RequestLimit:
        standing = None if subject is None else await budgets.standing(limit, subject)
        return reports.RequestLimit(
            name=limit.name,
            per=limit.per,
            kind=limit.kind,
            amount=limit.amount,
            counts=limit.counts,
            mode="shadow" if limit.shadow else "enforce",
            routes=sorted(limit.routes),
            budget=None
            if standing is None
            else reports.Budget(subject=standing.subject, left=standing.left, held=standing.held),
        )

    def _limit(self, name: str) -> Limit:
        limit = self._limits.get(name)
        if limit is None:
            raise self._unknown()
        return limit

    def _unknown(self) -> Exception:
        known = ", ".join(self._limits) or "none"
        return not_found(f"This limit is not configured. Configured limits: {known}")
