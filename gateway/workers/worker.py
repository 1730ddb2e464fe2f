"""A worker process: one event loop that serves until the supervisor ends it, or has ended itself."""

import asyncio
import gc
import signal
import socket
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import astuple, dataclass, field
from typing import Final

import structlog
import uvloop

from gateway.admin.health import Admin, Finding, ParserMissing, Readiness, Workers
from gateway.app import Running
from gateway.limits.holdings import Holdings
from gateway.limits.holdings import pack as pack_holdings
from gateway.limits.holdings import unpack as unpack_holdings
from gateway.limits.operators import Budgets
from gateway.listeners import FRONTS, Front, Listeners
from gateway.sockets import Endpoint
from gateway.telemetry.denials import DenialFilter, DenialRecord
from gateway.telemetry.history import Span
from gateway.telemetry.history import unpack as unpack_spans
from gateway.telemetry.series import Snapshot
from gateway.workers.file_watch import FileWatch
from gateway.workers.messages import (
    Message,
    Question,
    decode,
    encode,
    pack,
    pack_denials,
    pack_filter,
    unpack,
    unpack_denials,
    unpack_filter,
)
from gateway.workers.scatter_gather import GATHER_SECONDS

READY_SECONDS: Final = 30.0
"""How long a successor may wait for its dependencies."""
COUNT_SECONDS: Final = 1.0
"""How often a worker reports its metrics. A crash loses the counts since the last report."""
ANSWER_SECONDS: Final = GATHER_SECONDS + 0.5
"""How long the supervisor may take to answer."""
READY_TICK_SECONDS: Final = 0.1
MAX_LINE: Final = 64 * 1024 * 1024

log: structlog.stdlib.BoundLogger = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Plan:
    """The processes that a configuration describes."""

    workers: int
    listen: Endpoint
    admin: Endpoint
    shutdown_delay: float
    """Seconds between the signal to stop and the end of accepting."""
    drain_timeout: float
    """Seconds that requests in flight may take after that."""
    serve: Callable[[Listeners, Workers], AbstractAsyncContextManager[Running]]
    """Runs the gateway on the given sockets. Each worker calls it."""
    watch: FileWatch = field(default_factory=lambda: FileWatch(()))
    """Notices when the plan is to be read again."""
    decision: Endpoint | None = None
    """Where other proxies ask for decisions; None: nowhere."""
    grpc: Endpoint | None = None
    """The same, for Envoy's gRPC."""
    log_level: str = "info"
    """The lowest level that is logged."""

    def endpoint(self, front: Front) -> Endpoint | None:
        """Return the address of a listener."""
        return {"front": self.listen, "decision": self.decision, "grpc": self.grpc}[front]

    @property
    def endpoints(self) -> frozenset[Endpoint]:
        """All addresses that are listened on."""
        every = (self.listen, self.admin, self.decision, self.grpc)
        return frozenset(each for each in every if each is not None)


class NotReady(Exception):
    """A worker's dependencies did not become ready in time."""


def work(plan: Plan, listeners: Listeners, channel: socket.socket, *, successor: bool) -> None:
    """Serve until the supervisor sends `drain`, or has ended.

    A `successor`, which replaces a serving worker, is ready only once its dependencies are. Any other worker
    serves at once, and reports at `/readyz` what is missing.
    """
    # The supervisor handles the signals that are sent to the whole process group.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_work(plan, listeners, channel, successor=successor))


async def _work(plan: Plan, listeners: Listeners, channel: socket.socket, *, successor: bool) -> None:
    link = SupervisorLink(*await asyncio.open_connection(sock=channel, limit=MAX_LINE))
    # A signal to this process only means: replace this worker. The supervisor starts another.
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, link.drain.set)
    try:
        async with plan.serve(listeners, link) as running:
            _reduce_garbage_collection()
            if successor:
                await until_ready(running)
            link.send(Message("ready", astuple(running.urls)))
            async with asyncio.TaskGroup() as tasks:
                others = [tasks.create_task(link.listen(running)), tasks.create_task(link.count(running))]
                await link.drain.wait()
                await running.drain(plan.drain_timeout, last=link.last)
                link.send(Message("counted", pack(running.metrics.snapshot())))
                for task in others:
                    task.cancel()
    except (OSError, ValueError, ParserMissing, NotReady) as error:
        link.send(Message("failed", str(error)))
    await link.close()


