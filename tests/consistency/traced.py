"""`python -m tests.consistency.traced run --config FILE`: `gateway run` with traces of its memory.

Every minute, each process writes the growth since the first minute into its own file in the folder
MEMORY_TRACE: the lines of code with the most allocated memory, by Python's tracemalloc.
"""

import os
import threading
import time
import tracemalloc
from pathlib import Path
from typing import Final

from gateway.__main__ import main

_FRAMES: Final = 8
_LINES: Final = 30


def _tell() -> None:
    path = Path(os.environ["MEMORY_TRACE"], f"{os.getpid()}.txt")
    first: tracemalloc.Snapshot | None = None
    while True:
        time.sleep(60)
        now = tracemalloc.take_snapshot()
        if first is None:
            first = now
            continue
        grown = [
            entry
            for entry in now.compare_to(first, "traceback")
            # What this itself takes tells nothing.
            if all(frame.filename not in {__file__, tracemalloc.__file__} for frame in entry.traceback)
        ]
        with path.open("a") as file:
            file.write(
                f"--- {time.strftime('%H:%M:%S')}, held in all: {tracemalloc.get_traced_memory()[0]}\n"
            )
            for entry in grown[:_LINES]:
                trace = "\n    ".join(entry.traceback.format()[-8:])
                file.write(f"{entry.size_diff:+} B in {entry.count_diff:+} pieces:\n    {trace}\n")


def _begin() -> None:
    # What was there before makes no difference, and imports take their time when they are traced.
    tracemalloc.start(_FRAMES)
    threading.Thread(target=_tell, daemon=True).start()


if __name__ == "__main__":
    os.register_at_fork(after_in_child=_begin)
    main()
