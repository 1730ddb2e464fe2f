"""What the gateway promises of outages, and whether the answers of a run kept it.

docs/consistency.md has the promises in full, and the tests that look for what a minute does not show.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

BOUND: Final = 6.0
"""Seconds after the end of a fault until it must be as if there had been none."""

ALLOWED: Final = {
    "member": "200",
    "suspended": "401 user_suspended",
    "ghost": "401 user_not_found",
    "revoked": "401 token_revoked",
}
"""Who asks, and the answer without a fault."""
LEAVER: Final = "leaver"
"""A user who is suspended during each fault, and activated before the next one."""
NO_ANSWER: Final = "no answer"


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer. Times are seconds on a clock that only goes forward."""

    asked_at: float
    who: str
    label: str
    """The status, and for all but a success the reason."""
    took: float = 0.0
    """Seconds."""

    @property
    def status(self) -> str:
        """The status alone."""
        return self.label.partition(" ")[0]


@dataclass(slots=True)
class Phase:
    """A fault, or a time without one. Both ends are seconds."""

    title: str
    begins: float
    ends: float = float("inf")
    fault: str | None = None
    hides_changes: bool = False
    breaks_connections: bool = False
    suspended_at: float | None = None
    """When the leaver was suspended in it."""
    activated_at: float = float("inf")
    """When that was ended again, after the phase."""


@dataclass(slots=True)
class Run:
    """All that happened."""

    answers: list[Answer] = field(default_factory=list)
    phases: list[Phase] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Promise:
    """A promise, and what was seen."""

    text: str
    seen: str
    kept: bool


def judged(run: Run) -> list[Promise]:
    """Compare all answers with the promises."""
    return [_no_blame(run), _no_entry(run), _only_during_faults(run), _only_its_own(run), _changes(run)]


def _no_blame(run: Run) -> Promise:
    wrong = [
        answer
        for answer in run.answers
        if answer.who == "member" and answer.status not in {"200", "503"} and answer.label != NO_ANSWER
    ]
    asked = sum(answer.who == "member" for answer in run.answers)
    return Promise(
        "A fault is never the user's: who may pass gets 200 or 503, never 401, 403 or 404",
        f"{asked} requests, {_listed(wrong)}",
        not wrong,
    )


def _no_entry(run: Run) -> Promise:
    others = [answer for answer in run.answers if answer.who in ALLOWED and answer.who != "member"]
    wrong = [
        answer
        for answer in others
        if answer.label not in {ALLOWED[answer.who], NO_ANSWER} and answer.status != "503"
    ]
    return Promise(
        "No doubt is a yes: suspended, unknown and revoked get their 401 or 503, never 200",
        f"{len(others)} requests, {_listed(wrong)}",
        not wrong,
    )


def _listed(wrong: Sequence[Answer]) -> str:
    if not wrong:
        return "no other answer"
    return f"{len(wrong)} other answers: {', '.join(sorted({answer.label for answer in wrong}))}"


def _excused(phases: Iterable[Phase], moment: float) -> bool:
    """Tell whether there is a fault at a moment, or was one shortly before."""
    return any(phase.fault and phase.begins - 1 <= moment <= phase.ends + BOUND for phase in phases)


def _only_during_faults(run: Run) -> Promise:
    wrong = [
        answer
        for answer in run.answers
        if answer.status == "503" and not _excused(run.phases, answer.asked_at)
    ]
    count = sum(answer.status == "503" for answer in run.answers)
    slowest = max(((recovery(run, phase) or 0.0) for phase in run.phases if phase.fault), default=0.0)
    return Promise(
        f"503 is an answer during a fault and at most {BOUND:g} s after it",
        f"{count} times, {len(wrong)} of them at another time; the last one {slowest:.1f} s after a fault",
        not wrong,
    )


def _only_its_own(run: Run) -> Promise:
    lost = [answer for answer in run.answers if answer.label == NO_ANSWER]
    killed = [phase for phase in run.phases if phase.breaks_connections]
    wrong = [
        answer
        for answer in lost
        if not any(phase.begins - 1 <= answer.asked_at <= phase.ends for phase in killed)
    ]
    return Promise(
        "Only a killed worker breaks connections, and only its own",
        f"{len(lost)} requests without an answer, {len(wrong)} of them without such a fault",
        not wrong,
    )


def _changes(run: Run) -> Promise:
    delays = {phase.title: late for phase in run.phases if (late := delay(run, phase)) is not None}
    worst = max(delays, key=lambda title: delays[title], default=None)
    seen = "no user was suspended" if worst is None else f"at most {delays[worst]:.2f} s, with {worst}"
    return Promise(
        f"A suspension counts within {BOUND:g} s of when the gateway can learn of it",
        seen,
        all(late <= BOUND for late in delays.values()),
    )


def delay(run: Run, phase: Phase) -> float | None:
    """Return for how many seconds a suspension in a phase did not count though it could be learnt of."""
    if phase.suspended_at is None:
        return None
    known = max(phase.suspended_at, phase.ends) if phase.hides_changes else phase.suspended_at
    passed = [
        answer.asked_at - known
        for answer in run.answers
        if answer.who == LEAVER and answer.status == "200" and known <= answer.asked_at < phase.activated_at
    ]
    return max(passed, default=0.0)


def slowest(run: Run, phase: Phase) -> float:
    """Return the seconds that the slowest answer took to what was asked in a phase."""
    return max(
        (answer.took for answer in run.answers if phase.begins <= answer.asked_at < phase.ends), default=0.0
    )


def recovery(run: Run, phase: Phase) -> float | None:
    """Return how many seconds after its end a fault was last seen in an answer; None: it was never seen."""
    after = next((each for each in run.phases if each.begins >= phase.ends), None)
    ends = float("inf") if after is None else after.ends
    times = [
        answer.asked_at
        for answer in run.answers
        if answer.status == "503" and phase.begins <= answer.asked_at < ends
    ]
    return max(0.0, max(times) - phase.ends) if times else None
