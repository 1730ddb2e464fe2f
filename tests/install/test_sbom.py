"""What an installation contains, and whether known vulnerabilities are in it: both without a network."""

import json
import re
import sys
from pathlib import Path
from typing import Any, Final

import pytest

from gateway import __version__
from tests.install.conftest import ROOT, done, ran

PINNED: Final = dict(
    re.findall(r"^([\w.-]+)==(\S+)", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)
)


def sbom(*extras: str) -> dict[str, Any]:
    document = json.loads(done([sys.executable, "deploy/sbom.py", *extras], ROOT))
    assert isinstance(document, dict)
    return document


def test_the_bill_of_materials_has_the_installed_packages() -> None:
    document = sbom()
    assert (document["bomFormat"], document["specVersion"]) == ("CycloneDX", "1.6")
    assert document["metadata"]["component"]["purl"] == f"pkg:pypi/gateway@{__version__}"
    components = {each["name"]: each for each in document["components"]}
    pinned = {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in PINNED.items()}
    assert {name: each["version"] for name, each in components.items()} == {
        name: pinned[name] for name in components
    }
    # What is needed at run time, what comes with that, and nothing that only tests need.
    assert {"aiohttp", "asyncpg", "hiredis", "multidict", "python-jose"} < components.keys()
    assert not {"pytest", "mypy", "django", "grpcio"} & components.keys()
    assert components["aiohttp"]["licenses"]
    refs = {each["bom-ref"] for each in document["components"]}
    (own,) = (each for each in document["dependencies"] if each["ref"].startswith("pkg:pypi/gateway@"))
    assert set(own["dependsOn"]) <= refs
    assert "grpcio" in {each["name"] for each in sbom("grpc")["components"]}


def test_without_the_database_of_vulnerabilities_nothing_fails() -> None:
    """A proxy that refuses connections stands for a network that does not reach it."""
    env = {"https_proxy": "http://127.0.0.1:1", "no_proxy": ""}
    for words in (("--probe",), ("constraints.txt",)):
        told = ran([sys.executable, "deploy/audit.py", *words], ROOT, env)
        assert told.returncode == (1 if words == ("--probe",) else 0), told
        assert "audit: skipped: https://api.osv.dev cannot be reached" in told.stderr


CLEAN: Final = '{"name": "orjson", "version": "3.13.0", "vulns": []}'
FLAWED: Final = '{"name": "ecdsa", "version": "0.1", "vulns": [{"id": "PYSEC-1", "fix_versions": ["0.2"]}]}'


@pytest.mark.parametrize(
    ("said", "code", "told"),
    [
        (f'{{"dependencies": [{CLEAN}]}}', 0, "no known vulnerability in 1 packages"),
        (f'{{"dependencies": [{CLEAN}, {FLAWED}]}}', 1, "ecdsa 0.1: PYSEC-1; fixed in 0.2"),
        ("", 0, "skipped: pip-audit said nothing"),
    ],
)
def test_the_answer_of_pip_audit_decides_the_exit_code(
    said: str, code: int, told: str, tmp_path: Path
) -> None:
    """Another program stands for pip-audit, and the database for one that answers."""
    (tmp_path / "pip_audit.py").write_text(f"print({said!r})")
    script = "import audit, sys; audit.reachable = lambda: True; sys.exit(audit.main('constraints.txt'))"
    env = {"PYTHONPATH": f"{tmp_path}:{ROOT / 'deploy'}"}
    result = ran([sys.executable, "-c", script], ROOT, env)
    assert (result.returncode, told in result.stdout + result.stderr) == (code, True), result
