"""The wheel, built once, and what is installed from it outside of this checkout."""

import fcntl
import os
import subprocess
import sys
import sysconfig
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from tests.sockets import RawUpstream

ROOT: Final = Path(__file__).parent.parent.parent


def ran(
    command: Sequence[object], folder: Path, env: Mapping[str, str] | None = None, *, stdin: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run a command in a folder, without the caller's GATEWAY_* variables; return what it said."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")}
    return subprocess.run(  # noqa: S603 -- commands of these tests
        list(map(str, command)),
        cwd=folder,
        env={**clean, **(env or {})},
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
    )


def done(command: Sequence[object], folder: Path, env: Mapping[str, str] | None = None) -> str:
    """Run a command that must succeed; return its standard output."""
    result = ran(command, folder, env)
    assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
    return result.stdout


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """The wheel that `make wheel` builds. Test processes share one."""
    own = tmp_path_factory.getbasetemp()
    folder = (own if worker_id == "master" else own.parent) / "dist"
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            # The packages for it are those of the tests.
            venv = ("-o", f"{sys.prefix}/build.stamp", f"VENV={sys.prefix}")
            done(["make", "--silent", *venv, f"DIST={folder}", "wheel"], ROOT)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="session")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All packages of the tests but the gateway itself, for PYTHONPATH: an installation fetches nothing."""
    folder = tmp_path_factory.mktemp("packages")
    for place in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}:
        for entry in Path(place).iterdir():
            if "gateway" not in entry.name and entry.suffix != ".pth":
                (folder / entry.name).symlink_to(entry)
    return folder


@dataclass(frozen=True)
class Installed:
    """What `pip install` made of the wheel. The packages that it depends on are those of the tests."""

    target: Path
    folder: Path
    """Another one, in which commands run."""

    def __call__(self, *words: str | Path, stdin: str = "") -> subprocess.CompletedProcess[str]:
        command = self.target / "bin" / "gateway"
        return ran([command, *words], self.folder, {"PYTHONPATH": str(self.target)}, stdin=stdin)


@pytest.fixture(scope="session")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    target = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    done([*pip, "--no-deps", "--no-index", "--no-compile", "--target", target, wheel], target)
    return Installed(target, tmp_path_factory.mktemp("elsewhere"))


@pytest.fixture
async def upstream() -> AsyncIterator[RawUpstream]:
    async with RawUpstream() as server:
        yield server
