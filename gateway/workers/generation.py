"""The workers of one configuration and their sockets, some taken over from the previous generation."""

import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Self

from gateway import sockets
from gateway.listeners import Front, Listeners
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
        settings: dict[Front, str] = {
            "front": "server.listen", "decision": "decision.listen", "grpc": "decision.grpc_listen"
        }  # fmt: skip
        try:
            fronts = {
                name: _one_each(name, setting, plan, taken, bound) for name, setting in settings.items()
            }
            if taken.slots and taken.plan.admin == plan.admin:
                admin = taken.slots[0].listeners.admin
            else:
                admin = sockets.bind(plan.admin, "admin.listen")
                bound += admin
        except OSError:
            sockets.close(bound)
            raise
        slots = [
            Slot(Listeners(admin=admin, **{name: each[number] for name, each in fronts.items()}))
            for number in range(plan.workers)
        ]
        return cls(plan, slots, before is not None)

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
    name: Front, setting: str, plan: Plan, before: Generation, bound: list[socket.socket]
) -> list[Sequence[socket.socket]]:
    """Return the sockets of a listener for each worker; first those of the previous generation.

    New ones are added to `bound`. Raises OSError.
    """
    endpoint = plan.endpoint(name)
    each: list[Sequence[socket.socket]] = []
    if before.plan.endpoint(name) == endpoint:
        each += [getattr(slot.listeners, name) for slot in before.slots[: plan.workers]]
    while len(each) < plan.workers:
        if endpoint is None:
            more: tuple[socket.socket, ...] = ()
        else:
            more = sockets.beside(each[0]) if each else sockets.bind(endpoint, setting)
        bound += more
        each.append(more)
    return each
