"""Completion in a shell, by the protocol of the script that `--show-completion` prints."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent.parent
BASH = shutil.which("bash")


@pytest.fixture
def command(tmp_path: Path) -> Path:
    """A folder with a program `gateway`."""
    program = tmp_path / "gateway"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m gateway "$@"\n')
    program.chmod(0o755)
    return tmp_path


@pytest.mark.skipif(BASH is None, reason="needs bash")
def test_bash_completes_commands_and_options(command: Path) -> None:
    """A shell installs the script, reads it, and is asked as when a user presses Tab."""
    script = """
gateway --install-completion >/dev/null
source "$HOME/.bash_completions/gateway.sh"
diff -B <(gateway --show-completion) <(_GATEWAY_COMPLETE=source_bash gateway)
ask() { COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _gateway_completion gateway; echo "${COMPREPLY[*]}"; }
complete -p gateway
ask gateway revo
ask gateway users susp
ask gateway check --expl
"""
    assert BASH is not None
    path = f"{command}:{os.environ['PATH']}"
    env = {**os.environ, "HOME": str(command), "PATH": path, "PYTHONPATH": str(REPOSITORY)}
    ran = subprocess.run(  # noqa: S603 -- a constant script
        [BASH, "--norc", "-c", script], env=env, capture_output=True, text=True, check=False
    )
    assert ran.stdout.splitlines() == [
        "complete -o default -F _gateway_completion gateway",
        "revoke revocations",
        "suspend",
        "--explain-preset",
    ], ran.stderr
