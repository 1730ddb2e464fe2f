"""A folder in memory: each test with a database makes and removes hundreds of files."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

_MEMORY: Final = Path("/dev/shm")  # noqa: S108 -- a folder of a name of its own is made there
_ROOM: Final = 2 << 30
"""Bytes that must be free there, many more than are used: in containers there may be 64 MiB in all."""


@contextmanager
def memory_folder(name: str, memory: Path = _MEMORY, room: int = _ROOM) -> Iterator[Path | None]:
    """Make a folder in memory and remove it at the end. None where there is no memory with room for it.

    A process that was killed could not remove its own: the next one does.
    """
    if not memory.is_dir() or not os.access(memory, os.W_OK) or shutil.disk_usage(memory).free < room:
        yield None
        return
    for left in memory.glob(f"{name}-*"):
        with suppress(OSError), _held(left):
            shutil.rmtree(left, ignore_errors=True)
    unheld = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=memory))
    with _held(unheld):
        folder = unheld.rename(unheld.with_name(unheld.name[1:]))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Hold a folder as long as this process runs. Raises OSError if another one holds it."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)
