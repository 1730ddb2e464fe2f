"""A forked worker, which must never continue as its supervisor."""

import subprocess
import sys

import pytest

# The child's streams break while it runs, as when a log collector ends.
_PROGRAM = """
import os, sys
from gateway.workers.process import fork

def body(channel):
    read, write = os.pipe()
    os.close(read)
    os.dup2(write, sys.stdout.fileno())
    os.dup2(write, sys.stderr.fileno())
    print("a last word")
    if sys.argv[1] == "fails":
        raise RuntimeError

kept = os.dup(sys.stdout.fileno())
try:
    process = fork(body, lambda: None)
finally:
    os.write(kept, b"after the fork\\n")
_, status = os.waitpid(process.pid, 0)
os.write(kept, b"ended with %d\\n" % os.waitstatus_to_exitcode(status))
"""


@pytest.mark.parametrize("way", ["ends", "fails"])
def test_a_worker_with_broken_streams_still_ends(way: str) -> None:
    program = subprocess.run(  # noqa: S603 -- a program of ours
        [sys.executable, "-c", _PROGRAM, way], capture_output=True, check=False, timeout=30
    )
    assert program.stdout.splitlines() == [b"after the fork", b"ended with 70"]
