"""The ring of the latest denials: bounded, without subjects, and in one order across processes."""

import hashlib
from typing import Any, cast

from gateway.core.model import Request
from gateway.core.reasons import ISSUER_UNTRUSTED, USER_SUSPENDED, Denial
from gateway.core.requests.token_marks import TokenMarks
from gateway.telemetry.denials import MAX_DETAIL, MAX_PATH, DenialFilter, DenialRing, ring_of
from gateway.telemetry.logs import RequestLog, SubjectStyle, hash_subject
from tests.fakes import Clock

ALL = DenialFilter(limit=1000)


def add(ring: DenialRing, reason: str = "user_suspended", *, target: str = "/x", detail: str = "why") -> None:
    ring.add(
        reason=reason,
        status=401,
        route="orders",
        issuer="main",
        subject_hash=None,
        method="GET",
        target=target,
        client="192.0.2.1",
        request_id="id",
        detail=detail,
        tier=None,
    )


def test_the_oldest_denials_are_dropped_first() -> None:
    ring = DenialRing(size=3)
    for number in range(5):
        add(ring, f"reason-{number}")
    assert [each.reason for each in ring.latest(ALL)] == ["reason-4", "reason-3", "reason-2"]


def test_ids_grow_even_if_the_clock_stops_or_goes_back() -> None:
    clock = Clock(1_700_000_000.0)
    ring = DenialRing(clock=clock)
    for step in (0, 0, -5, 0.000001):
        clock.now += step
        add(ring)
    ids = [each.id for each in reversed(ring.latest(ALL))]
    assert ids == sorted(set(ids))
    assert {ring_of(each) for each in ids} == {ring.name}


def test_earlier_denials_are_not_newer_than_the_present() -> None:
    clock = Clock(1_700_000_000.0)
    one, other = DenialRing(clock=clock), DenialRing(clock=clock)
    add(one)
    add(other)
    wanted = DenialFilter(limit=10, newer_than={"": one.present})
    assert one.latest(wanted) == other.latest(wanted) == []
    clock.now += 0.000002
    add(one)
    add(other)
    assert len(one.latest(wanted)) == len(other.latest(wanted)) == 1


def test_each_ring_continues_after_its_last_read_denial() -> None:
    one, other = DenialRing(), DenialRing()
    for ring in (one, other, one):
        add(ring)
    known = {"": "", one.name: one.latest(ALL)[0].id}
    assert one.latest(DenialFilter(limit=10, newer_than=known)) == []
    assert len(other.latest(DenialFilter(limit=10, newer_than=known))) == 1


def test_filters_and_pages() -> None:
    ring = DenialRing()
    for number in range(6):
        add(ring, "odd" if number % 2 else "even")
    odd = ring.latest(DenialFilter(limit=2, reason="odd"))
    assert [each.reason for each in odd] == ["odd", "odd"]
    assert len(ring.latest(DenialFilter(limit=9, reason="odd", older_than=odd[-1].id))) == 1
    assert (
        ring.latest(DenialFilter(limit=9, route="other"))
        == ring.latest(DenialFilter(limit=9, issuer="other"))
        == []
    )


def test_filters_hold_together() -> None:
    clock = Clock(1_700_000_000.0)
    ring = DenialRing(clock=clock)
    for number, client in enumerate(("192.0.2.1", "192.0.2.2", "192.0.2.1")):
        clock.now += 10
        ring.add(
            reason="user_suspended", status=401, route="orders", issuer="main", subject_hash=f"hash-{number}",
            method="GET", target="/", client=client, request_id=f"id-{number}", detail=None, tier=None,
            user_id=f"user-{number % 2}",
        )  # fmt: skip

    def found(**wanted: Any) -> list[str]:  # noqa: ANN401 -- fields of a filter
        return [each.request_id for each in ring.latest(DenialFilter(limit=9, **wanted))]

    assert found(request_id="id-1") == ["id-1"]
    assert found(subjects=("other", "hash-2")) == ["id-2"]
    assert found(user_id="user-0") == ["id-2", "id-0"]
    assert found(client="192.0.2.1") == ["id-2", "id-0"]
    assert found(since=clock.now - 10) == ["id-2", "id-1"]
    assert found(client="192.0.2.1", since=clock.now - 10, user_id="user-0") == ["id-2"]
    assert found(client="192.0.2.2", user_id="user-0") == []


def test_marks_of_the_token_are_kept_and_the_user_only_where_subjects_are() -> None:
    for subjects, user in (("hashed", "u1"), ("none", None)):
        denial = Denial(USER_SUSPENDED, issuer="main", subject="alice")
        denial.user_id = "u1"
        ring = DenialRing()
        fields = ((b"Authorization", b"Bearer a.b.c"),)
        request = Request("GET", "/", fields, "192.0.2.1", "http", "the-id")
        RequestLog(subjects=cast("SubjectStyle", subjects), ring=ring).denied(request, denial, "orders", 401)
        (record,) = ring.latest(ALL)
        assert record.user_id == user
        assert record.token == TokenMarks(hashlib.sha256(b"a.b.c").hexdigest()[:16])


def test_values_from_a_client_have_a_largest_size() -> None:
    ring = DenialRing()
    add(ring, target=f"/{'x' * 9000}?token=secret", detail="d" * 9000)
    (denial,) = ring.latest(ALL)
    assert (len(denial.path), len(denial.detail or "")) == (MAX_PATH, MAX_DETAIL)


def test_listeners_receive_denials_while_they_listen() -> None:
    ring, heard = DenialRing(), []
    with ring.heard_by(lambda: heard.append(1)):
        add(ring)
    add(ring)
    assert heard == [1]


def kept(subjects: SubjectStyle, denial: Denial) -> tuple[str | None, str, str]:
    ring = DenialRing()
    request = Request("GET", "/orders/1?access_token=secret", (), "192.0.2.1", "http", "the-id")
    RequestLog(subjects=subjects, ring=ring).denied(request, denial, "orders", 401)
    (record,) = ring.latest(ALL)
    return record.subject_hash, record.path, record.issuer


def test_the_log_fills_the_ring_without_plain_subjects() -> None:
    denial = Denial(USER_SUSPENDED, issuer="main", subject="alice")
    assert kept("hashed", denial) == kept("plain", denial) == (hash_subject("alice"), "/orders/1", "main")
    assert kept("none", denial) == (None, "/orders/1", "main")
    assert kept("plain", Denial(ISSUER_UNTRUSTED)) == (None, "/orders/1", "untrusted")
