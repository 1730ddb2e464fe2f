"""When a revocation applies to a token, and what several of them mean together."""

import pytest

from gateway.core.revocations import Revocation, Revocations, counts, hits, strongest


@pytest.mark.parametrize(
    ("revocations", "issued_at", "expected", "of_anyone"),
    [
        (Revocations(), 10.0, None, None),
        (Revocations(token=True, user_at=20.0), 10.0, "jti", "jti"),
        (Revocations(user_at=10.0), 10.0, "user", None),
        (Revocations(user_at=10.0), 10.1, None, None),
        (Revocations(user_at=10.0), None, "user", None),
        (Revocations(issuer_at=10.0), 9.0, "issuer", "issuer"),
        (Revocations(issuer_at=10.0), 11.0, None, None),
    ],
)
def test_the_first_kind_that_applies_is_named(
    revocations: Revocations, issued_at: float | None, expected: str | None, of_anyone: str | None
) -> None:
    assert revocations.against(issued_at) == expected
    assert revocations.against_anyone(issued_at) == of_anyone


def test_of_both_the_later_time_counts() -> None:
    one, other = Revocations(user_at=1.0, issuer_at=5.0), Revocations(token=True, user_at=2.0)
    both = Revocations(token=True, user_at=2.0, issuer_at=5.0)
    assert one.with_those_of(other) == other.with_those_of(one) == both
    assert Revocations().with_those_of(Revocations()) == Revocations()


def test_it_counts_until_it_expires() -> None:
    assert counts(None, 10.0)
    assert counts(10.1, 10.0)
    assert not counts(10.0, 10.0)
    assert not hits(None, None)


def test_rows_of_one_key_are_merged() -> None:
    learnt = Revocation("jti", "main", "a", 1.0, 50.0, learnt=True)
    longer = Revocation("jti", "main", "a", 0.5, 60.0)
    other = Revocation("jti", "main", "b", 1.0, None)
    endless = Revocation("jti", "main", "b", 2.0, 70.0)
    for a in ([learnt, longer], [longer, learnt]):
        assert strongest([*a, other, endless]) == [
            Revocation("jti", "main", "a", 1.0, 60.0),
            Revocation("jti", "main", "b", 2.0, None),
        ]
    assert strongest([learnt, learnt]) == [learnt]
