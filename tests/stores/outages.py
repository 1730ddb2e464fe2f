"""A frozen Postgres, and the wait until the gateway uses it again."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gateway.core.model import StoreUnavailable
from gateway.demo.embedded import EmbeddedPostgres
from gateway.stores.postgres.database import Postgres
from tests.stores.examples import eventually


async def answers(postgres: Postgres) -> bool:
    try:
        await postgres.ping()
    except StoreUnavailable:
        return False
    return True


async def recovered(postgres: Postgres) -> None:
    await eventually(lambda: answers(postgres))


@contextmanager
def frozen(server: EmbeddedPostgres) -> Iterator[None]:
    """Stop a server and all its processes in their tracks."""
    assert server._process is not None
    main = server._process.pid
    children = Path(f"/proc/{main}/task/{main}/children")
    if not children.exists():
        pytest.skip("finds the processes of a server in /proc")
    processes = [main, *map(int, children.read_text().split())]
    try:
        for process in processes:
            os.kill(process, signal.SIGSTOP)
        yield
    finally:
        for process in processes:
            os.kill(process, signal.SIGCONT)
