"""The requests and responses of the admin API about limits."""

from datetime import datetime
from typing import Literal

from gateway.admin.api.models import Model, Params, Reason, Text
from gateway.limits.rules import Limit


class LimitParams(Params):
    limit: Text | None = None
    subject: Text | None = None
    """Such as the id of a user, a tenant, or an address."""


class LimitReset(Model):
    limit: Text
    subject: Text
    reason: Reason | None = None


class Budget(Model):
    """How the budget of one subject stands."""

    subject: str
    """As it is counted: of an IPv6 address, its /64."""
    left: int
    held: int
    """What workers hold in advance; of a concurrency, all requests that run."""


class ConfiguredLimit(Model):
    """One of `limits`."""

    name: str
    per: str
    kind: Literal["rate", "quota", "concurrency"]
    amount: int
    period_seconds: float | None
    """Of a rate: in which time; null of the others."""
    burst: int | None
    """Of a rate: how many requests may come at once."""
    unit: Literal["day", "month"] | None
    """Of a quota."""
    time_zone: str | None
    """Of a quota: where its days and months begin."""
    counts: Literal["all", "authenticated", "anonymous", "failed"]
    mode: Literal["enforce", "shadow"]
    routes: list[str]
    """Empty: all."""
    conditional: bool
    """Whether it counts only requests that meet its `when`."""

    @staticmethod
    def of(limit: Limit) -> "ConfiguredLimit":
        """Describe a limit."""
        is_rate, is_quota = limit.kind == "rate", limit.kind == "quota"
        return ConfiguredLimit(
            name=limit.name,
            per=limit.per,
            kind=limit.kind,
            amount=limit.amount,
            period_seconds=limit.period if is_rate else None,
            burst=limit.burst if is_rate else None,
            unit=limit.unit if is_quota else None,
            time_zone=limit.time_zone if is_quota else None,
            counts=limit.counts,
            mode="shadow" if limit.shadow else "enforce",
            routes=sorted(limit.routes),
            conditional=limit.when is not None,
        )


class RequestLimit(ConfiguredLimit):
    """A limit, and how it stands for a subject."""

    budget: Budget | None
    """Null without a subject."""


class Limits(Model):
    """The limits of requests."""

    shared: bool
    """Whether this worker shares the budgets in Redis; else it goes on with its share."""
    workers: int
    """How many workers share them."""
    limits: list[RequestLimit]


class LimitState(ConfiguredLimit):
    """A limit, and what the workers of this gateway know of it."""

    subjects: int
    """The subjects in the memory of the worker that remembers most of them."""
    throttled: int
    """Those of them whose requests are refused."""
    held: int
    """Tokens that the workers of this gateway hold in advance."""
    running: int
    """Of a concurrency: the requests that run through this gateway."""
    allowed: int
    """Requests that it has let pass since the gateway started."""
    refused: int
    overlooked: int
    """Requests that were over it and passed, because something is in shadow."""


class Throttled(Model):
    """A subject that a limit refuses now, or has refused within the last seconds."""

    limit: str
    per: str
    subject: str
    since: datetime
    until: datetime
    """When a request may pass again, as far as is known."""


class SpentBudget(Model):
    """A budget of which much is spent, as far as the workers of this gateway know."""

    limit: str
    per: str
    subject: str
    capacity: int
    spent: int
    held: int
    """What workers of this gateway hold in advance."""


class LimitStates(Model):
    """What all workers of this gateway know of the limits."""

    at: datetime
    shared: bool
    """Whether all of them share the budgets in Redis; else one at least goes on with its share."""
    workers: int
    """How many workers of all gateways share them, as far as this worker knows."""
    limits: list[LimitState]
    throttled: list[Throttled]
    """Those who have been refused longest: up to 100."""
    spent: list[SpentBudget]
    """The ten of each limit that have spent the largest part."""
