"""docs/dependencies.md: where each package is used, and that no package is left out."""

import ast
import re
import tomllib
from functools import cache

import pytest

from tests.docs.pages import DOCS, REPOSITORY

_MODULES = {
    "common-expression-language": "cel",
    "prometheus-client": "prometheus_client",
    "pydantic-settings": "pydantic_settings",
    "python-jose": "jose",
    "PyYAML": "yaml",
}
"""The module of a package, where it has another name."""


def _rows() -> dict[str, str]:
    """Return what the page says of where each package is used at run time."""
    text = (DOCS / "dependencies.md").read_text(encoding="utf-8")
    section = text.partition("## At run time\n")[2].partition("\n## ")[0]
    rows = dict(re.findall(r"^\| ([\w-]+)(?:\[\w+\])? \|.*\| ([^|]+) \|$", section, re.MULTILINE))
    assert rows.pop("package") == "used by"
    return rows


@cache
def _importers() -> dict[str, set[str]]:
    """Return by module the files that import it, relative to gateway/ and without `.py`."""
    found: dict[str, set[str]] = {}
    for file in (REPOSITORY / "gateway").rglob("*.py"):
        name = file.relative_to(REPOSITORY / "gateway").with_suffix("").as_posix()
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level and node.module:
                modules = [node.module]
            for module in modules:
                found.setdefault(module.partition(".")[0], set()).add(name)
    return found


def test_every_required_package_is_in_the_table() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    required = {re.split(r"[\[<>=;~! ]", each)[0].lower() for each in project["dependencies"]}
    assert {name.lower() for name in _rows()} == required


@pytest.mark.parametrize("package", _rows())
def test_a_package_is_used_where_the_page_says(package: str) -> None:
    used_by = _rows()[package]
    importers = _importers()[_MODULES.get(package, package)]
    rooms = [room.removesuffix(".py") for room in re.findall(r"`([\w/.]+)`", used_by)]
    if used_by.startswith("everywhere"):
        assert len({name.partition("/")[0] for name in importers}) > 5
        return
    outside = {name for name in importers if not any(f"{name}/".startswith(f"{room}/") for room in rooms)}
    unused = {room for room in rooms if not any(f"{name}/".startswith(f"{room}/") for name in importers)}
    assert (outside, unused) == (set(), set())
