"""`gateway demo --chaos`: a fault, what is answered meanwhile, and the verdict."""

import json
import subprocess
import sys

from typer.testing import CliRunner

from gateway.cli.main import app
from gateway.cli.terminal import output


def test_redis_goes_and_every_promise_is_kept() -> None:
    command = [sys.executable, "-m", "gateway", "demo", "--chaos", "--json"]
    ran = subprocess.run(  # noqa: S603 -- a constant command
        [*command, "--fault", "redis-gone", "--seconds", "3"], capture_output=True, text=True, check=False
    )
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
    result = CliRunner().invoke(app, ["demo", "--chaos", "--fault", "flood"])
    assert (result.exit_code, "one of redis-frozen, redis-gone" in result.stderr) == (output.USAGE, True)
