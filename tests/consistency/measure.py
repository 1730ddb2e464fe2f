"""How soon changes counted, away from faults."""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Sequence

from tests.consistency.checker import HEALTHY, Faults
from tests.consistency.history import Answer, Change, History


def delays(history: History, faults: Faults, store: str) -> dict[str, list[float]]:
    """Return the seconds from commits to the first answer by the new state, and to the last by the old."""
    by_jti: dict[str, list[Answer]] = defaultdict(list)
    for answer in sorted(history.answers, key=lambda answer: answer.begin):
        by_jti[answer.jti].append(answer)
    by_fact: dict[str, list[Change]] = defaultdict(list)
    for change in sorted(history.changes, key=lambda change: change.sent):
        if change.store == store:
            by_fact[change.fact].append(change)

    found: dict[str, list[float]] = {"first refusal": [], "last request answered by the old state": []}
    for changes in by_fact.values():
        ends = [change.sent for change in changes[1:]] + [float("inf")]
        for before, change, until in zip([None, *changes], changes, ends, strict=False):
            if change.done is None or faults.near(change.sent, change.done + HEALTHY):
                continue
            old = None if before is None else before.code
            if old == change.code:
                continue
            answers = [
                answer
                for jti in change.jtis
                for answer in _between(by_jti[jti], change.sent, until)
                if answer.end < until and not faults.near(answer.begin, answer.end)
            ]
            refused = [answer.end for answer in answers if change.code and answer.code == change.code]
            if refused:
                found["first refusal"].append(max(0.0, min(refused) - change.done))
            late = [
                answer.begin - change.done
                for answer in answers
                if answer.code == old and (old is not None or answer.status == 200)
            ]
            found["last request answered by the old state"].append(max([0.0, *late]))
    return found


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the value that so many percent do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


def _between(answers: Sequence[Answer], begin: float, end: float) -> Sequence[Answer]:
    """Return the answers, ordered by begin, that began in this time."""
    first = bisect_left(answers, begin, key=lambda answer: answer.begin)
    last = bisect_left(answers, end, key=lambda answer: answer.begin)
    return answers[first:last]
