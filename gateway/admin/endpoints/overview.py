"""`/v1/overview`: the most important metrics as JSON."""

import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from aiohttp import web

from gateway.admin.api import models, reports
from gateway.admin.api.operations import Answer, Operation, json, reads
from gateway.admin.health import Admin, Workers
from gateway.telemetry.metrics import Metrics
from gateway.telemetry.series import Snapshot


@dataclass(frozen=True, slots=True)
class SeenPaths:
    """What all workers have seen of the claims of tokens."""

    found: frozenset[tuple[str, str]]
    """The names of issuers, each with a path of its `claims` at which a token had a claim."""
    issuers: frozenset[str]
    """Issuers of which there was a token."""


class Overview:
    """Reads the combined metrics of all workers."""

    def __init__(self, metrics: Metrics, admin: Admin, workers: Workers | None) -> None:
        self._metrics = metrics
        self._admin = admin
        self._workers = workers

    def operations(self) -> list[Operation]:
        return [
            reads("GET", "/overview", self.show_overview, models.NoParams,
                  "Readiness and the most important metrics", Answer(model=reports.Overview)),
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

    async def claim_paths(self) -> SeenPaths:
        """Return at which paths tokens have had claims."""
        by_name = await self._totals()
        found, verified = by_name["gateway_claim_paths_found"], by_name["gateway_token_verifications"]
        return SeenPaths(
            frozenset((labels[0], labels[1]) for labels, values in found.points if values[0]),
            frozenset(labels[0] for labels, _ in verified.points if labels[2] == "valid"),
        )

    async def _totals(self) -> Mapping[str, Snapshot]:
        own = self._metrics.snapshot()
        snapshots = own if self._workers is None else await self._workers.totals(own)
        return {snapshot.name: snapshot for snapshot in snapshots}

    async def numbers(self) -> reports.Numbers:
        by_name = await self._totals()
        return reports.Numbers(
            requests=_whole(_sum(by_name["gateway_requests"], "status"), shorten=True),
            denials=_whole(_sum(by_name["gateway_denials"], "reason")),
            lookups=_whole(_sum(by_name["gateway_user_lookups"], "tier")),
            latency=_latency(by_name["gateway_request_duration_seconds"]),
            in_flight=round(_total(by_name["gateway_in_flight_requests"])),
            workers=round(_total(by_name["gateway_workers"])),
            caches=_whole(_sum(by_name["gateway_cache_entries"], "cache")),
            dependency_up=_up(by_name["gateway_dependency_up"]),
            streams=_up(by_name["gateway_invalidation_stream_up"]),
        )


def _sum(snapshot: Snapshot, label: str) -> Iterable[tuple[str, float]]:
    place = snapshot.labels.index(label)
    return ((labels[place], values[0]) for labels, values in snapshot.points)


def _whole(counts: Iterable[tuple[str, float]], *, shorten: bool = False) -> dict[str, int]:
    """Add up the values by one label. A status counts as its class."""
    sums: defaultdict[str, float] = defaultdict(float)
    for label, value in counts:
        sums[f"{label[0]}xx" if shorten else label] += value
    return {label: round(value) for label, value in sums.items()}


def _total(snapshot: Snapshot) -> float:
    return sum(values[0] for _, values in snapshot.points)


def _latency(snapshot: Snapshot) -> reports.Latency:
    # One count for each bucket, and the sum.
    columns = [sum(numbers) for numbers in zip(*(values for _, values in snapshot.points), strict=True)]
    columns = columns or [0.0] * (len(snapshot.bounds) + 2)
    return reports.Latency(
        bounds=list(snapshot.bounds), counts=[round(count) for count in columns[:-1]], sum=columns[-1]
    )


def _up(snapshot: Snapshot) -> dict[str, bool | None]:
    # NaN, the only value that differs from itself: the dependency has not been checked yet.
    return {
        labels[0]: None if values[0] != values[0] else values[0] == 1 for labels, values in snapshot.points
    }
