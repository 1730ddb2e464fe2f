"""What the ages of tokens show of clocks."""

import pytest

from gateway.core.clock_skew import Skew, skew, whose

PROMPT = [-0.4, -0.9, -0.2, -30.0, -0.7, -200.0, -0.6]
"""Offsets of clocks that agree: most tokens come at once, some clients keep theirs."""


@pytest.mark.parametrize(
    ("offsets", "expected"),
    [
        ([], None),
        (PROMPT, -0.2),
        # One token from the future is enough; one that is old is not.
        ([42.0], 42.0),
        ([-42.0], None),
        ([-0.5, -0.5, -0.5, -0.5], None),
        ([42.0 + each for each in PROMPT], 41.8),
        # Behind: the youngest tokens are equally old.
        ([-42.0 + each for each in PROMPT], -42.2),
        # Clients that keep their tokens for various times show nothing.
        ([-20.0, -31.0, -45.0, -60.0, -77.0, -90.0], None),
    ],
)
def test_the_difference_of_two_clocks(offsets: list[float], expected: float | None) -> None:
    found = skew([(10.0 * place, offset) for place, offset in enumerate(offsets)])
    assert (None if found is None else round(found.seconds, 3)) == expected
    if found is not None:
        assert found.tokens == len(offsets)
        assert found.agrees == (abs(found.seconds) <= 5)


def test_tokens_of_one_batch_are_equally_old_and_show_nothing() -> None:
    """They were issued together, and kept for 40 seconds."""
    assert skew([(place / 9, -40.0 - place / 9) for place in range(9)]) is None
    assert skew([(place, -40.0) for place in range(9)]) == Skew(-40.0, 9)


@pytest.mark.parametrize(
    ("own", "others", "reference", "expected"),
    [
        (42.0, [], None, "unknown"),
        (42.0, [0.3], None, "issuer"),
        (42.0, [41.0], None, "ours"),
        (42.0, [41.0, 0.0], None, "unknown"),
        (42.0, [41.0, 0.0], 43.0, "ours"),
        (42.0, [], 0.0, "issuer"),
        (-42.0, [-44.0], -41.0, "ours"),
        (42.0, [300.0], None, "unknown"),
    ],
)
def test_whose_clock_is_wrong(
    own: float, others: list[float], reference: float | None, expected: str
) -> None:
    assert whose(own, [Skew(each, 9) for each in others], reference) == expected
