"""An outage is one line at its begin and one at its end, even if the dependency answers intermittently."""

import asyncio
from collections import Counter
from pathlib import Path
from typing import Final

import orjson
import pytest

from gateway.identity import outages
from gateway.identity.outages import HOLD, Outages
from tests.harness import House, open_house
from tests.stores.cable import Cable

STREAMS: Final = {"postgres", "redis"}


class TestOutages:
    def test_each_outage_is_reported_at_its_begin_and_end(self) -> None:
        now, told = 0.0, list[object]()
        seen = Outages(told.append, told.append, lambda: now)
        seen.proven()
        for _ in range(3):
            for _ in range(10):
                seen.failed("cut")
                now += 1
            for _ in range(int(HOLD) + 2):
                seen.proven()
                now += 1
        assert told == ["cut", 10.0] * 3

    def test_an_intermittent_failure_is_one_outage(self) -> None:
        now, told = 0.0, list[object]()
        seen = Outages(told.append, told.append, lambda: now)
        for number in range(20):
            seen.failed(f"cut {number}")
            now += 0.5
            seen.proven()
            now += HOLD - 1
            seen.proven()
        assert told == ["cut 0"]


def warned(house: House) -> Counter[tuple[str, str]]:
    """Count what was logged above the level info, by its name and what it is about."""
    lines = [orjson.loads(line) for line in house.log.getvalue().splitlines()]
    return Counter(
        (line["event"], line.get("stream") or line.get("dependency") or "")
        for line in lines
        if line["level"] not in {"debug", "info"}
    )


@pytest.mark.usefixtures("_soon_over")
class TestStreams:
    @pytest.fixture
    def _soon_over(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(outages, "HOLD", 2.0)

    async def over(self, house: House, count: int) -> None:
        """Wait until so many outages of each stream have been told to be over."""

        def told() -> Counter[object]:
            return Counter(line["stream"] for line in house.events("invalidation_stream_up"))

        async with asyncio.timeout(30):
            while told() != dict.fromkeys(STREAMS, count):  # noqa: ASYNC110 -- a log has no event to wait for
                await asyncio.sleep(0.05)

    def one_line_each(self, house: House, count: int) -> None:
        """Check that an outage was reported once, by any source."""
        found = warned(house)
        assert {what: lines for what, lines in found.items() if lines > count} == {}
        for stream in STREAMS:
            assert found["invalidation_stream_down", stream] == count

    async def test_connections_that_are_cut_again_and_again(
        self, tmp_path: Path, dsn: str, redis_url: str
    ) -> None:
        async with (
            Cable(dsn) as postgres,
            Cable(redis_url) as redis,
            open_house(tmp_path, postgres.url, redis.url) as house,
        ):
            for outage in (1, 2):
                for _ in range(8):
                    await house.ready()
                    await postgres.cut()
                    await redis.cut()
                await self.over(house, outage)
                self.one_line_each(house, outage)

    async def test_stores_that_are_away_for_seconds(self, tmp_path: Path, dsn: str, redis_url: str) -> None:
        async with (
            Cable(dsn) as postgres,
            Cable(redis_url) as redis,
            open_house(tmp_path, postgres.url, redis.url) as house,
        ):
            await house.ready()
            for outage in (1, 2):
                await postgres.pull()
                await redis.pull()
                await asyncio.sleep(4)  # for several attempts, which come every two seconds at least
                await postgres.plug()
                await redis.plug()
                await self.over(house, outage)
                self.one_line_each(house, outage)
