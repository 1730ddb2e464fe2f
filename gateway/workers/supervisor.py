"""The supervisor: starts workers, restarts crashed ones, replaces them at a reload, and ends them.

SIGHUP reloads the configuration, and so does a change of its file if `server.reload` is `watch`. SIGUSR1
raises the level of the log for ten minutes; a second one ends that.
"""

import selectors
import signal
import socket
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Final

import structlog

from gateway import sockets
from gateway.listeners import FRONTS, Urls
from gateway.workers.generation import Generation, Slot
from gateway.workers.log_level import RaisedLevel
from gateway.workers.messages import QUESTIONS, Message
from gateway.workers.notify import Notifier
from gateway.workers.process import Process, fork
from gateway.workers.scatter_gather import ScatterGather
from gateway.workers.worker import Plan, work

FIRST_DELAY_SECONDS: Final = 0.1
LONGEST_DELAY_SECONDS: Final = 5.0
STABLE_SECONDS: Final = 10.0
"""A worker that ends after living this long is restarted without delay."""
FORCE_SECONDS: Final = 5.0
"""How long a worker may take to end after its drain."""

log: structlog.stdlib.BoundLogger = structlog.get_logger()


class PlanRefused(Exception):
    """A configuration that cannot be used. `problems` says why, one per line."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


class StartFailed(Exception):
    """The first workers could not start."""


class Supervisor:
    """The processes of one gateway.

    `reread` reads the configuration again, or raises `PlanRefused`. `announce` receives the gateway's URLs
    once all its workers serve.
    """

    def __init__(
        self,
        plan: Plan,
        reread: Callable[[], Plan],
        announce: Callable[[Urls], None],
        notifier: Notifier | None = None,
    ) -> None:
        self._plan = plan
        self._watch = plan.watch
        self._reread = reread
        self._announce = announce
        self._notifier = notifier or Notifier()
        self._selector = selectors.DefaultSelector()
        self._signals: deque[int] = deque()
        self._wakeup = socket.socketpair()
        for end in self._wakeup:
            end.settimeout(0)
        self._processes: list[Process] = []
        self._current = Generation(plan, [], released=True)  # no socket is bound yet
        self._next: Generation | None = None
        self._announced = False
        self._reload_again = False
        """A reload was requested during another reload."""
        self._stopping = False
        self._drain_at: float | None = None
        self._scatter_gather = ScatterGather(lambda: self._processes)
        self._log_level = RaisedLevel(lambda: self._current.plan.log_level, lambda: self._processes)

    def run(self) -> None:
        """Serve until told to stop.

        Raises OSError when an address cannot be listened on, `StartFailed` when a first worker cannot
        start.
        """
        with self._listening_to_signals():
            try:
                self._current = Generation.bind(self._plan)
                self._start_all(self._current)
                while self._processes or not self._stopping:
                    self._loop_once()
            finally:
                for process in self._processes:
                    process.end_by_force()
                self._current.release()

    # The loop ------------------------------------------------------------------------------------

    def _loop_once(self) -> None:
        for key, mask in self._selector.select(self._seconds_to_deadline()):
            process = key.data
            if process is None:
                self._wakeup[0].recv(4096)
                continue
            if mask & selectors.EVENT_WRITE:
                process.flush()
            if mask & selectors.EVENT_READ and not process.channel_ended:
                self._handle_messages(process)
        while self._signals:
            self._handle_signal(self._signals.popleft())
        self._act_on_deadlines(time.monotonic())
        for process in self._processes:
            self._update_selector(process)

    def _update_selector(self, process: Process) -> None:
        """Wait until there is something to read, or room for unsent messages."""
        if not process.channel_ended:
            events = selectors.EVENT_READ | (selectors.EVENT_WRITE if process.unsent else 0)
            if self._selector.get_key(process.channel).events != events:
                self._selector.modify(process.channel, events, process)

    def _seconds_to_deadline(self) -> float | None:
        """Return the seconds until the next deadline; None if there is none."""
        times = list(self._scatter_gather.deadlines)
        times += [process.kill_at for process in self._processes if process.kill_at is not None]
        times += [at for at in (self._drain_at, self._log_level.until) if at is not None]
        if not self._stopping:
            times.append(self._scatter_gather.sample_at)
            times += [] if self._watch.next_at is None else [self._watch.next_at]
            times += [slot.start_at for slot in self._current.slots if slot.start_at is not None]
        return max(0.0, min(times) - time.monotonic()) if times else None

    def _act_on_deadlines(self, now: float) -> None:
        self._scatter_gather.expire(now)
        self._log_level.expire(now)
        for process in self._processes:
            if process.kill_at is not None and process.kill_at <= now:
                log.warning("worker_killed", pid=process.pid, detail="it did not end in time")
                process.kill_at = None
                process.end_by_force()
        if self._drain_at is not None and self._drain_at <= now:
            self._drain_at = None
            self._leave()
        if not self._stopping:
            self._scatter_gather.sample(now)
            if self._watch.has_changed(now):
                log.info("reload_tried_again" if self._watch.again else "configuration_changed")
                self._reload()
            for slot in self._current.slots:
                if slot.start_at is not None and slot.start_at <= now:
                    self._restart(slot, now)

    def _restart(self, slot: Slot, now: float) -> None:
        try:
            self._start(self._current, slot)
        except OSError as error:
            slot.start_at = now + LONGEST_DELAY_SECONDS
            log.warning("worker_not_started", detail=str(error), restart_seconds=LONGEST_DELAY_SECONDS)
        else:
            self._scatter_gather.restarts.inc()

    # Signals -------------------------------------------------------------------------------------

    @contextmanager
    def _listening_to_signals(self) -> Iterator[None]:
        """Collect signals during the context; each wakes the loop."""
        receiver, sender = self._wakeup
        self._selector.register(receiver, selectors.EVENT_READ, None)

        def note(number: int, _: FrameType | None) -> None:
            self._signals.append(number)

        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGCHLD)
        before = {number: signal.signal(number, note) for number in numbers}
        wakeup = signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(wakeup)
            for number, handler in before.items():
                signal.signal(number, handler)
            self._close_own()

    def _handle_signal(self, number: int) -> None:
        if number == signal.SIGCHLD:
            self._reap()
        elif number == signal.SIGHUP:
            self._reload()
        elif number == signal.SIGUSR1:
            self._log_level.toggle()
        elif self._stopping:
            for process in self._processes:
                process.end_by_force()
        else:
            self._stop(signal.Signals(number).name)

    # Workers -------------------------------------------------------------------------------------

    def _start_all(self, generation: Generation) -> None:
        for slot in generation.slots:
            self._start(generation, slot)

    def _start(self, generation: Generation, slot: Slot) -> None:
        successor = generation.taken_over and generation is self._next

        def body(channel: socket.socket) -> None:
            work(generation.plan, slot.listeners, channel, successor=successor)

        def forget() -> None:
            self._close_own()
            for process in self._processes:
                process.channel.close()
            own = {*slot.listeners}
            for each in filter(None, (self._current, self._next)):
                sockets.close(one for one in each.sockets if one not in own)

        slot.start_at = None
        slot.process = process = fork(body, forget)
        self._processes.append(process)
        self._selector.register(process.channel, selectors.EVENT_READ, process)
        self._log_level.tell(process)

    def _close_own(self) -> None:
        self._selector.close()
        for end in self._wakeup:
            end.close()

    def _handle_messages(self, process: Process) -> None:
        messages = process.receive()
        if process.channel_ended:
            self._selector.unregister(process.channel)
        for message in messages:
            match message.kind:
                case "ready":
                    process.ready = True
                    process.urls = Urls(*message.body)
                    self._check_ready()
                case "failed":
                    process.failure = message.body
                case "counted":
                    process.remember(message.body)
                case question if question in QUESTIONS:
                    self._scatter_gather.ask(process, message)
                case "answer":
                    self._scatter_gather.answer(process, message)
                case unknown:
                    # A bug of ours. It must not end serving workers.
                    log.error("message_unknown", kind=unknown, pid=process.pid)

    def _check_ready(self) -> None:
        """If all workers of a generation serve, end the previous generation."""
        if self._next is not None and self._next.ready:
            before, self._current, self._next = self._current, self._next, None
            before.release(keeper=self._current)
            self._drain(before, self._current)
            self._watch = self._current.plan.watch
            urls, workers = self._urls, len(self._current.slots)
            self._scatter_gather.reloaded("success")
            log.info("reloaded", listen=urls.front, admin=urls.admin, decision=urls.decision, workers=workers)
            self._report_ready()
        elif self._current.ready and not self._announced:
            self._announced = True
            self._scatter_gather.configuration_read()
            self._announce(self._urls)
            self._report_ready()

    def _reap(self) -> None:
        for process in list(self._processes):
            how = process.exit_status()
            if how is None:
                continue
            if not process.channel_ended:
                # Its last messages: its metrics, or why it could not start.
                self._handle_messages(process)
            if not process.channel_ended:
                self._selector.unregister(process.channel)
            process.channel.close()
            self._processes.remove(process)
            self._scatter_gather.process_ended(process)
            self._handle_end(process, process.failure or how)

    def _handle_end(self, process: Process, why: str) -> None:
        """React to the end of a worker."""
        if process.leaving:
            log.info("worker_ended", pid=process.pid, how=why)
        elif self._next is not None and self._next.slot_of(process) is not None:
            self._give_up_next(why)
        elif not self._announced:
            raise StartFailed(why)
        elif not self._stopping and (slot := self._current.slot_of(process)) is not None:
            now = time.monotonic()
            slot.process = None
            slot.failures = 1 if now - process.started >= STABLE_SECONDS else slot.failures + 1
            delay = min(FIRST_DELAY_SECONDS * 2 ** (slot.failures - 1), LONGEST_DELAY_SECONDS)
            slot.start_at = now + delay
            log.error("worker_crashed", pid=process.pid, how=why, restart_seconds=delay)

    def _drain(self, generation: Generation, successor: Generation | None = None) -> None:
        """Let a generation finish its requests in flight, and end."""
        taken_over = set() if successor is None else set(successor.sockets)
        for slot in generation.slots:
            if slot.process is not None:
                own = slot.listeners
                last = [name for name in FRONTS if taken_over.isdisjoint(getattr(own, name))]
                slot.process.leaving = True
                slot.process.kill_at = time.monotonic() + generation.plan.drain_timeout + FORCE_SECONDS
                slot.process.send(Message("drain", last))

    # Reload --------------------------------------------------------------------------------------

    def _reload(self) -> None:
        if self._stopping:
            return
        if self._next is not None or not self._announced:
            self._reload_again = True
            return
        self._notifier.reloading()
        try:
            plan = self._reread()
            # Whether files are watched at all is what the configuration in force says.
            if self._current.plan.watch.next_at is not None and plan.watch.next_at is not None:
                self._watch = plan.watch
            self._next = Generation.bind(plan, self._current)
            self._start_all(self._next)
        except PlanRefused as refused:
            self._keep_current(refused.problems)
        except OSError as error:
            self._give_up_next(str(error))
        except Exception as error:
            # A bug here must not end serving workers.
            log.exception("reload_failed")
            self._give_up_next(f"the gateway failed to apply it: {type(error).__name__}")

    def _give_up_next(self, why: str) -> None:
        """End the workers of the next generation."""
        generation, self._next = self._next, None
        if generation is not None:
            for process in generation.processes:
                process.leaving = True
                process.end_by_force()
            generation.release(keeper=self._current)
        # The configuration itself is in order: what stood in its way may pass, and no signal comes then.
        self._watch.retry(time.monotonic())
        self._keep_current([why])

    def _keep_current(self, problems: Sequence[str]) -> None:
        self._scatter_gather.reloaded("refused")
        log.error("reload_refused", problems=problems, detail="the previous configuration stays in force")
        self._report_ready()

    def _report_ready(self) -> None:
        """Report that the start or reload is over, and begin a reload that was requested meanwhile."""
        self._notifier.ready(f"listening on {self._urls.front}, admin on {self._urls.admin}")
        if self._reload_again:
            self._reload_again = False
            self._reload()

    @property
    def _urls(self) -> Urls:
        return next((process.urls for process in self._current.processes if process.ready), Urls("", ""))

    # Stop ----------------------------------------------------------------------------------------

    def _stop(self, name: str) -> None:
        log.info("stopping", signal=name)
        self._notifier.stopping()
        self._stopping = True
        if self._next is not None:
            self._give_up_next("the gateway stops")
        for process in self._current.processes:
            process.send(Message("retire"))
        self._drain_at = time.monotonic() + self._current.plan.shutdown_delay

    def _leave(self) -> None:
        """Stop accepting in all workers."""
        # Then only the workers hold their sockets, and they empty the queues.
        self._current.release()
        self._drain(self._current)
