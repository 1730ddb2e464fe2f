"""The workers of one configuration and their sockets, some taken over from the previous generation."""

import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Self

from gateway import sockets
from gateway.app import Listeners
from gateway.sockets import Endpoint
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
        taken = before if before is not None else cls(plan, [])
        try:
            front = _one_each(
                plan.workers,
                plan.listen,
                [slot.listeners.front for slot in taken.slots] if taken.plan.listen == plan.listen else [],
                "server.listen",
                bound,
            )
            decision = _one_each(
                plan.workers,
                plan.decision,
                [slot.listeners.decision for slot in taken.slots]
                if taken.plan.decision == plan.decision
                else [],
                "decision.listen",
                bound,
            )
            if taken.slots and taken.plan.admin == plan.admin:
                admin = taken.slots[0].listeners.admin
            else:
                admin = sockets.bind(plan.admin, "admin.listen")
                bound += admin
        except OSError:
            sockets.close(bound)
            raise
        listeners = (Listeners(f, admin, d) for f, d in zip(front, decision, strict=True))
        return cls(plan, [Slot(each) for each in listeners], before is not None)

    @property
    def ready(self) -> bool:
        return all(slot.process is not None and slot.process.ready for slot in self.slots)

    @property
    def sockets(self) -> Iterator[socket.socket]:
        for slot in self.slots:
            yield from slot.listeners

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
        endpoints = self.plan.endpoints
        if keeper is not None:
            endpoints -= keeper.plan.endpoints
        for endpoint in endpoints:
            sockets.remove(endpoint)
        sockets.close(one for one in self.sockets if one not in kept)


def _one_each(
    workers: int,
    endpoint: Endpoint | None,
    taken: Sequence[Sequence[socket.socket]],
    setting: str,
    bound: list[socket.socket],
) -> list[Sequence[socket.socket]]:
    """Return the sockets of an endpoint for each worker; first the `taken` ones of a previous generation.

    New ones are added to `bound`. Raises OSError.
    """
    each = [*taken[:workers]]
    while len(each) < workers:
        if endpoint is None:
            more: tuple[socket.socket, ...] = ()
        else:
            more = sockets.beside(each[0]) if each else sockets.bind(endpoint, setting)
        bound += more
        each.append(more)
    return each
