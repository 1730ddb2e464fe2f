from collections.abc import AsyncIterator

import pytest

from tests.sockets import RawUpstream


@pytest.fixture
async def upstream() -> AsyncIterator[RawUpstream]:
    async with RawUpstream() as server:
        yield server
