"""`gateway demo --chaos`: a fault, what is answered meanwhile, and the verdict."""

import json
import subprocess
import sys

from gateway.cli import output

COMMAND = [sys.executable, "-m", "gateway", "demo", "--chaos"]


def test_redis_goes_and_every_promise_is_kept() -> None:
    ran = subprocess.run(  # noqa: S603 -- a constant command
        [*COMMAND, "--json", "--fault", "redis-gone", "--seconds", "3"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ran.returncode == output.OK, ran.stdout + ran.stderr
    *seconds, end = map(json.loads, ran.stdout.splitlines())
    assert {second["fault"] for second in seconds} == {None, "redis-gone"}
    answers = {label for second in seconds for label in second["answers"]["ghost"]}
    assert "401 user_not_found" in answers
    assert end["kept"], end
    (fault,) = end["faults"]
    assert fault["answers"]["401 token_revoked"] > 0
    assert fault["answers"]["200"] > 0
    assert fault["suspension_counted_after"] < 6
    assert fault["slowest"] > 0


def test_a_fault_that_there_is_not() -> None:
    ran = subprocess.run([*COMMAND, "--fault", "flood"], capture_output=True, text=True, check=False)  # noqa: S603 -- a constant command
    assert (ran.returncode, "one of redis-frozen, redis-gone" in ran.stderr) == (output.USAGE, True)
