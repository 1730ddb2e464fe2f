"""One Redis for several test processes, as GATEWAY_TEST_REDIS_URL names it.

Each process has a database of its own. But some commands reach all of a server: FLUSHALL, CONFIG SET, a
stopped process; some counters count for all, and tracking does not tell databases apart. A test whose module
has such words runs alone among those that use Redis.
"""

import fcntl
import hashlib
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

VARIABLE: Final = "GATEWAY_TEST_REDIS_URL"

_OF_THE_SERVER: Final = re.compile(
    r"flushall|FLUSHALL|config_set|config_resetstat|\bCONFIG\b|commandstats|total_commands_processed|client_list"
    r"|client_kill|client_pause|acl_setuser|process_id|evicted_keys|run_id|script_flush|RedisStream"
)


def database(given: str, worker: str) -> str:
    """Return the URL of a process's database: that of the given URL, or one of those after it."""
    parts = urlsplit(given)
    first = int(parts.path.strip("/") or 0)
    number = 0 if worker == "master" else int(worker.removeprefix("gw"))
    return parts._replace(path=f"/{first + number}").geturl()


@cache
def reaches_the_server(module: Path) -> bool:
    """Return whether tests of a module do, or count, what concerns all databases of a Redis."""
    return _OF_THE_SERVER.search(module.read_text(encoding="utf-8")) is not None


@contextmanager
def turn(*, alone: bool) -> Iterator[None]:
    """Wait until no other process's test needs Redis for itself, or, with `alone`, until none uses it.

    A process that waits for its turn keeps the gate, so that those after it cannot overtake it for ever.
    """
    name = hashlib.sha256(os.environ[VARIABLE].encode()).hexdigest()[:16]
    folder = Path(tempfile.gettempdir())
    with (
        (folder / f"gateway-{name}.gate").open("w") as gate,
        (folder / f"gateway-{name}.lock").open("w") as lock,
    ):
        fcntl.flock(gate, fcntl.LOCK_EX)
        fcntl.flock(lock, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        fcntl.flock(gate, fcntl.LOCK_UN)
        yield
