"""The wheel: complete, and of use outside of this checkout."""

import json
import platform
import shutil
import sys
import zipfile
from pathlib import Path

from gateway import __version__
from tests.install.conftest import ROOT, Installed, done


def test_it_has_all_of_the_package_and_nothing_else(wheel: Path) -> None:
    assert wheel.name == f"gateway-{__version__}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        commands = archive.read(f"gateway-{__version__}.dist-info/entry_points.txt").decode()
    package = {
        file.relative_to(ROOT).as_posix()
        for file in (ROOT / "gateway").rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    assert {name for name in names if ".dist-info/" not in name} == package
    assert {"gateway/migrations/0001_users_identities_revocations.sql", "gateway/console/index.html"} < names
    assert commands == "[console_scripts]\ngateway = gateway.__main__:main\n"


def test_an_installation_from_the_wheel_needs_no_checkout(installed: Installed) -> None:
    where = done(
        [sys.executable, "-c", "import gateway; print(gateway.__file__)"],
        installed.folder,
        {"PYTHONPATH": str(installed.target)},
    )
    assert where.strip() == str(installed.target / "gateway" / "__init__.py")

    assert installed("--version").stdout == f"gateway {__version__} (Python {platform.python_version()})\n"
    assert json.loads(installed("schema").stdout)["title"]
    shutil.copy(ROOT / "config" / "gateway.yaml", installed.folder)
    checked = installed("check", "--config", "gateway.yaml", "--json")
    assert json.loads(checked.stdout)["valid"], checked.stderr
    assert "preset: keycloak" in installed("check", "--explain-preset", "keycloak").stdout
