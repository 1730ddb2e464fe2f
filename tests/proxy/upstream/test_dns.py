"""Names that are looked up periodically."""

import asyncio

from structlog.testing import capture_logs

from gateway.proxy.upstream.endpoints.dial import read_origin
from gateway.proxy.upstream.endpoints.dns import OriginResolver


async def test_a_bug_in_a_look_up_does_not_end_later_ones() -> None:
    odd = [ZeroDivisionError("odd")]
    changed = asyncio.Event()

    async def odd_at_first(_: str, __: int) -> list[str]:
        if odd:
            raise odd.pop()
        return ["192.0.2.1"]

    names = OriginResolver("orders", [read_origin("http://orders.test:80")], odd_at_first, 0.01, changed.set)
    with capture_logs() as logs:
        keeping = asyncio.create_task(names.keep_fresh())
        async with asyncio.timeout(5):
            await changed.wait()
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)
    assert [(entry["event"], entry["upstream"]) for entry in logs] == [("names_not_looked_up", "orders")]
