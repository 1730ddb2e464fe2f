"""The arithmetic of one bucket, in tables."""

import math

import pytest

from gateway.limits.bucket import LONGEST_REFUSAL, SHORTEST_REFUSAL, Bucket, Share
from gateway.limits.ledger import LEASE_SECONDS, Ask, Grant
from gateway.limits.rules import Limit

RATE = Limit("rate", "user", "rate", 60, period=60.0, burst=40, slack=0.1)
QUOTA = Limit("quota", "user", "quota", 1000, slack=0.1)
SLOTS = Limit("slots", "user", "concurrency", 10)


def ask(
    bucket: Bucket, limit: Limit = RATE, now: float = 100.0, *, keep: bool = True, workers: int = 4
) -> Ask:
    return bucket.ask(limit, now, workers, "era", keep=keep, more=keep, ends=0.0)


def lent(tokens: int, limit: Limit = RATE, now: float = 100.0, left: int = 20) -> Bucket:
    """Return a bucket that has just been lent tokens in advance."""
    bucket = Bucket("ann")
    bucket.answered(limit, ask(bucket, limit, now), Grant(0, tokens, 7, left, 0.0), now, now)
    return bucket


def test_tokens_are_spent_until_the_lease_ends() -> None:
    bucket = lent(3)
    assert [bucket.take(RATE, 101.0) for _ in range(4)] == [True, True, True, False]
    # What another limit refused is spent of the lease by the next request.
    bucket.put_back(RATE)
    assert (bucket.tokens, bucket.running, ask(bucket, now=101.0).keep, ask(bucket, now=101.0).debt) == (
        1,
        0,
        1,
        0,
    )
    bucket = lent(3)
    assert bucket.take(RATE, 100.0 + LEASE_SECONDS - 0.01)
    assert not bucket.take(RATE, 100.0 + LEASE_SECONDS)


def test_the_next_account_tells_what_was_kept_or_given_back() -> None:
    bucket = lent(5)
    bucket.take(RATE, 100.5)
    kept = ask(bucket, now=101.0)
    assert (kept.registered, kept.epoch, kept.keep, kept.back) == (5, 7, 4, 0)
    bucket.answered(RATE, kept, Grant(0, 2, 8, 10, 0.0), 101.0, 101.1)
    given = ask(bucket, now=102.0, keep=False)
    assert (given.registered, given.epoch, given.keep, given.back) == (6, 8, 0, 6)
    assert bucket.tokens == 0


@pytest.mark.parametrize(
    ("spent", "seconds", "ahead"), [(0, 1.0, 0), (1, 8.0, 0), (1, 2.0, 2), (5, 1.0, 20), (5, 0.5, 40)]
)
def test_a_lease_is_sized_by_recent_demand(spent: int, seconds: float, ahead: int) -> None:
    bucket = lent(5)
    for _ in range(spent):
        bucket.take(RATE, 100.0)
    bucket.tokens = 0 if spent else bucket.tokens
    bucket._held = spent
    assert ask(bucket, now=100.0 + seconds).ahead == ahead


@pytest.mark.parametrize(
    ("wait", "remembered"), [(0.0, SHORTEST_REFUSAL), (0.5, 0.5), (60.0, LONGEST_REFUSAL)]
)
def test_a_refusal_is_remembered_until_the_next_token(wait: float, remembered: float) -> None:
    bucket = Bucket("ann")
    bucket.waiting = 1
    bucket.answered(RATE, ask(bucket), Grant(0, 0, 7, 0, wait), 100.0, 100.0)
    assert bucket.refused_until == pytest.approx(100.0 + remembered)
    assert bucket.retry_at == pytest.approx(100.0 + wait)


@pytest.mark.parametrize(
    ("total", "workers", "parts"), [(10, 4, [3, 3, 2, 2]), (2, 4, [1, 1, 0, 0]), (8, 1, [8]), (0, 2, [0, 0])]
)
def test_the_parts_of_all_workers_make_up_the_whole(total: int, workers: int, parts: list[int]) -> None:
    assert [Share(workers, rank, 1, 0.0).of(total) for rank in range(workers)] == parts


