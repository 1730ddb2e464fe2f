"""Mistakes in expressions, and what is said of names that there are not."""

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Final

from gateway.conditions.syntax import Call, Name
from gateway.conditions.words import FUNCTIONS, METHODS, ROOTS, why_unreadable

_OTHER_LANGUAGES: Final[Mapping[str, str]] = {
    "True": "true", "False": "false", "None": "null", "nil": "null", "undefined": "null", "NULL": "null",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Fault:
    """A mistake in an expression. `at` is its position, from 0."""

    at: int
    message: str
    hint: str | None = None


def unknown_name(node: Name) -> Fault:
    if node.name in FUNCTIONS or node.name in METHODS:
        return Fault(node.at, f"`{node.name}` is a function", f"write {node.name}(…)")
    near = [_OTHER_LANGUAGES[node.name]] if node.name in _OTHER_LANGUAGES else _near(node.name, ROOTS)
    hint = f"did you mean {near[0]}?" if near else f"known names: {', '.join(ROOTS)}"
    return Fault(node.at, f"there is no `{node.name}`", hint)


def unknown_field(root: str, name: str, at: int) -> Fault:
    fields = ROOTS[root] or {}
    near = _near(name, fields)
    hint = f"did you mean {root}.{near[0]}?" if near else f"known fields: {', '.join(fields)}"
    return Fault(at, f"there is no `{root}.{name}`", hint)


def unknown_function(node: Call) -> Fault:
    known = [*FUNCTIONS, "has"] if node.target is None else [*METHODS, "all", "exists", "filter", "map"]
    if node.target is None and node.function in METHODS and node.arguments:
        hint = f"write value.{node.function}(…)"
        return Fault(node.at, f"{node.function}() stands behind a value", hint)
    near = _near(node.function, known)
    hint = f"did you mean {near[0]}?" if near else "docs/policy.md lists the functions"
    return Fault(node.at, f"there is no function {node.function}()", hint)


def unreadable_header(name: str, at: int) -> Fault | None:
    """Return why a header cannot be read; None if it can."""
    why = why_unreadable(name)
    if why is not None:
        return Fault(at, f"`{name}` {why[0]}", why[1])
    if name != name.lower():
        return Fault(at, f"`{name}` must be in lower case", f'write request.headers["{name.lower()}"]')
    return None


def _near(name: str, known: "Mapping[str, object] | list[str]") -> list[str]:
    return get_close_matches(name, list(known), 1)
