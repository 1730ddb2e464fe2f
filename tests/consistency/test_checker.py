"""Histories written by hand: violations that the checker must find, and histories that it must accept."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import pytest

from tests.consistency.checker import CUT, FAULTY, HEALTHY, LEARNT, Faults, Rule, check
from tests.consistency.history import ROW, Answer, Change, Fault, History, Store
from tests.consistency.measure import delays, percentile

T: Final = "token"
USER: Final = "a-user"
CODE: Final = "user_suspended"


def found(
    answers: Sequence[Answer], changes: Sequence[Change] = (), faults: Sequence[Fault] = ()
) -> list[Rule]:
    history = History("seed", {T: USER}, 0.0, list(answers), list(changes), list(faults))
    return [violation.rule for violation in check(history)]


def allowed(begin: float, lasting: float = 0.01) -> Answer:
    return Answer(begin, begin + lasting, T, 200, user=USER)


def denied(begin: float, code: str = CODE, lasting: float = 0.01) -> Answer:
    return Answer(begin, begin + lasting, T, 401, code)


def change(code: str | None, sent: float, done: float | None, *, store: Store = "postgres") -> Change:
    return Change("the fact", store, frozenset({T}), code, sent, done)


def fault(kind: str, begin: float, end: float, *, outage: bool = True, harmless: bool = False) -> Fault:
    target: Store = "redis" if "redis" in kind else "postgres"
    return Fault(kind, target, begin, end, outage, harmless)


SUSPENDED: Final = change(CODE, 9.9, 10.0)


def test_an_unchanged_user_is_let_through() -> None:
    assert found([allowed(1), allowed(2)]) == []


@pytest.mark.parametrize("status", [401, 403])
def test_a_denial_without_a_reason_is_found(status: int) -> None:
    assert found([Answer(1, 1.1, T, status, CODE)]) == ["refused"]


def test_the_old_state_may_decide_until_the_bound_and_no_longer() -> None:
    assert found([allowed(10.0 + HEALTHY - 0.01)], [SUSPENDED]) == []
    assert found([allowed(10.0 + HEALTHY + 0.01)], [SUSPENDED]) == ["stale"]


def test_a_lifted_row_counts_from_when_redis_can_be_reached() -> None:
    row = [replace(change("token_revoked", 1.0, 1.1), fact=f"{ROW}{T}")]
    row.append(replace(change(None, 10.0, 10.1), fact=f"{ROW}{T}"))
    away = [fault("redis away", 9.0, 30.0)]
    late = 30.0 + FAULTY
    assert found([denied(late - 0.01, "token_revoked")], row, away) == []
    assert found([denied(late + 0.01, "token_revoked")], row, away) == ["refused"]
    # Another store's outage is no excuse, and users are not mirrored.
    away = [fault("postgres slow", 9.0, 30.0, outage=False)]
    assert found([denied(29.0, "token_revoked")], row, away) == ["fault_became_denial"]
    user = [change(CODE, 1.0, 1.1), change(None, 10.0, 10.1)]
    assert found([denied(29.0)], user, [fault("redis away", 9.0, 30.0)]) == ["fault_became_denial"]


def test_what_counts_is_the_begin_of_the_request() -> None:
    assert found([allowed(10.5, lasting=5.0)], [SUSPENDED]) == []


def test_the_new_state_may_decide_from_when_it_was_sent() -> None:
    assert found([denied(9.95)], [SUSPENDED]) == []
    assert found([denied(9.8, lasting=0.2)], [SUSPENDED]) == []
    assert found([denied(9.8)], [SUSPENDED]) == ["refused"]


def test_a_denial_must_be_for_the_reason_that_there_is() -> None:
    assert found([denied(12)], [SUSPENDED]) == []
    assert found([denied(12, "token_revoked")], [SUSPENDED]) == ["refused"]


def test_a_user_restored_is_refused_until_the_bound_and_no_longer() -> None:
    changes = [SUSPENDED, change(None, 19.9, 20.0)]
    assert found([denied(20.0 + HEALTHY - 0.01)], changes) == []
    assert found([denied(20.0 + HEALTHY + 0.01)], changes) == ["refused"]


def test_a_state_that_was_over_does_not_come_back_with_the_next_change() -> None:
    changes = [SUSPENDED, change("user_locked", 19.9, 20.0)]
    assert found([denied(20.5), denied(20.5, "user_locked")], changes) == []
    assert found([allowed(20.5)], changes) == ["stale"]


def test_between_changes_in_quick_succession_any_of_them_may_decide() -> None:
    changes = [SUSPENDED, change(None, 10.1, 10.2), change("user_locked", 10.3, 10.4)]
    assert found([allowed(10.9), denied(10.9), denied(10.9, "user_locked")], changes) == []
    assert found([allowed(11.3), denied(11.3)], changes) == ["refused"]


def test_a_change_of_unknown_outcome_may_hold_or_not_until_the_next() -> None:
    changes = [change(CODE, 9.9, None), change("user_locked", 99.0, 99.1)]
    assert found([allowed(50), denied(50)], changes) == []
    assert found([allowed(101), denied(102)], changes) == ["stale", "refused"]


def test_facts_are_independent() -> None:
    other = Change("another fact", "redis", frozenset({T}), "token_revoked", 9.9, 10.0)
    assert found([denied(15), denied(15, "token_revoked")], [SUSPENDED, other]) == []
    assert found([allowed(15)], [SUSPENDED, other]) == ["stale"]


def test_what_is_about_another_token_is_no_reason() -> None:
    other = Change("another fact", "redis", frozenset({"another"}), "token_revoked", 9.9, 10.0)
    assert found([denied(15, "token_revoked")], [other]) == ["refused"]


def test_a_fault_allows_more_time_and_no_more() -> None:
    faults = [fault("freeze redis", 10.5, 30.0)]
    assert found([allowed(10.0 + FAULTY - 0.1)], [SUSPENDED], faults) == []
    assert found([allowed(10.0 + FAULTY + 0.1)], [SUSPENDED], faults) == ["stale"]


def test_after_recovery_from_a_fault_the_bound_is_the_usual_one() -> None:
    faults = [fault("freeze redis", 1.0, 9.8 - FAULTY)]
    assert found([allowed(10.0 + HEALTHY + 0.1)], [SUSPENDED], faults) == ["stale"]


def test_a_change_that_cannot_be_seen_counts_from_when_it_can() -> None:
    faults = [fault("unplug", 5.0, 30.0)]
    assert found([allowed(30.0 + FAULTY - 0.1)], [SUSPENDED], faults) == []
    assert found([allowed(30.0 + FAULTY + 0.1)], [SUSPENDED], faults) == ["stale"]


def test_connections_that_are_cut_are_noticed_at_once() -> None:
    faults = [fault("cut", 9.5, 9.5)]
    assert found([allowed(10.0 + CUT - 0.1)], [SUSPENDED], faults) == []
    assert found([allowed(10.0 + CUT + 0.1)], [SUSPENDED], faults) == ["stale"]
    answers = [Answer(time, time + 0.1, T, 503, "user_store_unavailable") for time in (9.6, 9.6 + CUT)]
    assert found(answers, (), faults) == ["unavailable"]
    # Unless there is more than that.
    faults += [fault("mute redis", 10.5, 12.0, outage=False)]
    assert found([allowed(10.0 + FAULTY - 0.1)], [SUSPENDED], faults) == []
    assert found([allowed(10.0 + FAULTY + 0.1)], [SUSPENDED], faults) == ["stale"]


def test_an_outage_that_comes_before_a_change_could_be_seen_delays_it_again() -> None:
    faults = [fault("cut", 5.0, 10.5), fault("unplug", 12.0, 30.0)]
    assert found([allowed(30.0 + FAULTY - 0.1)], [SUSPENDED], faults) == []
    assert found([allowed(30.0 + FAULTY + 0.1)], [SUSPENDED], faults) == ["stale"]


def test_a_slow_store_is_not_an_outage() -> None:
    faults = [fault("delay", 5.0, 30.0, outage=False)]
    assert found([allowed(10.0 + FAULTY + 0.1)], [SUSPENDED], faults) == ["stale"]


REVOKED: Final = change("token_revoked", 9.9, 10.0, store="redis")


def test_a_revocation_in_redis_alone_needs_redis_until_it_is_learnt() -> None:
    faults = [fault("unplug redis", 10.0 + LEARNT - 0.1, 20.0)]
    assert found([allowed(15), denied(15, "token_revoked")], [REVOKED], faults) == []
    assert found([allowed(20.0 + FAULTY + 0.1)], [REVOKED], faults) == ["stale"]
    assert found([allowed(10.0 + HEALTHY + 0.1)], [REVOKED]) == ["stale"]


def test_a_learnt_revocation_counts_even_if_redis_loses_it() -> None:
    faults = [fault("unplug redis", 20.0, 25.0)]
    assert found([allowed(22), denied(22, "token_revoked")], [REVOKED], faults) == ["stale"]
    lost = replace(change(None, 20.0, 20.1, store="redis"), lost=True)
    assert found([allowed(22), allowed(60), denied(60, "token_revoked")], [REVOKED, lost], faults) == [
        "stale",
        "stale",
    ]


def test_a_revocation_that_was_lost_unlearnt_may_count_or_not() -> None:
    faults = [fault("flush redis", 11.0, 11.1)]
    lost = replace(change(None, 11.0, 11.1, store="redis"), lost=True)
    assert found([allowed(22), denied(22, "token_revoked")], [REVOKED, lost], faults) == []
    again = change("token_revoked", 29.9, 30.0, store="redis")
    assert found([allowed(32)], [REVOKED, lost, again], faults) == ["stale"]


def test_a_deleted_revocation_no_longer_counts_unless_the_deletion_may_have_been_missed() -> None:
    deleted = change(None, 19.9, 20.0, store="redis")
    assert found([denied(22, "token_revoked")], [REVOKED, deleted]) == ["refused"]
    faults = [fault("unplug redis", 19.0, 20.5)]
    assert found([denied(60, "token_revoked"), allowed(60)], [REVOKED, deleted], faults) == []
    again = change("token_revoked", 69.9, 70.0, store="redis")
    assert found([allowed(72)], [REVOKED, deleted, again], faults) == ["stale"]


def test_a_revocation_that_is_deleted_while_it_is_learnt_may_count_until_it_is() -> None:
    deleted = change(None, 10.1, 10.2, store="redis")
    assert found([denied(10.2 + HEALTHY + 0.1, "token_revoked")], [REVOKED, deleted]) == []
    assert found([denied(10.2 + LEARNT + 0.1, "token_revoked")], [REVOKED, deleted]) == ["refused"]


def test_a_stream_that_falls_silent_is_noticed_and_no_outage() -> None:
    faults = [fault("deaf", 9.0, 60.0, outage=False)]
    assert found([allowed(10.0 + FAULTY - 0.1)], [SUSPENDED], faults) == []
    assert found([allowed(10.0 + FAULTY + 0.1)], [SUSPENDED], faults) == ["stale"]
    revoked = change("token_revoked", 9.9, 10.0, store="redis")
    faults = [fault("deaf redis", 9.0, 60.0, outage=False)]
    assert found([allowed(10.0 + FAULTY - 0.1)], [revoked], faults) == []
    assert found([allowed(10.0 + FAULTY + 0.1)], [revoked], faults) == ["stale"]


@pytest.mark.parametrize("store", ["postgres", "redis"])
def test_without_both_stores_nothing_new_is_known(store: Store) -> None:
    change_of = change("token_revoked", 9.9, 10.0, store=store)
    apart = [Fault("cut off", "both stores", 5.0, 30.0)]
    assert found([allowed(30.0 + FAULTY - 0.1)], [change_of], apart) == []
    assert found([allowed(30.0 + FAULTY + 0.1)], [change_of], apart) == ["stale"]


def test_what_is_harmless_changes_no_bound() -> None:
    harmless = [fault("bulk changes", 5.0, 30.0, outage=False, harmless=True)]
    assert found([allowed(10.0 + HEALTHY + 0.1)], [SUSPENDED], harmless) == ["stale"]
    unavailable = [Answer(6, 6.1, T, 503, "user_store_unavailable")]
    assert found(unavailable, (), harmless) == ["unavailable"]


def test_a_revocation_in_postgres_outlives_redis() -> None:
    faults = [fault("restart empty redis", 20.0, 25.0)]
    assert found([allowed(22)], [SUSPENDED], faults) == ["stale"]


def test_a_fault_is_never_a_denial() -> None:
    faults = [fault("unplug", 5.0, 30.0)]
    assert found([denied(10, "user_not_found")], (), faults) == ["fault_became_denial"]


def test_unavailable_is_an_answer_during_a_fault_and_recovery_alone() -> None:
    faults = [fault("unplug", 5.0, 7.0)]
    times = (4.0, 6.0, 7.0 + FAULTY - 0.1, 7.0 + FAULTY + 0.1)
    answers = [Answer(time, time + 0.1, T, 503, "user_store_unavailable") for time in times]
    assert found(answers, (), faults) == ["unavailable", "unavailable"]


@pytest.mark.parametrize("status", [0, 404, 500, 502, 504])
def test_nothing_else_is_an_answer_even_during_a_fault(status: int) -> None:
    assert found([Answer(6, 6.1, T, status, "other")], (), [fault("unplug", 5.0, 7.0)]) == ["broken"]


def test_a_worker_that_is_killed_breaks_connections() -> None:
    killed = Fault("kill worker", "worker", 5.0, 6.0)
    broken = [Answer(time, time + 0.1, T, 0, "reset") for time in (5.5, 7.0)]
    assert found(broken, (), [killed]) == ["broken"]


def test_a_user_let_through_as_another_is_found() -> None:
    assert found([Answer(1, 1.1, T, 200, user="somebody else")]) == ["impostor"]


def test_delays_are_measured_where_no_fault_is_near() -> None:
    answers = [allowed(10.02), denied(10.03), allowed(10.04), denied(10.05), allowed(20.01)]
    changes = [SUSPENDED, change(None, 19.9, 20.0)]
    history = History("seed", {T: USER}, 0.0, answers, changes)
    measured = delays(history, Faults([]), "postgres")
    assert measured["first refusal"] == [pytest.approx(0.04)]
    assert measured["last request answered by the old state"] == [pytest.approx(0.04), 0.0]
    near = [fault("unplug", 15.0, 15.1)]
    assert delays(history, Faults(near), "postgres")["first refusal"] == [pytest.approx(0.04)]
    assert len(delays(history, Faults(near), "postgres")["last request answered by the old state"]) == 1
    assert delays(history, Faults([]), "redis")["first refusal"] == []


def test_percentiles() -> None:
    values = [float(number) for number in range(100, 0, -1)]
    assert (percentile(values, 50), percentile(values, 99), percentile([7.0], 99)) == (51.0, 100.0, 7.0)
