"""docs/install.md: the commands of a newcomer, as they stand on the page, in a clean folder.

A line with `$` is a command; the lines below it are parts of what it prints. Only what a reader must choose
differs: the addresses of the stores, and the ports.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from gateway.demo.embedded import _free_port
from tests.install.conftest import ROOT

PAGE: Final = (ROOT / "docs" / "install.md").read_text(encoding="utf-8")
PORTS: Final = ("9000", "9100", "8080", "9901")
TOOLS: Final = ("bash", "curl")


def commands() -> list[tuple[str, list[str]]]:
    """Return each command, with the parts of its output."""
    found: list[tuple[str, list[str]]] = []
    for block in re.findall(r"^```console\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL):
        for line in block.splitlines():
            if line.startswith("$ "):
                found.append((line[2:], []))
            else:
                found[-1][1].append(line.strip())
    return found


@pytest.mark.timeout(300)  # ten programs start one after the other
@pytest.mark.skipif(not all(map(shutil.which, TOOLS)), reason="needs bash and curl")
def test_a_newcomer_pastes_the_page(
    wheel: Path, packages: Path, empty_dsn: str, redis_url: str, tmp_path: Path
) -> None:
    # Minutes may pass on a busy machine: no outgoing connection may take one meanwhile.
    ports = {port: str(_free_port()) for port in PORTS}

    def own(text: str) -> str:
        for theirs, ours in ports.items():
            text = re.sub(rf"\b{theirs}\b", ours, text)
        # The page leaves the admin port as it is by default.
        return text.replace("gateway init ", f"gateway init --admin-listen 127.0.0.1:{ports['9901']} ")

    shutil.copy(wheel, tmp_path)
    shutil.copy(ROOT / "constraints.txt", tmp_path)
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "python3").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    (programs / "python3").chmod(0o755)
    steps = [(own(command), output) for command, output in commands()]
    stores = ("export POSTGRES_DSN=", "export REDIS_URL=")
    assert sum(command.startswith(stores) for command, _ in steps) == 2
    lines = ["exec 2>&1", "set -m +m"]
    for number, (command, _) in enumerate(steps):
        lines += [f"printf '\\n@@ {number}\\n'", "true" if command.startswith(stores) else command]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")}
    env = {
        **clean,
        "PATH": f"{programs}:{os.environ['PATH']}",
        # Its dependencies are those of the tests.
        "PIP_NO_INDEX": "1",
        "PIP_NO_COMPILE": "1",
        "PYTHONPATH": str(packages),
        "POSTGRES_DSN": empty_dsn,
        "REDIS_URL": redis_url,
    }
    with (tmp_path / "said").open("w+") as said:
        shell = subprocess.Popen(  # noqa: S603 -- the page is ours
            ["bash", "--norc", "-c", "\n".join(lines)],  # noqa: S607 -- the page is for a shell
            cwd=tmp_path, env=env, stdout=said, stdin=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        try:
            shell.wait(240)
        except subprocess.TimeoutExpired:
            pass  # what it said by then tells how far it came
        finally:
            os.killpg(shell.pid, signal.SIGKILL)
            shell.wait()
        said.seek(0)
        text = said.read()
    log = tmp_path / "gateway.log"
    text += "".join(log.read_text().splitlines(keepends=True)[-5:]) if log.exists() else ""
    for number, (command, output) in enumerate(steps):
        found = re.findall(rf"^@@ {number}$(.*?)(?=^@@ |\Z)", text, re.MULTILINE | re.DOTALL)
        assert found, f"it came not as far as {command}\n\n{text[-3000:]}"
        (printed,) = found
        for part in output:
            assert part in printed, f"{command}\n{printed}\n\n{text[-3000:]}"
