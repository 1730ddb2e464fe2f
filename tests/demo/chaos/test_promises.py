"""What a run says of the promises, by histories that are written down."""

import pytest

from gateway.demo.chaos.promises import LEAVER, NO_ANSWER, Answer, Phase, Run, delay, judged, recovery

BLAME, ENTRY, FAULT, LOST, CHANGE = range(5)


def run(*answers: tuple[float, str, str], **changes: object) -> Run:
    """Return a history: a fault from 10 to 20, and nothing before and after it."""
    fault = Phase("Redis gone", 10, 20, fault="redis-gone", suspended_at=11, activated_at=28)
    for name, value in changes.items():
        setattr(fault, name, value)
    phases = [Phase("no fault", 0, 10), fault, Phase("no fault", 20, 30)]
    return Run([Answer(*answer) for answer in answers], phases)


GOOD = (
    (1.0, "member", "200"),
    (1.0, "suspended", "401 user_suspended"),
    (1.0, "ghost", "401 user_not_found"),
    (1.0, "revoked", "401 token_revoked"),
    (12.0, "member", "200 stale"),
    (12.0, "ghost", "503 user_store_unavailable"),
    (21.0, "member", "503 revocation_unavailable"),
    (11.5, LEAVER, "200"),
    (12.0, LEAVER, "401 user_suspended"),
)


def test_all_is_kept() -> None:
    history = run(*GOOD)
    assert [promise.kept for promise in judged(history)] == [True] * 5
    assert delay(history, history.phases[1]) == 0.5
    assert recovery(history, history.phases[1]) == 1.0


@pytest.mark.parametrize(
    ("answer", "broken"),
    [
        ((12.0, "member", "401 user_not_found"), BLAME),
        ((12.0, "member", "502 upstream_unreachable"), BLAME),
        ((12.0, "suspended", "200"), ENTRY),
        ((12.0, "revoked", "200 stale"), ENTRY),
        ((12.0, "ghost", "401 user_suspended"), ENTRY),
        ((5.0, "ghost", "503 overloaded"), FAULT),
        ((26.5, "member", "503 revocation_unavailable"), FAULT),
        ((12.0, "member", NO_ANSWER), LOST),
        ((17.5, LEAVER, "200"), CHANGE),
    ],
)
def test_answers_that_break_a_promise(answer: tuple[float, str, str], broken: int) -> None:
    kept = [promise.kept for promise in judged(run(*GOOD, answer))]
    assert [place for place, each in enumerate(kept) if not each] == [broken]


def test_answers_that_a_fault_excuses() -> None:
    killed = run(*GOOD, (12.0, "member", NO_ANSWER), breaks_connections=True)
    assert all(promise.kept for promise in judged(killed))
    # While Postgres cannot be reached, nothing can be learnt from it.
    hidden = run(*GOOD, (19.0, LEAVER, "200 stale"), (20.5, LEAVER, "200"), hides_changes=True)
    assert all(promise.kept for promise in judged(hidden))
    assert delay(hidden, hidden.phases[1]) == 0.5
