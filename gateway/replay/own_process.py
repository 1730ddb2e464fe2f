"""Replay in a process of its own: for the console, whose gateway has requests to serve meanwhile.

The process gets a configuration and perhaps records by its stdin, and answers with JSON. It has nothing of
the gateway's environment, and bounds itself in time and memory: the texts may be made to exhaust both.
"""

import asyncio
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import orjson

import gateway

COMMAND: Final = "replay-pasted"
"""The command of `gateway` that answers."""
AT_MOST: Final = 100_000
"""Records that are decided, those of the newest files."""
GROUPS: Final = 200
"""Groups that are listed."""
SHOWN: Final = 5
"""Requests of each group that are listed."""
CPU_SECONDS: Final = 30
MEMORY: Final = 2 * 1024**3
"""Bytes of address space."""
SECONDS: Final = 90.0
"""How long it may take in all: it has a low priority."""
_NICENESS: Final = 5


class ReplayFailed(Exception):
    """The process ended without an answer."""


async def ask(configuration: str, records: str | None, directory: Path | None) -> dict[str, Any]:
    """Return the answer of another process. Raises `ReplayFailed`.

    `records` is the text of a recorded file; without it, the files in `directory` are read.
    """
    question = orjson.dumps({"configuration": configuration, "records": records})
    source = [] if directory is None or records is not None else [str(directory)]
    environment = {
        # For a gateway that runs from its sources.
        "PYTHONPATH": str(Path(gateway.__file__).parents[1]),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUTF8": "1",
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "gateway", COMMAND, *source, env=environment,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        async with asyncio.timeout(SECONDS):
            answer, _ = await process.communicate(question)
    except TimeoutError as error:
        raise ReplayFailed(f"it took longer than {SECONDS:g} s") from error
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    try:
        found = orjson.loads(answer)
    except orjson.JSONDecodeError as error:
        raise ReplayFailed(
            f"it needed more than {CPU_SECONDS} s or {MEMORY // 1024**3} GiB, or met what it cannot read"
        ) from error
    return found if isinstance(found, dict) else {}


def bound_this_process() -> None:
    """Let this process take little of what the gateway needs."""
    import resource  # not on every system

    os.nice(_NICENESS)
    for what, most in (
        (resource.RLIMIT_CPU, CPU_SECONDS),
        (resource.RLIMIT_AS, MEMORY),
        (resource.RLIMIT_CORE, 0),
    ):
        _, hard = resource.getrlimit(what)
        limit = most if hard == resource.RLIM_INFINITY else min(most, hard)
        with suppress(ValueError, OSError):  # not every system bounds each of them
            resource.setrlimit(what, (limit, limit))
