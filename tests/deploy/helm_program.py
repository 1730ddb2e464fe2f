"""Helm's own engine, in a process of its own: it is a Go program, and a process with one must not be forked.

Standard input: {"chart": folder, "asked": {name: values}, "release": name}.
Standard output: {name: {"files": {path: text}} or {"error": text}}, and under "lint" what `helm lint`
says of the chart with the first of these values.
"""

import json
import sys
from typing import Any

import helm_python


def _rendered(chart: helm_python.Chart, values: dict[str, Any], release: str) -> dict[str, Any]:
    try:
        return {"files": chart.render(values, name=release, namespace="edge")}
    except helm_python.HelmError as error:
        return {"error": str(error)}


def main() -> None:
    task = json.load(sys.stdin)
    asked: dict[str, dict[str, Any]] = task["asked"]
    with helm_python.Chart.load(task["chart"]) as chart:
        answers = {name: _rendered(chart, values, task["release"]) for name, values in asked.items()}
    answers["lint"] = helm_python.lint(task["chart"], next(iter(asked.values())), strict=True)
    json.dump(answers, sys.stdout)


if __name__ == "__main__":
    main()
