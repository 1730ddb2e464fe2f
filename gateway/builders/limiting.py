"""Settings → the limits: the counters of requests, and their kind of exchange. None without `limits`."""

import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from uuid import uuid4

from gateway import translation
from gateway.builders.availability import report
from gateway.conditions.expression import Expression
from gateway.core.model import Request, Route
from gateway.core.reasons import Denial
from gateway.core.tokens.claim_paths import claims_on
from gateway.limits.budget import Budget
from gateway.limits.guard import Guard
from gateway.limits.lease_manager import LeaseManager
from gateway.limits.limiter import Limiter
from gateway.limits.operators import Budgets
from gateway.limits.rules import Limit
from gateway.limits.subjects import CLAIMS
from gateway.pipeline import Pipeline
from gateway.proxy.exchanges.exchange import Kind, as_it_is
from gateway.proxy.exchanges.limited_exchange import counted_exchange, limited_exchange
from gateway.proxy.refusals import Admitter
from gateway.settings import Settings
from gateway.settings.sections import model
from gateway.settings.sections.limits import parse_quota, parse_rate
from gateway.stores.postgres.database import Postgres
from gateway.stores.postgres.quotas import QuotaRows
from gateway.stores.redis.limits import RedisLimits
from gateway.stores.redis.shared_tier import RedisTier
from gateway.stores.redis.topology import server_at
from gateway.telemetry.metrics import Metrics


def limit_of(setting: model.RequestLimit) -> Limit:
    """Return a limit as its setting describes it."""
    limit = Limit(
        setting.name,
        setting.per,
        "concurrency",
        setting.concurrency or 1,
        routes=frozenset(setting.routes),
        counts=setting.counts,
        when=None if setting.when is None else Expression(setting.when, time.time),
        shadow=setting.mode == "shadow",
        slack=setting.slack,
    )
    if setting.rate is not None:
        amount, period = parse_rate(setting.rate)
        burst = amount if setting.burst is None else setting.burst
        return replace(limit, kind="rate", amount=amount, period=period, burst=burst)
    if setting.quota is not None:
        amount, unit = parse_quota(setting.quota)
        return replace(limit, kind="quota", amount=amount, unit=unit, time_zone=setting.time_zone)
    return limit


def claims_read(settings: Settings) -> frozenset[str]:
    """Return the names of the claims that limits read."""
    paths = (each.per.removeprefix(CLAIMS) for each in settings.limits if each.per.startswith(CLAIMS))
    conditions = (Expression(each.when) for each in settings.limits if each.when is not None)
    of_conditions = frozenset(name for each in conditions for name in each.claims_read)
    return of_conditions | frozenset(name for path in paths for name in claims_on(path))


@dataclass(frozen=True, slots=True)
class Limiting:
    """The limits of this worker; all None if there are none."""

    manager: LeaseManager | None = None
    ledger: RedisLimits | None = None
    budgets: Budgets | None = None
    """For operators."""
    hits: "defaultdict[tuple[str, ...], float]" = field(default_factory=lambda: defaultdict(float))

    @property
    def exchanges(self) -> Kind:
        """The factory of exchanges that know the limits."""
        if self.manager is None:
            return as_it_is
        kinds = {budget.limit.kind for budget in self.manager.budgets.values()}
        return counted_exchange if "concurrency" in kinds else limited_exchange

    def around(
        self,
        admitter: Admitter,
        pipeline: Pipeline,
        routes: Iterable[Route],
        report: Callable[[Request, Denial], None],
        *,
        forwards: bool,
    ) -> Admitter:
        """Return an admitter that decides like `admitter` and counts; `admitter` itself without limits.

        `report` is called with each denial that a client did not get, because something is in shadow.
        """
        if self.manager is None:
            return admitter
        guard = Guard(admitter, self.manager, pipeline.read, self.hits, report)
        inner = guard if guard.needed else admitter
        return Limiter(inner, self.manager, routes, self.hits, report, forwards=forwards)

    async def start(self) -> None:
        if self.manager is not None:
            await self.manager.start()

    async def close(self) -> None:
        if self.manager is not None:
            await self.manager.close()
        if self.ledger is not None:
            await self.ledger.close()


def limiting(settings: Settings, redis: RedisTier, postgres: Postgres, metrics: Metrics) -> Limiting:
    """Return the limits, not started."""
    if not settings.limits:
        return Limiting()
    limits = tuple(map(limit_of, settings.limits))
    worker = uuid4().hex
    ledger = _ledger(settings, redis, worker)
    usages = QuotaRows(postgres)
    manager = LeaseManager(
        limits, ledger, usages, worker=worker, workers=translation.workers(settings.server),
        capacity=settings.cache.max_budgets, clock=time.monotonic, unix=time.time, report=report("limits"),
    )  # fmt: skip
    metrics.limits_shared.read((), lambda: float(manager.share is None))
    metrics.limits_workers.read((), lambda: float(manager.workers))
    for budget in manager.budgets.values():
        limit = budget.limit
        metrics.limit_hits.read((limit.name, "allowed"), partial(_allowed, budget))
        metrics.limit_hits.inc((limit.name, "shadow" if limit.shadow else "denied"), by=0)
    budgets = Budgets(manager, ledger, usages)
    return Limiting(manager, ledger, budgets, metrics.limit_hits.values)


def _allowed(budget: Budget) -> float:
    return budget.allowed


@asynccontextmanager
async def budgets_seen(
    settings: Settings, redis: RedisTier, postgres: Postgres
) -> AsyncIterator[Budgets | None]:
    """Open the budgets for a process that spends nothing of them; None without limits."""
    if not settings.limits:
        yield None
        return
    ledger = _ledger(settings, redis, uuid4().hex)
    usages = QuotaRows(postgres)
    try:
        # It is not started, so it neither joins the workers nor takes leases.
        yield Budgets(LeaseManager(tuple(map(limit_of, settings.limits)), ledger, usages), ledger, usages)
    finally:
        await ledger.close()


def _ledger(settings: Settings, redis: RedisTier, worker: str) -> RedisLimits:
    server = server_at(
        settings.redis.url.get_secret_value(), settings.redis.prefix, strict=settings.redis.tls.strict
    )
    return RedisLimits(
        server, redis.ownership, redis.keys, worker,
        timeout=2 * settings.redis.timeout, connect_timeout=settings.redis.connect_timeout,
    )  # fmt: skip
