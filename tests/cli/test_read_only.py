"""Commands that only read: none of them claims a Redis without an owner, or writes to it."""

from pathlib import Path
from typing import Final

import pytest
from redis import Redis

from tests.cli.gateway_command import dump, gateway_command

LOOKING: Final = {
    "explain": ("explain", "-"),
    "explain a request": ("explain", "-", "--url", "/orders/1"),
    "orphans": ("orphans", "--issuer", "main", "--export", "-"),
    "check": ("check", "--live"),
    "users": ("users", "list"),
    "a user": ("users", "show", "main:ann"),
    "revocations": ("revocations", "list"),
}


@pytest.mark.parametrize("name", LOOKING)
def test_it_leaves_redis_as_it_is(name: str, tmp_path: Path, dsn: str, redis_url: str) -> None:
    gateway = gateway_command(tmp_path, dsn, redis_url)
    with Redis.from_url(redis_url) as client:
        client.set("gateway:epoch", "left run beat")
        client.set("gateway:revocations:loaded", "1")
        before = dump(client)
        result = gateway(*LOOKING[name], stdin="sub\nann\n")
        assert isinstance(result.exception, SystemExit | None), result.exc_info
        assert result.exit_code in {0, 1, 3}, result.output
        assert dump(client) == before