def test_a_share_begins_with_the_slack_and_fills_at_its_part_of_the_rate() -> None:
    bucket, share = Bucket("ann"), Share(4, 0, 1, since=100.0)
    assert bucket.take_local(RATE, 100.0, share)
    assert not bucket.take_local(RATE, 100.0, share)
    # A token of all comes each second, of each of four workers every four.
    assert bucket.retry_at == pytest.approx(104.0)
    assert not bucket.take_local(RATE, 103.9, share)
    assert bucket.take_local(RATE, 104.0, share)
    assert bucket.take_local(RATE, 1000.0, share)
    assert [bucket.take_local(RATE, 1000.0, share) for _ in range(10)].count(True) == 9


@pytest.mark.parametrize("limit", [RATE, QUOTA], ids=lambda limit: limit.name)
def test_what_another_limit_refused_is_not_spent_of_a_share(limit: Limit) -> None:
    bucket, share = Bucket("ann"), Share(4, 0, 1, since=100.0)
    bucket.begin("2026-11", 500.0)
    for _ in range(50):
        assert bucket.take_local(limit, 100.0, share)
        bucket.put_back(limit)
    assert not bucket.owes(limit, 100.0, "")
    assert ask(bucket, limit).debt == 0
    # Nor does it make the share larger.
    taken = [bucket.take_local(limit, 100.0, share) for _ in range(50)].count(True)
    assert taken == share.of(limit.extra)
    for _ in range(taken):
        bucket.put_back(limit)
    bucket._era = "before"
    assert ask(bucket, limit).debt == 0
    # Nor once a debt has been told, of which the answer is missing.
    assert bucket.take_local(limit, 100.0, share)
    assert ask(bucket, limit).debt == 1
    bucket.unanswered()
    bucket.put_back(limit)
    assert (ask(bucket, limit).debt, ask(bucket, limit).back) == (0, 0)


def test_an_outage_soon_after_another_one_gives_no_second_beginning() -> None:
    bucket = Bucket("ann")
    assert bucket.take_local(RATE, 100.0, Share(4, 0, 1, since=100.0))
    assert not bucket.take_local(RATE, 101.0, Share(4, 0, 2, since=101.0))
    assert bucket.take_local(RATE, 145.0, Share(4, 0, 3, since=145.0))


def test_debts_are_what_has_not_come_back() -> None:
    bucket, share = Bucket("ann"), Share(4, 0, 1, since=0.0)
    assert [bucket.take_local(RATE, 100.0, share) for _ in range(10)] == [True] * 10
    assert bucket.owes(RATE, 100.0, "era")
    assert ask(bucket, now=100.0).debt == 10
    # At a quarter of the rate, a token comes back every four seconds.
    assert ask(bucket, now=108.0).debt == 8
    bucket.answered(RATE, ask(bucket, now=108.0), Grant(0, 0, 7, 30, 0.0), 108.0, 108.0)
    assert not bucket.owes(RATE, 108.0, "era")
    assert ask(bucket, now=108.0).debt == 0


def test_a_redis_that_forgot_is_told_all_that_was_spent() -> None:
    bucket = lent(6, left=34)
    owed = []
    for _ in range(6):
        owed.append((bucket.owes(RATE, 100.0, "era"), bucket.owes(RATE, 100.0, "another")))
        bucket.take(RATE, 100.0)
    assert owed == [(False, False), *[(False, True)] * 5]
    settled = lent(6)
    settled.take(RATE, 100.0)
    settled.answered(RATE, ask(settled), Grant(0, 0, 7, 34, 0.0), 100.0, 100.0)
    assert settled.owes(RATE, 100.0, "another")
    told = bucket.ask(RATE, 100.0, 4, "another", keep=True, more=True, ends=0.0)
    assert told.debt == 6
    assert Bucket("ben").ask(RATE, 100.0, 4, "another", keep=True, more=True, ends=0.0).debt == 0
    shared = lent(0)
    for _ in range(3):
        assert shared.take_local(RATE, 100.0, Share(4, 0, 1, since=0.0))
    shared.put_back(RATE)
    assert shared.ask(RATE, 100.0, 4, "another", keep=True, more=True, ends=0.0).debt == 2


