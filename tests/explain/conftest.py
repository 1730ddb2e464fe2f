from pathlib import Path

import pytest

from tests.explain.world import World
from tests.harness import house, standing_house

__all__ = ["house", "standing_house"]


@pytest.fixture
def world(tmp_path: Path, dsn: str, redis_url: str) -> World:
    return World(tmp_path, dsn, redis_url)
