"""One load on one proxy: its results at the clients, and its cost for the proxy."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Final, Protocol

from bench.gateways import Gateway, share
from bench.load import Workload, Wrk
from bench.processes import Refused

_ATTEMPTS: Final = 3
_WARM_UP_SECONDS: Final = 1
KERNEL: Final = (
    "a part of the difference is the kernel's: the slower gateway leaves the other core idle, and each write"
    " must wake it"
)
"""What to know where two gateways are compared."""
WARM: Final = 0.99
"""The share of a load that memory must answer if the gateway counts as warm."""


@dataclass(frozen=True, slots=True)
class Run:
    """One load."""

    requests: int
    requests_per_second: float
    p50_ms: float
    p99_ms: float
    cpu_us: float
    """CPU time per request of all processes of the proxy, in µs."""
    user_us: float
    """The part of it outside of the kernel."""
    resident_mib: float
    lookups: Counter[str] = field(default_factory=Counter)
    """The number of look-ups of users that each tier answered; empty for a peer."""


class Measured(Protocol):
    """What is measured of a program: `bench.processes.Process`."""

    @property
    def cpu_seconds(self) -> float: ...

    @property
    def user_seconds(self) -> float: ...

    @property
    def resident_bytes(self) -> int: ...

    def until(self, ready: Callable[[], bool]) -> None: ...


@dataclass(frozen=True, slots=True)
class Contender:
    """A running proxy."""

    title: str
    port: int
    process: Measured
    gateway: Gateway | None = None
    """None for a peer."""
    tls: bool = False
    """Whether its clients speak TLS."""

    def run(self, tokens: Path, *, connections: int, seconds: int, workload: Workload = "repeat") -> Run:
        """Send the tokens of a file in turn for some seconds.

        Raises Refused when a request failed, or when a request of `denied` or `forged` was admitted.
        """
        tiers_before = self.gateway.lookups if self.gateway else Counter()
        cpu_before, user_before = self.process.cpu_seconds, self.process.user_seconds
        load = Wrk(
            self.port, tokens, connections=connections, seconds=seconds, workload=workload, tls=self.tls
        ).result()
        cpu, user = self.process.cpu_seconds - cpu_before, self.process.user_seconds - user_before
        failures = dict(load.failures)
        if workload in {"denied", "forged"} and failures.pop("status") != load.requests:
            raise Refused(f"{self.title} admitted requests that it should have refused")
        if any(failures.values()) or not load.requests:
            raise Refused(f"{self.title} failed requests, so its numbers mean nothing: {load.failures_text}")
        return Run(
            requests=load.requests,
            requests_per_second=load.requests / load.seconds,
            p50_ms=load.p50_ms,
            p99_ms=load.p99_ms,
            cpu_us=cpu / load.requests * 1e6,
            user_us=user / load.requests * 1e6,
            resident_mib=self.process.resident_bytes / 2**20,
            lookups=self.gateway.lookups - tiers_before if self.gateway else Counter(),
        )

    def warm_up(self, tokens: Path, *, connections: int, workload: Workload = "repeat") -> None:
        """Send the tokens of a file until nearly all are remembered."""
        for _ in range(_ATTEMPTS):
            run = self.run(tokens, connections=connections, seconds=_WARM_UP_SECONDS, workload=workload)
            if self.gateway is None or share(run.lookups, "local") >= WARM:
                return

    def warm_run(self, tokens: Path, *, connections: int, seconds: int, workload: Workload = "repeat") -> Run:
        """Run with warm memory. Raises Refused when memory answered too few requests.

        Remembered data expires (`cache.local_ttl`). If that happens during the load, the load is repeated.
        """
        lookups: Counter[str] = Counter()
        for _ in range(_ATTEMPTS):
            # The decision listener answers questions alone.
            asks = workload in {"ask", "ask-unique"}
            self.warm_up(tokens, connections=connections, workload=workload if asks else "repeat")
            run = self.run(tokens, connections=connections, seconds=seconds, workload=workload)
            if self.gateway is None or share(run.lookups, "local") >= WARM:
                return run
            lookups = run.lookups
        told = ", ".join(f"{number:,} × {tier}" for tier, number in lookups.items())
        raise Refused(f"{self.title} was not warm, so its numbers mean nothing: look-ups {told}")


def columns(runs: Sequence[Run]) -> dict[str, str | int | float]:
    """Return the median of each number, by the title of its column."""
    return {
        "requests/s": median(run.requests_per_second for run in runs),
        "p50 ms": median(run.p50_ms for run in runs),
        "p99 ms": median(run.p99_ms for run in runs),
        "CPU µs/req": median(run.cpu_us for run in runs),
        "outside the kernel": median(run.user_us for run in runs),
    }


def cpu_ratio(own: Sequence[Run], peer: Sequence[Run]) -> float:
    """Compare round by round, because a disturbance of the machine affects both in the same round."""
    return median(mine.cpu_us / theirs.cpu_us for mine, theirs in zip(own, peer, strict=True))
