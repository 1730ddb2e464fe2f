"""deploy/install.sh: into an empty folder, again, and out of it."""

import re
import shutil
import stat
import sys
from pathlib import Path
from typing import Final

import pytest

from gateway import __version__
from tests.install.conftest import ROOT, done, ran

SCRIPT: Final = ROOT / "deploy" / "install.sh"
SHELL: Final = shutil.which("dash") or "sh"
ANALYZE: Final = shutil.which("systemd-analyze")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.timeout(300)  # two virtual environments' worth of pip
def test_it_installs_upgrades_and_uninstalls(wheel: Path, packages: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    env = {"PIP_NO_INDEX": "1", "PIP_NO_COMPILE": "1", "PYTHONPATH": str(packages)}
    careful = [SHELL, "-c", 'umask 077; exec "$0" "$@"']  # as root's is on many servers
    install = [*careful, SHELL, SCRIPT, "--root", root, "--wheel", wheel, "--python", sys.executable]

    told = done(install, tmp_path, env)

    assert f"{root}/opt/gateway: {wheel.name} for Python 3." in told
    python = root / "opt" / "gateway" / "bin" / "python"
    where = done([python, "-c", "import gateway; print(gateway.__file__)"], tmp_path, env)
    assert where.startswith(f"{root}/opt/gateway/lib/")
    assert f"gateway {__version__} (Python 3." in told
    # All refers to the paths that there will be.
    assert (root / "usr/local/bin/gateway").readlink() == Path("/opt/gateway/bin/gateway")
    assert (root / "opt/gateway/bin/gateway").read_text().startswith("#!/opt/gateway/bin/python")
    assert str(root) not in (root / "opt/gateway/bin/activate").read_text()
    assert "complete -o default" in (root / "usr/share/bash-completion/completions/gateway").read_text()
    assert (root / "usr/lib/sysusers.d/gateway.conf").read_text().startswith("u gateway - ")
    for folder in (
        "opt/gateway",
        "opt/gateway/bin",
        where.strip().removeprefix(f"{root}/").rpartition("/")[0],
    ):
        assert mode(root / folder) & 0o055 == 0o055, folder
    assert mode(root / "opt/gateway/bin/gateway") & 0o055 == 0o055
    assert mode(root / "etc/gateway") == 0o750
    secrets = root / "etc/gateway/gateway.env"
    assert mode(secrets) == 0o640
    unit = root / "etc/systemd/system/gateway.service"
    assert (mode(unit), unit.read_text()) == (0o644, (ROOT / "deploy/gateway.service").read_text())
    named = re.findall(r"^(?:ExecStart|ExecStartPre|EnvironmentFile)=-?(\S+)", unit.read_text(), re.MULTILINE)
    assert [name for name in named if not (root / name.lstrip("/")).exists()] == []

    secrets.write_text("POSTGRES_DSN=mine\n")
    done(install, tmp_path, env)
    assert secrets.read_text() == "POSTGRES_DSN=mine\n"
    _verify(unit, tmp_path)

    told = done([SHELL, SCRIPT, "--uninstall", "--root", root], tmp_path)
    assert f"removing {root}/opt/gateway" in told
    assert {file for file in root.rglob("*") if file.is_file() or file.is_symlink()} == {secrets}
    (root / "var/lib/gateway/records").mkdir(parents=True)  # as systemd and the service have made it
    done([SHELL, SCRIPT, "--uninstall", "--purge", "--root", root], tmp_path)
    assert not (root / "etc/gateway").exists()
    assert not (root / "var/lib/gateway").exists()


def _verify(unit: Path, folder: Path) -> None:
    """Let systemd read the unit, with a program that there is."""
    if ANALYZE is not None:
        copy = folder / unit.name
        copy.write_text(unit.read_text().replace("/opt/gateway/bin/gateway", "/bin/true"))
        result = ran([ANALYZE, "verify", "--man=no", copy], folder)
        assert [line for line in result.stderr.splitlines() if unit.name in line] == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--wheel", "nowhere.whl"), "nowhere.whl is not a file"),
        (("--wheel",), "--wheel takes a value"),
        (("--purge",), "--purge goes with --uninstall"),
        (("--colour",), "there is no option --colour"),
        (("--python", "/bin/false"), "/bin/false is not Python 3.11"),
    ],
)
def test_it_reports_mistakes_before_it_changes_anything(
    words: tuple[str, ...], said: str, wheel: Path, tmp_path: Path
) -> None:
    root = tmp_path / "root"
    result = ran([SHELL, SCRIPT, "--root", root, "--wheel", wheel, *words], tmp_path)
    assert (result.returncode, said in result.stderr) == (2, True), result.stderr
    assert not root.exists()
