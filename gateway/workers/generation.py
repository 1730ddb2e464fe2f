"""The workers of one configuration and their sockets, some taken over from the previous generation."""

import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

from gateway import sockets
from gateway.app import Listeners
from gateway.workers.process import Process
from gateway.workers.worker import Plan


@dataclass(eq=False, slots=True)
class Slot:
    """A place for one worker. Its sockets stay for the next worker."""

    listeners: Listeners
    process: Process | None = None
    failures: int = 0
    """How many workers in a row ended soon after their start."""
    start_at: float | None = None
    """When the next worker starts."""


@dataclass(eq=False, slots=True)
class Generation:
    """The workers of one plan."""

    plan: Plan
    slots: list[Slot]
    taken_over: bool = False
    """True when it replaces workers that serve."""
    released: bool = False

    @classmethod
    def bind(cls, plan: Plan, before: "Generation | None" = None) -> Self:
        """Bind the sockets of a plan; reuse those of the previous generation. Raises OSError."""
        bound: list[socket.socket] = []
        try:
            front = cls._fronts(plan, before, bound)
            if before is not None and before.plan.admin == plan.admin:
                admin = before.slots[0].listeners.admin
            else:
                admin = sockets.bind(plan.admin, "admin.listen")
                bound += admin
        except OSError:
            sockets.close(bound)
            raise
        return cls(plan, [Slot(Listeners(each, admin)) for each in front], before is not None)

    @staticmethod
    def _fronts(
        plan: Plan, before: "Generation | None", bound: list[socket.socket]
    ) -> list[tuple[socket.socket, ...]]:
        fronts: list[tuple[socket.socket, ...]] = []
        if before is not None and before.plan.listen == plan.listen:
            fronts += [tuple(slot.listeners.front) for slot in before.slots[: plan.workers]]
        while len(fronts) < plan.workers:
            more = sockets.beside(fronts[0]) if fronts else sockets.bind(plan.listen, "server.listen")
            bound += more
            fronts.append(more)
        return fronts

    @property
    def ready(self) -> bool:
        return all(slot.process is not None and slot.process.ready for slot in self.slots)

    @property
    def sockets(self) -> Iterator[socket.socket]:
        for slot in self.slots:
            yield from slot.listeners.front
            yield from slot.listeners.admin

    @property
    def processes(self) -> Iterator[Process]:
        for slot in self.slots:
            if slot.process is not None:
                yield slot.process

    def slot_of(self, process: Process) -> Slot | None:
        return next((slot for slot in self.slots if slot.process is process), None)

    def release(self, keeper: "Generation | None" = None) -> None:
        """Close the sockets, except those that `keeper` shares. A second call does nothing."""
        if self.released:
            # The paths may belong to another gateway now.
            return
        self.released = True
        kept = set() if keeper is None else set(keeper.sockets)
        endpoints = {self.plan.listen, self.plan.admin}
        if keeper is not None:
            endpoints -= {keeper.plan.listen, keeper.plan.admin}
        for endpoint in endpoints:
            sockets.remove(endpoint)
        sockets.close(one for one in self.sockets if one not in kept)
