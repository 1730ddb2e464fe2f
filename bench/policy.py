"""Policy: what a request costs under one limit and one condition, compared with neither."""

from collections.abc import Iterator, Mapping
from statistics import median
from typing import Final

from rich.console import Console

from bench.gateways import Gateway
from bench.load import Workload
from bench.report import Report, Target
from bench.runs import KERNEL, Run, columns
from bench.side_by_side import load_in_turn
from bench.stage import Stage
from bench.tokens import ISSUER
from gateway.core.model import JSON

LIMIT_US: Final = 3.0
"""The target: CPU that a request takes more, in microseconds."""
WORKLOADS: Final[tuple[Workload, ...]] = ("repeat", "unique")
_OFF: Final = "neither"
_DECISION: Final = "limit, condition on user and claims"
_REQUEST: Final = "limit, condition on the request, too"
_LIMIT: Final[JSON] = {"name": "per-user", "per": "user", "rate": "100000000/1m"}
"""So large that it refuses nothing: a refusal would be cheaper than an answer."""
_CONDITION: Final = f'user.status == "active" && claims.iss == "{ISSUER}"'
_CONDITIONS: Final = {
    _DECISION: _CONDITION,
    _REQUEST: f'{_CONDITION} && request.method == "GET" && !request.path.startsWith("/private/")',
}
_TARGETS: Final[tuple[tuple[Workload, str], ...]] = (
    ("repeat", _DECISION),
    ("repeat", _REQUEST),
    ("unique", _DECISION),
)
"""A condition that reads the request is evaluated anew for each new head, which docs/policy.md says."""


def measure(stage: Stage, console: Console, *, rounds: int, seconds: int, connections: int) -> Report:
    """Load a gateway with neither and gateways with both in turn. Raises Refused."""
    gateways = {_OFF: Gateway(stage, upstream=stage.upstream)} | {
        title: Gateway(stage, upstream=stage.upstream, condition=condition, limits=[_LIMIT])
        for title, condition in _CONDITIONS.items()
    }
    runs = load_in_turn(
        stage, console, gateways,
        workloads=WORKLOADS, rounds=rounds, seconds=seconds, connections=connections,
    )  # fmt: skip
    return Report(
        title=f"One limit and one condition, {connections} connections; median of {rounds} × {seconds} s",
        rows=[
            {"requests": workload, "policy": title, **columns(own)} for (workload, title), own in runs.items()
        ],
        targets=list(_targets(runs)),
        notes=[
            "a condition on the request is evaluated anew for each new head, so that row has no target",
            KERNEL,
        ],
    )


def _targets(runs: Mapping[tuple[Workload, str], list[Run]]) -> Iterator[Target]:
    for workload, title in _TARGETS:
        pairs = zip(runs[workload, title], runs[workload, _OFF], strict=True)
        more = median(both.cpu_us - neither.cpu_us for both, neither in pairs)
        wanted = f"{workload}, {title}: at most {LIMIT_US:g} µs more CPU per request"
        yield Target(wanted, f"{more:+.2f} µs", met=more <= LIMIT_US)
