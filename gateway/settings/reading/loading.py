"""Loads file and environment into settings, or reports every mistake at once."""

import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from gateway.settings.findings import Location
from gateway.settings.reading.document import Document, Unreadable, parse
from gateway.settings.reading.environment import Overrides
from gateway.settings.reading.interpolation import interpolated
from gateway.settings.reading.shape import how_to_write, keys_at
from gateway.settings.rules import nearest
from gateway.settings.sections.model import Settings
from gateway.settings.values import MISTAKE

# pydantic's errors for authors of YAML: the mistake, and the fix.
_WORDS: Final[dict[str, tuple[str, str | None]]] = {
    "string_type": ("must be text", "put it in quotes"),
    "string_too_short": ("must not be empty", None),
    "too_short": ("must have at least one entry", None),
    "int_type": ("must be a whole number", None),
    "int_parsing": ("must be a whole number", None),
    "int_from_float": ("must be a whole number", None),
    "bool_type": ("must be true or false", None),
    "bool_parsing": ("must be true or false", None),
    "tuple_type": ("must be a list", "write [first, second], or one `- entry` per line"),
    "dict_type": ("must be a mapping", "write `key: value`, one per line, indented"),
    "model_type": ("must be a mapping", "write `key: value`, one per line, indented"),
    "path_type": ("must be a path", "put it in quotes"),
    "recursion_loop": ("contains itself", "remove the alias to the value that contains it"),
}


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake, or probable mistake, in a configuration."""

    message: str
    field: str
    """For example `routes[0].match.path`; empty when the problem is the file itself."""
    file: str
    """The file, or the name of the environment variable that holds the value."""
    line: int | None = None
    """Counted from 1; None when the value is not in a file."""
    hint: str | None = None
    """What to do about it."""
    column: int | None = None
    """Within the line, counted from 1; None when the mistake is the whole value."""

    def __str__(self) -> str:
        place = self.file if self.line is None else f"{self.file}:{self.line}"
        place += "" if self.column is None else f":{self.column}"
        subject = f"{self.field}: {self.message}" if self.field else self.message
        return f"{place}: {subject}" + (f" → {self.hint}" if self.hint else "")


class ConfigurationError(Exception):
    """A configuration that cannot be used. `problems` has every mistake, in the order of the lines."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))


@dataclass(frozen=True, slots=True)
class Source:
    """The origin of each value of a configuration."""

    path: Path
    document: Document
    overrides: Overrides
    written: Mapping[str, object] = field(default_factory=dict)
    """The file's values before variables were put into them."""

    def problem(
        self, where: Location, message: str, hint: str | None = None, at: int | None = None
    ) -> Problem:
        """Return the problem for a mistake at a location; `at`: a place within its text, from 0."""
        where = tuple(key for key in where if key != "[key]")
        variable = self.overrides.origin(where)
        if variable is not None:
            return Problem(message, written(where), variable, None, hint)
        where = self._in_file(where)
        position = None
        if at is not None and "${" not in str(at_location(self.written, where)):
            position = self.document.position(where, at)
        line, column = position or (self.document.line(where), None)
        return Problem(message, written(where), str(self.path), line, hint, column)

    def is_in_readable_file(self, where: Location) -> bool:
        """Return whether a value is written in the file, and all users of this machine can read that."""
        if self.overrides.origin(where) is not None:
            return False
        where = self._in_file(where)
        if where not in self.document.lines:
            return False
        return "${" not in str(at_location(self.written, where)) and bool(
            self.path.stat().st_mode & stat.S_IROTH
        )

    def _in_file(self, where: Location) -> Location:
        """Leave out the positions in lists for which the file has one value, without a list."""
        node: object = self.document.data
        kept: list[str | int] = []
        for key in where:
            if isinstance(key, int) and isinstance(node, str | Mapping):
                continue
            kept.append(key)
            if isinstance(node, list) and isinstance(key, int):
                node = node[key] if key < len(node) else None
            else:
                node = node.get(key) if isinstance(node, Mapping) else None
        return tuple(kept)


def load(path: Path, env: Mapping[str, str] = os.environ) -> Settings:
    """Read the settings from a YAML file, overridden by `GATEWAY_SECTION__KEY` variables.

    Raises `ConfigurationError`.
    """
    return load_with_source(path, env)[0]


