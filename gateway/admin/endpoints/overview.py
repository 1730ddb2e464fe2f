"""`/v1/overview` and `/v1/history`: the most important metrics as JSON, now and in the last hours."""

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from aiohttp import web

from gateway.admin.api import models, reports
from gateway.admin.api.operations import Answer, Operation, json, reads
from gateway.admin.health import Admin, Workers
from gateway.telemetry.history import SECONDS, Span, buckets, joined, over_limits, sums
from gateway.telemetry.metrics import Metrics
from gateway.telemetry.series import Snapshot

_LATENCY: Final = "gateway_request_duration_seconds"


@dataclass(frozen=True, slots=True)
class SeenPaths:
    """What all workers have seen of the claims of tokens."""

    found: frozenset[tuple[str, str]]
    """The names of issuers, each with a path of its `claims` at which a token had a claim."""
    issuers: frozenset[str]
    """Issuers of which there was a token."""


class Overview:
    """Reads the combined metrics of all workers."""

    def __init__(
        self,
        metrics: Metrics,
        admin: Admin,
        workers: Workers | None,
        history: Callable[[int], Awaitable[Sequence[Span]]],
    ) -> None:
        """`history` returns the spans of the latest minutes, of all workers."""
        self._metrics = metrics
        self._admin = admin
        self._workers = workers
        self._history = history

    def operations(self) -> list[Operation]:
        return [
            reads("GET", "/overview", self.show_overview, models.NoParams,
                  "Readiness and the most important metrics", Answer(model=reports.Overview)),
            reads("GET", "/history", self.show_history, reports.HistorySearch,
                  "What was counted in the last hours, oldest first", Answer(model=reports.History)),
        ]  # fmt: skip

    async def show_overview(self, _: web.Request, __: models.NoParams) -> web.Response:
        state = await self._admin.readiest()
        found = state.dependencies.items()
        return json(
            reports.Overview(
                at=models.instant(time.time()),
                readiness=reports.Readiness(
                    status=state.status,
                    dependencies={
                        name: reports.Dependency(status=each.status, detail=each.detail)
                        for name, each in found
                    },
                ),
                metrics=await self.numbers(),
            )
        )

    async def show_history(self, _: web.Request, params: reports.HistorySearch) -> web.Response:
        spans = await self._history(params.minutes)
        (latency,) = [each for each in self._metrics.snapshot() if each.name == _LATENCY]
        return json(
            reports.History(
                bounds=list(latency.bounds),
                points=[reports.HistoryPoint.of(span) for span in joined(spans, params.step * SECONDS)],
            )
        )

    async def claim_paths(self) -> SeenPaths:
        """Return at which paths tokens have had claims."""
        by_name = await self._totals()
        found, verified = by_name["gateway_claim_paths_found"], by_name["gateway_token_verifications"]
        return SeenPaths(
            frozenset((labels[0], labels[1]) for labels, values in found.points if values[0]),
            frozenset(labels[0] for labels, _ in verified.points if labels[2] == "valid"),
        )

    async def limit_hits(self) -> dict[tuple[str, str], int]:
        """Return how many requests limits have counted, by the name of the limit and the result."""
        hits = (await self._totals())["gateway_limit_hits"]
        return {(labels[0], labels[1]): round(values[0]) for labels, values in hits.points}

    async def _totals(self) -> Mapping[str, Snapshot]:
        own = self._metrics.snapshot()
        snapshots = own if self._workers is None else await self._workers.totals(own)
        return {snapshot.name: snapshot for snapshot in snapshots}

    async def numbers(self) -> reports.Numbers:
        by_name = await self._totals()
        latency = by_name[_LATENCY]
        counts, total = buckets(latency)
        return reports.Numbers(
            requests=sums(by_name["gateway_requests"], "status", shorten=True),
            denials=sums(by_name["gateway_denials"], "reason"),
            lookups=sums(by_name["gateway_user_lookups"], "tier"),
            latency=reports.Latency(bounds=list(latency.bounds), counts=counts, sum=total),
            in_flight=round(_total(by_name["gateway_in_flight_requests"])),
            workers=round(_total(by_name["gateway_workers"])),
            caches=sums(by_name["gateway_cache_entries"], "cache"),
            limited=over_limits(by_name["gateway_limit_hits"], "denied"),
            overlooked=over_limits(by_name["gateway_limit_hits"], "shadow"),
            dependency_up=_up(by_name["gateway_dependency_up"]),
            streams=_up(by_name["gateway_invalidation_stream_up"]),
        )


def _total(snapshot: Snapshot) -> float:
    return sum(values[0] for _, values in snapshot.points)


def _up(snapshot: Snapshot) -> dict[str, bool | None]:
    # NaN, the only value that differs from itself: the dependency has not been checked yet.
    return {
        labels[0]: None if values[0] != values[0] else values[0] == 1 for labels, values in snapshot.points
    }
