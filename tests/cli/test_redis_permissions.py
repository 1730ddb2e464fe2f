import re
from pathlib import Path

from redis.asyncio import Redis as Client

from tests.stores.redis.test_topology import works

OPERATIONS = Path(__file__).parents[2] / "docs" / "operations.md"


def documented() -> list[str]:
    """The commands that docs/operations.md says a user of Redis needs."""
    text = re.sub(r"\s+", " ", OPERATIONS.read_text(encoding="utf-8"))
    found = re.search(
        r"needs, on the prefix's keys, the commands ([A-Z, ]+) and ([A-Z]+), `CLIENT TRACKING`", text
    )
    assert found is not None
    return [*found[1].split(", "), found[2]]


async def test_a_user_with_the_documented_rights_can_do_everything(redis_url: str) -> None:
    async with Client.from_url(redis_url) as client:
        rights = [f"+{name}" for name in documented()]
        await client.execute_command(  # type: ignore[no-untyped-call] # has no annotations
            "ACL", "SETUSER", "ann", "on", ">pw", "~gateway:*", "-@all", "+client|tracking", *rights
        )
        try:
            await works(redis_url.replace("redis://", "redis://ann:pw@"))
        finally:
            await client.acl_deluser("ann")