def load_with_source(path: Path, env: Mapping[str, str] = os.environ) -> tuple[Settings, Source]:
    """Like `load`; also return the origin of each value."""
    try:
        document = parse(path.read_text(encoding="utf-8"))
    except Unreadable as error:
        raise ConfigurationError([Problem(str(error), "", str(path), error.line)]) from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError([_unreadable(path, error)]) from error
    return validated(document, path, env)


def validated(document: Document, path: Path, env: Mapping[str, str]) -> tuple[Settings, Source]:
    """Return the settings of a document, and the origin of each value. Raises `ConfigurationError`."""
    written_values, before = document.data, len(document.faults)
    document.data = {
        key: interpolated(value, env, document.faults, (key,)) for key, value in document.data.items()
    }
    source = Source(path, document, Overrides(env), written_values)
    problems = [source.problem(where, message, hint) for where, message, hint in document.faults]
    unfilled = {(problem.file, problem.line, problem.field) for problem in problems[before:]}
    problems += [
        Problem(fault.message, written(fault.where), variable, None, fault.hint)
        for variable, fault in source.overrides.faults
    ]
    settings: Settings | None = None
    try:
        settings = Settings.model_validate(source.overrides.over(document.data))
    except ValidationError as invalid:
        found = [_translated(source, error) for error in _own(invalid.errors(include_input=False))]
        # A text whose variable is not known is not what will be there.
        problems += [each for each in found if (each.file, each.line, each.field) not in unfilled]
    if problems or settings is None:
        raise ConfigurationError(
            sorted(problems, key=lambda problem: (problem.line or 0, problem.column or 0))
        )
    return settings, source


def at_location(data: object, where: Location) -> object:
    """Return the value at a location; None if there is none."""
    for key in where:
        if isinstance(data, list) and isinstance(key, int) and key < len(data):
            data = data[key]
        else:
            data = data.get(key) if isinstance(data, Mapping) else None
    return data


def written(where: Location) -> str:
    """Return a location as text: `routes[0].match.path`."""
    text = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in where)
    return text.removeprefix(".")


def _own(errors: list[ErrorDetails]) -> Iterator[ErrorDetails]:
    """Drop the errors that only follow from another error."""
    for error in errors:
        where = error["loc"]
        # pydantic does not count invalid entries.
        hollow = error["type"] == "too_short" and any(
            len(other["loc"]) > len(where) and other["loc"][: len(where)] == where for other in errors
        )
        # The document has already reported keys that are not text, with the line.
        no_text = error["type"] == "invalid_key" or (
            where[-1:] == ("[key]",) and error["type"] == "string_type"
        )
        if not hollow and not no_text and error["type"] != "default_factory_not_called":
            yield error


def _translated(source: Source, error: ErrorDetails) -> Problem:
    kind, where, context = error["type"], error["loc"], error.get("ctx", {})
    if kind == MISTAKE:
        return source.problem(where, context["message"], context["hint"], context.get("at"))
    if kind == "extra_forbidden":
        return source.problem(where, "is not a setting", nearest(str(where[-1]), keys_at(where[:-1])))
    if kind == "missing":
        example = how_to_write(where)
        return source.problem(where, "is required", example and f"write {example}")
    if kind in ("literal_error", "enum"):
        return source.problem(where, f"must be one of {context['expected']}")
    if kind in _WORDS:
        return source.problem(where, *_WORDS[kind])
    message = error["msg"].replace("Input should be", "must be")
    return source.problem(where, message[:1].lower() + message[1:])


def _unreadable(path: Path, error: OSError | UnicodeDecodeError) -> Problem:
    if isinstance(error, FileNotFoundError):
        hint = "name the file with --config FILE or GATEWAY_CONFIG; `gateway init` writes one"
        return Problem("there is no such file", "", str(path), None, hint)
    if isinstance(error, UnicodeDecodeError):
        line = error.object.count(b"\n", 0, error.start) + 1
        return Problem("is not UTF-8 text", "", str(path), line, "save it as UTF-8")
    return Problem(
        f"cannot be read: {error.strerror}", "", str(path), None, "check the path and its permissions"
    )
