"""Scatter-gather: one worker asks and all workers answer, for metrics, readiness and denials.

The history of the metrics is kept here, because it outlasts the workers.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from gateway.admin.health import CHECK_SECONDS
from gateway.telemetry.history import MINUTES, SECONDS, Counts, History
from gateway.telemetry.history import pack as pack_spans
from gateway.telemetry.series import Counter, Gauge, Snapshot, add_up
from gateway.workers.messages import Message, pack
from gateway.workers.process import Process

GATHER_SECONDS: Final = CHECK_SECONDS + 0.5
"""How long a worker may take to answer. It may have to wait for a dependency that does not answer. After
that, the metrics that it reported last count."""
_FIRST_SECONDS: Final = 1.0


@dataclass(eq=False, slots=True)
class _Question:
    """A question of one worker, and the workers that have not answered yet."""

    kind: str
    asker: Process
    number: int
    waiting: set[Process]
    deadline: float
    answers: list[object] = field(default_factory=list)


class ScatterGather:
    """Gathers the answers of the running processes, and keeps the counts of ended ones."""

    def __init__(self, processes: Callable[[], Sequence[Process]]) -> None:
        self._processes = processes
        self._questions: dict[int, _Question] = {}
        self._last = 0
        self._ended: list[Snapshot] = []
        self.history = History()
        self.sample_at = 0.0
        """When the history is to be continued, in monotonic seconds."""
        self.restarts = Counter("gateway_worker_restarts", "Workers started because another had crashed.")
        self.restarts.inc(by=0)
        self._reloads = Counter(
            "gateway_config_reloads", "Reloads of the configuration, by their result.", ["result"]
        )
        for result in ("success", "refused"):
            self._reloads.inc((result,), by=0)
        self._read_at = Gauge(
            "gateway_config_last_reload_success_timestamp_seconds",
            "When the configuration in force was read, at the start or by a reload.",
        )

    def configuration_read(self) -> None:
        """Note that a configuration is in force from now on."""
        self._read_at.values[()] = time.time()

    def reloaded(self, result: Literal["success", "refused"]) -> None:
        """Count a reload."""
        self._reloads.inc((result,))
        if result == "success":
            self.configuration_read()

    def ask(self, asker: Process, message: Message) -> None:
        """Pass a worker's question to all other serving workers, or answer it."""
        if message.kind == "history":
            minutes = message.body if isinstance(message.body, int) else MINUTES
            spans = pack_spans(self.history.latest(minutes))
            asker.send(Message("answer", spans, message.number))
            return
        if message.kind == "totals":
            asker.remember(message.body)
        others = {each for each in self._processes() if each is not asker and each.ready}
        deadline = time.monotonic() + GATHER_SECONDS
        self._last += 1
        question = _Question(message.kind, asker, message.number, others, deadline)
        self._questions[self._last] = question
        question_to_one = (
            Message("counted", None, self._last)
            if message.kind == "totals"
            else Message(message.kind, message.body, self._last)
        )
        for other in others:
            other.send(question_to_one)
        self._finish_if_complete(self._last)

    def answer(self, process: Process, message: Message) -> None:
        """Take one worker's answer."""
        question = self._questions.get(message.number)
        if question is None:
            return
        if question.kind == "totals":
            process.remember(message.body)
        question.answers.append(message.body)
        question.waiting.discard(process)
        self._finish_if_complete(message.number)

    def process_ended(self, process: Process) -> None:
        """Keep the counts of a process that has ended, and expect no answer from it."""
        counted = [snapshot for snapshot in process.counted if snapshot.kind != "gauge"]
        self._ended = add_up([self._ended, counted])
        for number, question in list(self._questions.items()):
            question.waiting.discard(process)
            self._finish_if_complete(number)

    def sample(self, now: float) -> None:
        """Continue the history once a minute; sooner while no worker has counted anything yet."""
        if now >= self.sample_at:
            counts = Counts.of(self._totals())
            self.history.add(counts)
            self.sample_at = now + (_FIRST_SECONDS if counts is None else SECONDS)

    @property
    def deadlines(self) -> Iterator[float]:
        for question in self._questions.values():
            yield question.deadline

    def expire(self, now: float) -> None:
        """Answer the questions whose deadline has passed with the answers so far."""
        for number, question in list(self._questions.items()):
            if question.deadline <= now:
                question.waiting.clear()
                self._finish_if_complete(number)

    def _finish_if_complete(self, number: int) -> None:
        question = self._questions[number]
        if question.waiting:
            return
        del self._questions[number]
        body = pack(self._totals()) if question.kind == "totals" else question.answers
        question.asker.send(Message("answer", body, question.number))

    def _totals(self) -> list[Snapshot]:
        own = [each.snapshot() for each in (self.restarts, self._reloads, self._read_at)]
        return add_up([self._ended, own, *(process.counted for process in self._processes())])