def _reduce_garbage_collection() -> None:
    """Exclude the present objects from garbage collection, and collect the new ones seldom.

    Requests leave no reference cycles. By default Python would search for cycles every few requests, also in
    all remembered objects.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


async def until_ready(running: Running) -> None:
    """Wait until the dependencies are ready. Raises `NotReady`."""
    deadline = asyncio.get_running_loop().time() + READY_SECONDS
    while not (state := await running.admin.readiness()).serves:
        if asyncio.get_running_loop().time() > deadline:
            found = state.dependencies.items()
            down = [f"{name}: {finding.detail}" for name, finding in found if finding.status == "down"]
            raise NotReady(f"not ready after {READY_SECONDS:g} s: {', '.join(down)}")
        await asyncio.sleep(READY_TICK_SECONDS)


class SupervisorLink:
    """A worker's end of the channel. Its questions go to all processes of the gateway."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._questions: dict[int, asyncio.Future[object]] = {}
        self._number = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self.drain = asyncio.Event()
        """Set once the worker must end."""
        self.last: Sequence[str] = ()
        """The listeners whose sockets no successor takes over."""

    def send(self, message: Message) -> None:
        """Send a message; drop it if the supervisor has ended."""
        if not self._writer.is_closing():
            self._writer.write(encode(message))

    async def listen(self, running: Running) -> None:
        """Follow the supervisor's messages; end when the supervisor has ended."""
        try:
            await self._handle_messages(running)
        finally:
            tasks = tuple(self._tasks)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _handle_messages(self, running: Running) -> None:
        while line := await self._reader.readline():
            message = decode(line)
            match message.kind:
                case "retire":
                    running.retire()
                case "drain":
                    self.last = message.body
                    self.drain.set()
                case "log_level":
                    running.log_level.raise_level(raised=message.body)
                case "answer":
                    question = self._questions.get(message.number)
                    if question is not None and not question.done():
                        question.set_result(message.body)
                case _:
                    self._answer(running, message)
        if not self.drain.is_set():
            # The supervisor has ended, so there will be no successor.
            self.last = FRONTS
            self.drain.set()

    def _answer(self, running: Running, message: Message) -> None:
        """Answer a question of another worker, at once or in a task."""
        answer: object = None
        match message.kind:
            case "counted":
                answer = pack(running.metrics.snapshot())
            case "readiness":
                self._start(self._answer_readiness(running.admin, message.number))
                return
            case "denials":
                answer = pack_denials(running.denials.latest(unpack_filter(message.body)))
            case "refresh":
                self._start(running.keys.reload(message.body))
            case "limits":
                self._start(self._answer_limits(running.budgets, message.number))
                return
            case "pardon":
                if running.budgets is not None:
                    running.budgets.pardon(*message.body)
            case unknown:
                # A bug of ours. It must not end serving workers.
                log.error("message_unknown", kind=unknown)
                return
        self.send(Message("answer", answer, message.number))

    async def count(self, running: Running) -> None:
        """Report the metrics periodically, so that a crash loses few counts."""
        while True:
            await asyncio.sleep(COUNT_SECONDS)
            self.send(Message("counted", pack(running.metrics.snapshot())))

    async def close(self) -> None:
        self._writer.close()
        with suppress(OSError):
            await self._writer.wait_closed()

    # Workers -----------------------------------------------------------------------------------------

    async def totals(self, own: Sequence[Snapshot]) -> Sequence[Snapshot]:
        answer = await self._ask("totals", pack(own))
        return unpack(answer) if isinstance(answer, list) else own

    async def readiness(self) -> Sequence[Readiness]:
        answer = await self._ask("readiness", None)
        if not isinstance(answer, list):
            return []
        return [
            Readiness(status, {name: Finding(*found) for name, found in findings.items()})
            for status, findings in answer
        ]

    async def denials(self, wanted: DenialFilter) -> Sequence[DenialRecord]:
        answer = await self._ask("denials", pack_filter(wanted))
        return unpack_denials(answer) if isinstance(answer, list) else []

    async def refresh_keys(self, issuer: str) -> None:
        await self._ask("refresh", issuer)

    async def history(self, minutes: int) -> Sequence[Span]:
        answer = await self._ask("history", minutes)
        return unpack_spans(answer) if isinstance(answer, list) else []

    async def limits(self) -> Sequence[Holdings]:
        answer = await self._ask("limits", None)
        return [*map(unpack_holdings, filter(None, answer))] if isinstance(answer, list) else []

    async def pardon(self, limit: str, subject: str) -> None:
        await self._ask("pardon", [limit, subject])

    async def _answer_limits(self, budgets: Budgets | None, number: int) -> None:
        holdings = None if budgets is None else pack_holdings(await budgets.holdings())
        self.send(Message("answer", holdings, number))

    async def _answer_readiness(self, admin: Admin, number: int) -> None:
        state = await admin.readiness()
        findings = {name: [found.status, found.detail] for name, found in state.dependencies.items()}
        self.send(Message("answer", [state.status, findings], number))

    def _start(self, coroutine: Coroutine[None, None, None]) -> None:
        """Run slow work in a task, and receive the supervisor's next messages meanwhile."""
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _ask(self, kind: Question, body: object) -> object:
        """Return the answer, or None if there is none in time."""
        self._number += 1
        number = self._number
        question: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        self._questions[number] = question
        self.send(Message(kind, body, number))
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                return await question
        except TimeoutError:
            return None
        finally:
            self._questions.pop(number, None)