def test_a_quota_tells_what_it_knows_to_be_spent() -> None:
    bucket = Bucket("ann")
    bucket.begin("2026-11", 500.0)
    assert ask(bucket, QUOTA).seed == -1
    bucket.answered(QUOTA, ask(bucket, QUOTA), Grant(0, 0, 7, 900, 0.0), 100.0, 100.0)
    assert ask(bucket, QUOTA).seed == -1
    assert bucket.ask(QUOTA, 100.0, 4, "another", keep=True, more=True, ends=0.0).seed == 100
    assert (bucket.owes(QUOTA, 100.0, "era"), bucket.owes(QUOTA, 100.0, "another")) == (False, True)
    assert bucket.until == 100.0 + LEASE_SECONDS
    bucket.answered(QUOTA, ask(bucket, QUOTA), Grant(0, 1, 7, 900, 0.0), 499.0, 499.0)
    assert bucket.until == 500.0
    bucket.begin("2026-12", 900.0)
    assert (bucket.tokens, ask(bucket, QUOTA).seed, ask(bucket, QUOTA).registered) == (0, -1, 0)


def test_a_quota_has_its_slack_once_in_a_period() -> None:
    bucket = Bucket("ann")
    bucket.begin("2026-11", 500.0)
    taken = [bucket.take_local(QUOTA, 100.0, Share(4, 0, 1, 100.0)) for _ in range(30)]
    assert taken.count(True) == 25
    assert not bucket.take_local(QUOTA, 400.0, Share(4, 0, 2, 400.0))
    assert bucket.retry_at == 500.0


def test_an_answer_of_the_last_day_grants_nothing_of_the_next_one() -> None:
    bucket = Bucket("ann")
    bucket.begin("2026-11-29", 100.0)
    bucket.waiting = 3
    asked = ask(bucket, QUOTA, 99.9)
    bucket.begin("2026-11-30", 86_500.0)
    bucket.answered(QUOTA, asked, Grant(1, 4, 7, 0, 0.1), 99.9, 100.1)
    assert (bucket.tokens, bucket.left, bucket.refused_until) == (0, -1, -math.inf)
    following = ask(bucket, QUOTA, 100.2, keep=False)
    assert (following.period, following.want, following.back) == ("2026-11-30", 3, 0)
    assert following.registered == 0


def test_slots_that_run_are_kept_on_record() -> None:
    bucket = Bucket("ann")
    bucket.waiting = 2
    bucket.answered(SLOTS, ask(bucket, SLOTS), Grant(2, 0, 7, 8, 0.0), 100.0, 100.0)
    assert bucket.take(SLOTS, 100.0)
    assert bucket.take(SLOTS, 100.0)
    bucket.waiting = 0
    bucket.put_back(SLOTS)
    assert (bucket.tokens, bucket.running) == (1, 1)
    account = ask(bucket, SLOTS, 101.0)
    assert (account.registered, account.keep, account.back, account.debt) == (2, 1, 0, 0)


def test_slots_that_run_are_owed_while_redis_does_not_have_them() -> None:
    bucket = Bucket("ann")
    assert not bucket.owes(SLOTS, 100.0, "era")
    bucket.running = 1
    assert bucket.owes(SLOTS, 100.0, "era")
    bucket.running, bucket.waiting = 0, 1
    bucket.answered(SLOTS, ask(bucket, SLOTS), Grant(1, 0, 0, 9, 0.0), 100.0, 100.0)
    for running, after, era, owed in [
        (0, 100.0, "another", False), (1, 0.0, "era", False), (1, LEASE_SECONDS / 2, "era", False),
        (1, LEASE_SECONDS / 2 + 0.01, "era", True), (1, 0.0, "another", True), (2, 0.0, "era", True),
    ]:  # fmt: skip
        bucket.running = running
        assert bucket.owes(SLOTS, 100.0 + after, era) is owed


def test_an_answer_that_is_missing_leaves_the_tokens() -> None:
    bucket = lent(3)
    ask(bucket)
    bucket.unanswered()
    assert bucket.take(RATE, 101.0)
    account = ask(bucket)
    assert (account.registered, account.epoch) == (0, -1)


def test_a_new_bucket_has_nothing() -> None:
    bucket = Bucket("ann")
    assert not bucket.take(RATE, 0.0)
    assert bucket.remaining(RATE) == 0
    assert bucket.ends == math.inf
    assert not bucket.is_due(RATE)
    assert not bucket.owes(RATE, 0.0, "era")
    bucket.waiting = 1
    first = ask(bucket)
    assert (first.want, first.ahead) == (1, 0)
