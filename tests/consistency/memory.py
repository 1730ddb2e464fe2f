"""The memory of the processes of a run, and whether it still grows."""

import asyncio
import os
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Final

from tests.consistency.world import World

_PAGE: Final = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096
_MIB: Final = 1024 * 1024
_ALLOWED: Final = 0.02
"""The share by which a process may grow in the second half of a run."""
_NOISE: Final = 1.5 * _MIB
"""Bytes by which it may in any case: an arena more or less says nothing."""
_POINTS: Final = 8
"""Stretches of time into which a quarter of a run is divided."""


@dataclass(slots=True)
class Memory:
    """Samples of the resident sizes of a run's processes, by name."""

    times: list[float] = field(default_factory=list)
    sizes: dict[str, list[int]] = field(default_factory=dict)
    """Bytes, one for each of the times; only of processes that lived all the time."""

    def sample(self, processes: Mapping[str, Sequence[int]]) -> None:
        """Measure each process; a name may stand for several. One that is gone is left out from then on."""
        now = {name: sum(map(resident, pids)) for name, pids in processes.items()}
        if not self.times:
            self.sizes = {name: [] for name in now}
        self.times.append(time.monotonic())
        for name, sizes in list(self.sizes.items()):
            if now.get(name):
                sizes.append(now[name])
            else:
                del self.sizes[name]

    def grown(self) -> dict[str, float]:
        """Return by how many bytes each process has grown in the second half, as a steady slope tells."""
        return {name: growth(self.times, sizes) for name, sizes in self.sizes.items()}

    def still_growing(self) -> dict[str, float]:
        """Return those processes that grew by more than is allowed, with the bytes."""
        return {
            name: grown
            for name, grown in self.grown().items()
            if grown > max(_NOISE, _ALLOWED * self.sizes[name][-1])
        }


def growth(times: Sequence[float], sizes: Sequence[float]) -> float:
    """Return by how much a series grew in its second half, if it did so in both quarters of that.

    What goes up and down is taken at its lowest. The slope of a quarter is the median of those between all
    pairs of points (Theil and Sen), on which a peak, or a step at its edge, has no influence.
    """
    end = times[-1]
    quarter = (end - times[0]) / 4
    slopes = [
        _slope(_lowest(times, sizes, end - quarters * quarter, quarter / _POINTS)) for quarters in (2, 1)
    ]
    return 2 * quarter * min(slopes)


def _lowest(
    times: Sequence[float], sizes: Sequence[float], begin: float, lasting: float
) -> list[tuple[float, float]]:
    """Return the lowest point of each of the next `_POINTS` stretches of time."""
    stretches: list[list[tuple[float, float]]] = [[] for _ in range(_POINTS)]
    for at, size in zip(times, sizes, strict=True):
        index = int((at - begin) / lasting)
        if at >= begin and index < _POINTS:
            stretches[index].append((at, size))
    return [min(stretch, key=lambda point: point[1]) for stretch in stretches if stretch]


def _slope(points: Sequence[tuple[float, float]]) -> float:
    slopes = [(b - a) / (after - before) for (before, a), (after, b) in combinations(points, 2)]
    return statistics.median(slopes) if slopes else 0.0


def resident(pid: int) -> int:
    """Return the bytes of a process that are in memory; 0 when it is gone."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE
    except (FileNotFoundError, ProcessLookupError):
        return 0


def processes_of(world: World) -> dict[str, list[int]]:
    """Return the processes of a world, the gateway's one by one. Needs Linux, for `/proc`."""
    workers = {f"worker {pid}": [pid] for pid in world.program.workers()}
    stores = {
        server.title: [] if server._process is None else [server._process.pid, *children(server._process.pid)]
        for server in (world.postgres, world.redis)
    }
    # Pages that Postgres's processes share are counted for each of them.
    return {"supervisor": [world.program.pid], **workers, **stores, "test": [os.getpid()]}


def children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


def told(sizes: Mapping[str, float]) -> str:
    """Say bytes in MiB."""
    return ", ".join(f"{name} {size / _MIB:.1f}" for name, size in sizes.items())


async def watch(
    world: World, memory: Memory, *, every: float = 1.0, extra: Callable[[], Awaitable[str]] | None = None
) -> None:
    """Take a sample every so many seconds, and print one each minute, until cancelled."""
    began = time.monotonic()
    minute = 0
    while True:
        processes = processes_of(world)
        memory.sample(processes)
        if time.monotonic() - began >= 60 * minute:
            sizes = {name: sum(map(resident, pids)) for name, pids in processes.items()}
            more = "" if extra is None else f"; {await extra()}"
            sys.stdout.write(f"minute {minute:3}: RSS in MiB: {told(sizes)}{more}\n")
            sys.stdout.flush()
            minute += 1
        await asyncio.sleep(every)
