"""Write what follows from the chart: the plain manifests, and the tables of its values.

    python deploy/helm/generate.py            # writes them
    python deploy/helm/generate.py --check    # names the files that are out of date

It needs helm-python-sdk, Helm's engine as a wheel.
"""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import helm_python
import yaml

ROOT: Final = Path(__file__).parent.parent.parent
CHART: Final = ROOT / "deploy" / "helm" / "gateway"
PLAIN: Final = ROOT / "deploy" / "kubernetes"
TABLES: Final = (CHART / "README.md", ROOT / "docs" / "kubernetes.md")
BEGIN: Final = "<!-- values: written by deploy/helm/generate.py -->"
END: Final = "<!-- /values -->"
HEAD: Final = "# Rendered from the chart with values.yaml beside this file: python deploy/helm/generate.py\n"
# A hook: it is applied, and waited for, before the others.
FIRST: Final = "migrate.yaml"


def main() -> int:
    written = {**dict(_manifests()), **dict(_pages())}
    stale = [path for path, text in written.items() if not path.exists() or _text(path) != text]
    stale += [path for path in PLAIN.glob("*.yaml") if path not in written and path.name != "values.yaml"]
    if "--check" in sys.argv:
        for path in stale:
            sys.stdout.write(f"{path.relative_to(ROOT)} is out of date: python deploy/helm/generate.py\n")
        return 1 if stale else 0
    for path in stale:
        if path in written:
            path.write_text(written[path], encoding="utf-8")
        else:
            path.unlink()
    return 0


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def _manifests() -> Iterator[tuple[Path, str]]:
    values = yaml.safe_load(_text(PLAIN / "values.yaml"))
    with helm_python.Chart.load(CHART) as chart:
        rendered = chart.render(values, name="gateway", namespace="gateway")
    names = []
    for path, text in sorted(rendered.items()):
        name = path.rpartition("/")[2]
        if name.endswith(".yaml") and text.strip() and "/tests/" not in path:
            names.append(name)
            yield PLAIN / name, HEAD + _without_helm(text).strip() + "\n"
    others = "".join(f"  - {name}\n" for name in names if name != FIRST)
    kind = "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\n"
    first = f"# Without {FIRST}, which runs before these.\n"
    yield PLAIN / "kustomization.yaml", f"{HEAD}{kind}{first}resources:\n{others}"


def _without_helm(text: str) -> str:
    """Leave out the labels and annotations that only Helm reads."""
    lines = [
        line
        for line in text.splitlines()
        if not re.match(r"\s+(helm\.sh/|app\.kubernetes\.io/managed-by:)", line)
    ]
    kept = [
        line
        for line, following in zip(lines, [*lines[1:], ""], strict=True)
        if not (line.strip() == "annotations:" and _indent(following) <= _indent(line))
    ]
    return "\n".join(kept)


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _pages() -> Iterator[tuple[Path, str]]:
    schema: dict[str, Any] = json.loads(_text(CHART / "values.schema.json"))
    defaults: dict[str, Any] = yaml.safe_load(_text(CHART / "values.yaml"))
    table = "| value | default | meaning |\n|---|---|---|\n" + "".join(_rows(schema, defaults))
    for page in TABLES:
        # Links in descriptions are those of the pages in docs/.
        fitting = table
        if page.parent == CHART:
            fitting = re.sub(r"\]\((?!\.\./)", "](../../../docs/", table).replace("](../deploy/", "](../../")
        before, _, rest = _text(page).partition(BEGIN)
        _, mark, after = rest.partition(END)
        if not mark:
            raise SystemExit(f"{page} has no place for the table: write {BEGIN} and {END}")
        yield page, f"{before}{BEGIN}\n\n{fitting}\n{END}{after}"


def _rows(schema: dict[str, Any], defaults: dict[str, Any], path: str = "") -> Iterator[str]:
    for key, child in schema["properties"].items():
        if key not in defaults and not path:
            continue
        here = f"{path}.{key}".removeprefix(".")
        default = defaults.get(key)
        whole = here.endswith(("resources", "Probe"))
        if child.get("additionalProperties") is False and not whole:
            yield f"| **`{here}`** | | {child['description']} |\n"
            yield from _rows(child, default or {}, here)
        else:
            yield f"| `{here}` | `{json.dumps(default)}` | {child['description']} |\n"


if __name__ == "__main__":
    sys.exit(main())
