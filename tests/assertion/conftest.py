from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from gateway.core.model import JSON
from tests.harness import House, house, open_house, standing_house

__all__ = ["house", "standing_house"]


@pytest_asyncio.fixture(loop_scope="session")
async def signing(dsn: str, redis_url: str, tmp_path: Path) -> AsyncIterator[House]:
    """A gateway that signs who users are, for upstreams and for fronts."""
    decision: dict[str, JSON] = {"listen": "127.0.0.1:0", "trusted_proxies": ["127.0.0.1/32"]}
    async with open_house(tmp_path, dsn, redis_url, assertion={}, decision=decision) as house:
        await house.ready()
        yield house
