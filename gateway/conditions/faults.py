"""Mistakes in expressions, and what is said of names that there are not."""

from collections.abc import Iterable, Mapping
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
    if (word := _OTHER_LANGUAGES.get(node.name)) is not None:
        hint = f"did you mean {word}?"
    else:
        hint = near(node.name, ROOTS, f"known names: {', '.join(ROOTS)}")
    return Fault(node.at, f"there is no `{node.name}`", hint)


def unknown_field(root: str, name: str, at: int) -> Fault:
    fields = ROOTS[root] or {}
    hint = near(name, fields, f"known fields: {', '.join(fields)}", before=f"{root}.")
    return Fault(at, f"there is no `{root}.{name}`", hint)


def unknown_function(node: Call) -> Fault:
    known = [*FUNCTIONS, "has"] if node.target is None else [*METHODS, "all", "exists", "filter", "map"]
    if node.target is None and node.function in METHODS and node.arguments:
        hint = f"write value.{node.function}(…)"
        return Fault(node.at, f"{node.function}() stands behind a value", hint)
    hint = near(node.function, known, "docs/policy.md lists the functions")
    return Fault(node.at, f"there is no function {node.function}()", hint)


def unreadable_header(name: str, at: int) -> Fault | None:
    """Return why a header cannot be read; None if it can."""
    why = why_unreadable(name)
    if why is not None:
        return Fault(at, f"`{name}` {why[0]}", why[1])
    if name != name.lower():
        return Fault(at, f"`{name}` must be in lower case", f'write request.headers["{name.lower()}"]')
    return None


def near(name: str, known: Iterable[str], otherwise: str, *, before: str = "") -> str:
    """Return a hint at the known name that is most like this one, with what stands before it."""
    found = get_close_matches(name, [*known], 1)
    return f"did you mean {before}{found[0]}?" if found else otherwise
