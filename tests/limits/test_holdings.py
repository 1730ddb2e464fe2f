"""What workers know of budgets: of each bucket, and of several workers together."""

import json
from dataclasses import replace
from typing import cast

import pytest

from gateway.limits import budget
from gateway.limits.bucket import STREAK, Bucket, Share
from gateway.limits.budget import BudgetBucket
from gateway.limits.holdings import (
    SPENT,
    Account,
    Holdings,
    Sum,
    holdings_of,
    pack,
    shown,
    together,
    unpack,
)
from gateway.limits.lease_manager import LeaseManager
from gateway.limits.ledger import Grant, Ledger, Usages
from tests.limits.test_bucket import QUOTA, RATE, SLOTS, ask, lent

ANN = Account("rate", "ann", None, 0.0, 0, 0, None, 0.0)


def known(*accounts: Account, shared: bool = True) -> Holdings:
    return Holdings(shared, {"rate": Sum(3, 2, 0, 1)}, accounts)


def test_a_bucket_knows_what_was_left_and_what_has_come_since() -> None:
    assert Bucket("ann").known(RATE, 100.0) is None
    bucket = lent(5, left=20)
    assert bucket.known(RATE, 103.0) == (23, 3.0)
    assert bucket.known(RATE, 10_000.0) == (RATE.burst - 5, 9900.0)
    day = lent(5, QUOTA, left=600)
    day.ends = 200.0
    assert [day.known(QUOTA, now) for now in (103.0, 200.0)] == [(600, 3.0), (1000, 0.0)]


def test_refusals_that_follow_each_other_have_one_beginning() -> None:
    bucket = lent(0)
    assert not bucket.is_throttled(100.0)
    for now in (100.0, 101.5, 101.5 + STREAK):
        bucket.waiting = 1
        bucket.answered(RATE, ask(bucket, now=now), Grant(0, 0, 7, 0, 1.0), now, now)
        assert (bucket.refused_since, bucket.is_throttled(now)) == (100.0, True)
    later = 101.5 + 2 * STREAK + 1.0
    assert not bucket.is_throttled(later)
    bucket.refuse(later, 0.5)
    assert bucket.refused_since == later
    bucket.pardon()
    assert not bucket.is_throttled(later)


def test_what_two_workers_know_of_one_subject_is_one_account() -> None:
    one = replace(ANN, left=10, age=2.0, held=3, refused_for=1.0, again_in=4.0)
    other = replace(ANN, left=7, age=0.5, held=2, refused_for=9.0)
    unknown = replace(ANN, held=1)
    gone = replace(ANN, limit="gone")
    more = replace(known(other, gone), sums={"rate": Sum(5, 2, 1, 4)})
    without = Holdings(True, {}, [])
    found = together([RATE], [known(one), more, known(unknown, shared=False), without])
    assert found.accounts == [replace(one, left=7, age=0.5, held=6, refused_for=9.0)]
    assert (found.shared, found.sums) == (False, {"rate": Sum(5, 6, 1, 4)})
    assert found.accounts[0].spent(RATE) == RATE.burst - 7 - 6
    assert (unknown.spent(RATE), replace(ANN, running=4).spent(SLOTS)) == (None, 4)


async def test_a_worker_tells_what_it_holds_and_whom_it_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "_SLICE", 2)
    manager = LeaseManager([RATE, SLOTS], cast("Ledger", None), cast("Usages", None), clock=lambda: 100.0)
    for number in range(5):
        bucket = manager.budgets["rate"].bucket(f"user-{number}")
        bucket.tokens, bucket.until = number, 100.0 if number == 4 else 101.0
        if number < 3:
            bucket.refuse(99.0 - number, 2.0)
    lease = lent(2, left=20)
    manager.budgets["rate"].buckets.put("ann", cast("BudgetBucket", lease))
    manager.budgets["slots"].bucket("ann").running = 3
    found = await holdings_of(manager)
    assert found.sums == {"rate": Sum(6, 0 + 1 + 2 + 3 + 2, 0, 3), "slots": Sum(1, 0, 3, 0)}
    rate = "rate"
    assert found.accounts == [
        Account(rate, "ann", 20, 0.0, 2, 0, None, 0.0),
        Account("slots", "ann", None, 0.0, 0, 3, None, 0.0),
        *(
            Account(rate, f"user-{each}", None, 0.0, each, 0, 1.0 + each, max(0.0, 1.0 - each))
            for each in (2, 1, 0)
        ),
    ]
    for share, shared in ((None, True), (Share(1, 0, 1, 100.0), False)):
        manager.share = share
        assert (await holdings_of(manager)).shared is shared


def test_few_of_many_are_listed() -> None:
    spent = [replace(ANN, subject=f"{number}", left=number % 40) for number in range(200)]
    found = together([RATE], [known(*spent)])
    assert [each.left for each in found.accounts] == [*[0] * 5, *[1] * 5]
    assert len(found.accounts) == SPENT


@pytest.mark.parametrize("subject", ["ann", "k" * 3000, "\ud800x"])
def test_holdings_travel_between_processes(subject: str) -> None:
    found = known(replace(ANN, subject=subject, left=3, refused_for=0.5))
    assert unpack(json.loads(json.dumps(pack(found)))) == Holdings(True, found.sums, [*found.accounts])
    assert len(shown(subject).encode()) <= 255 + len("…".encode())
    assert shown(subject).startswith(subject[:1].encode("utf-8", "replace").decode())
    assert shown("k" * 255) == "k" * 255
    assert shown("k" * 256) == "k" * 255 + "…"
