"""Writes what an installation of the gateway contains, as CycloneDX 1.6 (a software bill of materials).

It reads what is installed beside this Python, `gateway` and what it depends on, and needs no network.
`make sbom` calls it: there, the versions are those of constraints.txt.

    python deploy/sbom.py [EXTRA]... > gateway.cdx.json
"""

import json
import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from typing import Any, Final

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT: Final = "gateway"


def main(extras: Sequence[str]) -> None:
    """Write the document to the standard output."""
    needs: dict[str, set[str]] = {}
    _collect(ROOT, frozenset(extras), needs, set())
    document = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": _component(ROOT, "application")},
        "components": [_component(name, "library") for name in sorted(needs) if name != ROOT],
        "dependencies": [
            {"ref": _ref(name), "dependsOn": [_ref(each) for each in sorted(others)]}
            for name, others in sorted(needs.items())
        ],
    }
    json.dump(document, sys.stdout, indent=2, ensure_ascii=False)
    sys.stdout.write("\n")


def _collect(
    name: str, extras: frozenset[str], needs: dict[str, set[str]], seen: set[tuple[str, frozenset[str]]]
) -> None:
    """Add a package with these extras, and what it needs on this Python and this system."""
    if (name, extras) in seen:
        return
    seen.add((name, extras))
    others = needs.setdefault(name, set())
    for requirement in _requirements(distribution(name), extras):
        other = canonicalize_name(requirement.name)
        others.add(other)
        _collect(other, frozenset(requirement.extras), needs, seen)


def _requirements(package: Distribution, extras: frozenset[str]) -> Iterator[Requirement]:
    for text in package.requires or ():
        requirement = Requirement(text)
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in (*extras, "")):
            yield requirement


def _ref(name: str) -> str:
    """Return the package URL (https://github.com/package-url/purl-spec), which is also its reference."""
    return f"pkg:pypi/{name}@{distribution(name).version}"


def _component(name: str, kind: str) -> dict[str, Any]:
    fields = distribution(name).metadata
    component: dict[str, Any] = {
        "type": kind,
        "bom-ref": _ref(name),
        "name": name,
        "version": fields["Version"],
        "purl": _ref(name),
    }
    if fields["Summary"]:
        component["description"] = fields["Summary"]
    if fields["License-Expression"]:
        component["licenses"] = [{"expression": fields["License-Expression"]}]
    elif named := _license(fields.get_all("Classifier") or [], fields["License"]):
        component["licenses"] = [{"license": {"name": named}}]
    return component


def _license(classifiers: Sequence[str], text: str | None) -> str | None:
    """Return the name of a licence: a classifier has it, or a field that may also hold the whole text."""
    found = [each.rpartition(" :: ")[2] for each in classifiers if each.startswith("License :: ")]
    return (found[0] if found else (text or "").split("\n")[0]) or None


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except PackageNotFoundError as error:
        sys.exit(
            f"{error.name} is not installed beside {sys.executable}: install the gateway with its extras"
        )
