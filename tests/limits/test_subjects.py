"""Whom a request counts for."""

from dataclasses import replace

import pytest

from gateway.core.admission import Admission, Decision, Forwarding
from gateway.core.headers import Fields
from gateway.core.model import JSON, Claims, Request, Resolution, Route, Tier, User, UserStatus
from gateway.limits.rules import Audience, Limit
from gateway.limits.subjects import digest_of, named, network_of, subject_of

REQUEST = Request("GET", "/", (), "192.0.2.7", "http", "id")
ROUTE = Route("orders", "/**", "raw")
FORWARDING = Forwarding(ROUTE, "GET", b"", b"", b"", None, None, Fields(b"", [], [], []))
ANONYMOUS = Admission(FORWARDING, b"")


CLAIMS = Claims("https://idp.example.com", "main", "ann", (), None, None, None, "acme", (), (), {})


def admission(user: User | None, *, tenant: str | None = "acme", **payload: JSON) -> Admission:
    claims = replace(CLAIMS, tenant=tenant, payload=payload)
    return Admission(
        FORWARDING, b"", claims, Decision(ROUTE, Resolution(user, Tier.LOCAL, None, Tier.LOCAL), b"")
    )


ANN = admission(User("7f", UserStatus.ACTIVE, "globex"), plan="pro", org={"id": 7}, list=["a"], no=0)
MISSING = admission(None)


@pytest.mark.parametrize(
    ("per", "of_ann", "of_missing", "of_anonymous"),
    [
        ("user", "7f", "main:ann", None),
        ("tenant", "globex", "acme", None),
        ("issuer", "main", "main", None),
        ("client", "192.0.2.7", "192.0.2.7", "192.0.2.7"),
        ("route", "orders", "orders", "orders"),
        ("claims.plan", "pro", None, None),
        ("claims.org.id", "7", None, None),
        ("claims./org/id", "7", None, None),
        ("claims.list", None, None, None),
        ("claims.no", "0", None, None),
    ],
)
def test_subjects(per: str, of_ann: str | None, of_missing: str | None, of_anonymous: str | None) -> None:
    find = subject_of(Limit("a", per, "rate", 1))
    found = [find(REQUEST, each) for each in (ANN, MISSING, ANONYMOUS)]
    assert found == [of_ann, of_missing, of_anonymous]


@pytest.mark.parametrize(
    ("counts", "counted"),
    [("all", [True, True]), ("authenticated", [True, False]), ("anonymous", [False, True])],
)
def test_which_requests_count(counts: Audience, counted: list[bool]) -> None:
    find = subject_of(Limit("a", "client", "rate", 1, counts=counts))
    assert [find(REQUEST, each) is not None for each in (ANN, ANONYMOUS)] == counted


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::ffff", "2001:db8:1:2::/64"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("64:ff9b::192.0.2.7", "192.0.2.7"),
        ("64:ff9b::c000:207%1", "192.0.2.7"),
        ("64:ff9b:1::192.0.2.7", "64:ff9b:1::/64"),
        ("", ""),
        ("fe80::1%eth0", "fe80::/64"),
        (":odd:", ":odd:"),
    ],
)
def test_a_client_is_an_address_or_a_network(address: str, network: str) -> None:
    assert network_of(address) == network


@pytest.mark.parametrize("per", ["user", "tenant", "claims.x"])
def test_a_subject_has_a_bounded_length(per: str) -> None:
    """A token has up to 8 KiB, of which a worker would remember 100,000."""
    long = "x" * 5000
    claims = replace(CLAIMS, subject=long, tenant=long, payload={"x": long})
    asked = replace(MISSING, claims=claims)
    found = subject_of(Limit("a", per, "rate", 1))(REQUEST, asked)
    assert found is not None
    assert len(found) < 64
    assert named(found) == found != named(long + "x")


def test_a_digest_says_nothing_of_its_subject() -> None:
    assert digest_of("ann") != digest_of("ann ")
    assert len(digest_of("ann@example.com" * 100)) == 32
    digest_of("\ud800")
