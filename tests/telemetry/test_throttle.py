"""Many equal lines share one line with their number."""

import asyncio

from gateway.telemetry.throttle import LINES_PER_SECOND, Throttle


class Told:
    def __init__(self) -> None:
        self.now = 100.0
        self.lines: list[tuple[str, int]] = []
        self.heard = asyncio.Event()
        self.throttle = Throttle(self._tell, clock=lambda: self.now)

    def _tell(self, kind: str, count: int) -> None:
        self.lines.append((kind, count))
        self.heard.set()

    def written(self, kind: str, times: int) -> int:
        """Ask to log so many lines; return how many are admitted."""
        return sum(self.throttle.admits(kind) for _ in range(times))


def test_each_kind_has_its_own_number_of_lines_per_second() -> None:
    told = Told()
    assert told.written("a", LINES_PER_SECOND + 7) == LINES_PER_SECOND
    assert told.written("b", LINES_PER_SECOND) == LINES_PER_SECOND
    assert told.lines == []
    told.now += 1.0
    assert told.written("a", 1) == 1
    assert told.lines == [("a", 7)]
    told.now += 1.0
    assert told.written("b", 1) == 1
    assert told.lines == [("a", 7)]


async def test_the_end_of_a_flood_is_reported_without_another_line() -> None:
    told = Told()
    told.written("a", LINES_PER_SECOND + 3)
    async with asyncio.timeout(10):
        await told.heard.wait()
    assert told.lines == [("a", 3)]
    # Every line is counted once.
    told.written("a", LINES_PER_SECOND + 4)
    told.now += 1.0
    told.written("a", 1)
    assert sum(count for _, count in told.lines) == 7
