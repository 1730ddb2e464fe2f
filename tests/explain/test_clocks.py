"""Whose clock is wrong, from the tokens that a worker has verified lately."""

import time

import pytest

from gateway.core.model import JSON
from gateway.explain.evidence.issuer_clocks import KEPT, IssuerClocks
from tests.explain.world import World
from tests.harness import token


class Now:
    def __init__(self) -> None:
        self.seconds = 1_900_000_000.0

    def __call__(self) -> float:
        return self.seconds


def seen(clocks: IssuerClocks, now: Now, name: str, ahead: float, number: int = 57) -> None:
    """See a token a second, until now."""
    end = now.seconds
    for place in range(number):
        now.seconds = end - number + place + 1
        clocks.saw(name, {"iat": int(now() + ahead)}, place.to_bytes(8, "big"))
    now.seconds = end


def test_the_memory_is_bounded_and_counts_each_token_once() -> None:
    now = Now()
    clocks = IssuerClocks(now)
    seen(clocks, now, "main", 42, KEPT + 20)
    for _ in range(9):
        clocks.saw("main", {"iat": int(now() + 42)}, (KEPT + 19).to_bytes(8, "big"))
    found = clocks.skew("main")
    assert found is not None
    assert (found.seconds, found.tokens) == (42.0, KEPT)
    assert clocks.skew("second") is None
    assert clocks.others("second") == {"main": found}
    now.seconds += 3601
    assert clocks.skew("main") is None


@pytest.mark.parametrize("iat", [None, "now", True, float("inf"), 1_900_000_000_000, 0])
def test_tokens_that_show_no_clock_are_left_out(iat: JSON) -> None:
    clocks = IssuerClocks(Now())
    clocks.saw("main", {} if iat is None else {"iat": iat}, b"signature")
    assert clocks.skew("main") is None


@pytest.mark.parametrize(
    ("main", "second", "offset", "cause", "says"),
    [
        (42, 0, 45, "clock_skew", "The issuer's clock is 42 s ahead of ours, as of its last 57 tokens that"
         " this worker verified; ours agrees with that of issuer second, so the issuer's is wrong."),
        (42, 42, 45, "clock_skew", "it agrees with that of issuer second, so the gateway's is wrong:"
         " 42 s behind theirs."),
        (42, None, 45, "clock_skew", "Whose clock is wrong cannot be told from here"),
        (None, None, 45, "clock_skew", "The clock of Postgres agrees with the gateway's"),
        # Expired by seconds, while the clocks agree: it is simply old.
        (0, None, -40, "token_expired", "the clocks agree, as of the issuer's last 57 tokens"),
        (-42, 0, -40, "clock_skew", "The issuer's clock is 42 s behind ours"),
    ],
)  # fmt: skip
async def test_seconds_are_explained_by_the_tokens_before(
    world: World, main: int | None, second: int | None, offset: int, cause: str, says: str
) -> None:
    await world.add()
    await world.sql("UPDATE users SET created_at = 'epoch'")
    clock = Now()
    now = clock.seconds = float(int(time.time()))
    world.clocks = IssuerClocks(clock)
    for name, ahead in (("main", main), ("second", second)):
        if ahead is not None:
            seen(world.clocks, clock, name, ahead)
    dates = {"iat": int(now + offset)} if offset > 0 else {"iat": int(now - 600), "exp": int(now + offset)}
    explanation = await world.explain(token("ann", **dates))
    assert explanation.cause == cause
    assert explanation.fix is not None
    assert says in f"{explanation.summary} {explanation.fix.text}"
