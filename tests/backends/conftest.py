from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis as Client

from gateway.backends.redis import Redis


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    redis = Redis(redis_url, timeout=2.0)
    yield redis
    await redis.close()


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator["Client"]:
    """Another program, with plain commands."""
    async with Client.from_url(redis_url) as client:
        yield client
