"""The environment overrides the file: `GATEWAY_SECTION__KEY` overrides one value.

`GATEWAY_SECTION__KEY_FILE` names a file with the value, as container platforms mount secrets.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from copy import deepcopy
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import Final

from pydantic_settings import BaseSettings, EnvSettingsSource, SettingsConfigDict, SettingsError

from gateway.settings.findings import Finding, Location
from gateway.settings.reading.shape import Schema, resolved, schema, step
from gateway.settings.rules import closest
from gateway.settings.sections.model import Settings

_PREFIX: Final = "GATEWAY_"
_CONFIG: Final = "GATEWAY_CONFIG"
"""The file to read, which is no setting."""
_TESTS: Final = "GATEWAY_TEST_"
# What Kubernetes sets for a service of the name "gateway".
_OF_PLATFORMS: Final = re.compile(
    r"GATEWAY_(SERVICE_(HOST|PORT(_[A-Z0-9_]+)?)|PORT(_\d+_(TCP|UDP|SCTP)(_[A-Z]+)?)?)"
)
_IN_FILE: Final = "_FILE"
_LARGEST_FILE: Final = 1024 * 1024


class _Variables(BaseSettings, Settings):
    """The same fields for pydantic-settings, which names and decodes the variables."""

    model_config = SettingsConfigDict(env_prefix=_PREFIX, env_nested_delimiter="__", env_ignore_empty=False)


class Overrides:
    """The values that the environment sets.

    Mappings and lists are JSON. A mapping is merged into the file's mapping; any other value replaces the
    file's. `null` means no value.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.faults: list[tuple[str, Finding]] = []
        """Variables that cannot be used: the name, and why."""
        self._origins: dict[Location, str] = {}
        self._values: list[dict[str, object]] = []
        source = EnvSettingsSource(_Variables)
        for variable in sorted(environment):
            where = _location(variable)
            if where is None:
                if (nearly := _nearly(variable)) is not None:
                    self.faults.append((variable, nearly))
                continue
            value: str | Finding = environment[variable]
            fault = _fault(variable, where)
            if fault is not None and (in_file := _location_of_file(variable)) is not None:
                where, fault = in_file, None
                value = _content(variable, where, environment)
            if isinstance(value, Finding):
                fault = value
            if fault is not None or isinstance(value, Finding):
                self.faults.append((variable, fault or Finding(where, "cannot be read")))
                continue
            source.env_vars = {variable_of(where).lower(): None if value == "null" else value}
            try:
                self._values.append(source())
            except SettingsError:
                # Without a cause: its text may contain the value, which may be a secret.
                advice = f"write JSON, for example {variable}='{_example(where)}'"
                self.faults.append((variable, Finding(where, "is not JSON", advice)))
                continue
            self._origins[where] = variable

    def over(self, data: Mapping[str, object]) -> dict[str, object]:
        """Return the file's values, overridden by those of the environment."""
        merged = deepcopy(dict(data))
        for value in self._values:
            merged = _merged(merged, value)
        return merged

    def origin(self, where: Location) -> str | None:
        """Return the variable that set a value, the closest first; None if the file set it."""
        for end in range(len(where), 0, -1):
            if where[:end] in self._origins:
                return self._origins[where[:end]]
        return None


def files_named(environment: Mapping[str, str]) -> list[Path]:
    """Return the files that variables name, without reading them."""
    return [Path(environment[name]) for name in sorted(environment) if _names_a_file(name)]


def variable_of(where: Location) -> str:
    """Return the name of the variable that overrides a setting."""
    return _PREFIX + "__".join(str(key) for key in where).upper()


def _location(variable: str) -> tuple[str, ...] | None:
    """Return the setting that a variable overrides; None if the variable is not the gateway's.

    Platforms set their own variables with this prefix (`GATEWAY_SERVICE_HOST`, `GATEWAY_PORT`). So a variable
    is the gateway's only if it has the name of a section or a double underscore.
    """
    if not variable.startswith(_PREFIX) or variable == _CONFIG or variable.startswith(_TESTS):
        return None
    keys = tuple(variable.removeprefix(_PREFIX).lower().split("__"))
    return keys if len(keys) > 1 or keys[0] in schema()["properties"] else None


def _names_a_file(variable: str) -> bool:
    where = _location(variable)
    return (
        where is not None and _fault(variable, where) is not None and _location_of_file(variable) is not None
    )


def _location_of_file(variable: str) -> tuple[str, ...] | None:
    """Return the setting whose value is in the file that a variable names; None if it names none."""
    if not variable.endswith(_IN_FILE):
        return None
    where = _location(variable.removesuffix(_IN_FILE))
    return where if where is not None and _fault(variable, where) is None else None


def _content(variable: str, where: Location, environment: Mapping[str, str]) -> str | Finding:
    """Return the text of the file that a variable names, without the newline at its end."""
    direct = variable.removesuffix(_IN_FILE)
    if direct in environment:
        return Finding(where, f"is set by {direct} too", f"unset {variable} or {direct}")
    if not environment[variable]:
        return Finding(
            where, "is in a file, which the variable does not name", f"set {variable}, or unset it"
        )
    path = Path(environment[variable])
    try:
        with path.open(encoding="utf-8-sig") as file:  # some editors begin a file with a mark
            text = file.read(_LARGEST_FILE + 1)
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        return Finding(
            where, f"is in {path}, which cannot be read: {why}", "correct the path or its permissions"
        )
    if len(text) > _LARGEST_FILE:
        return Finding(
            where, f"is in {path}, which is larger than 1 MiB", "name the file that has the value alone"
        )
    return text.removesuffix("\n").removesuffix("\r")


def _nearly(variable: str) -> Finding | None:
    """Return the mistake of a name that is nearly a setting's; None if it is another program's.

    Nearly: with other separators, in small letters, or with few letters that differ.
    """
    if variable == _CONFIG or variable.startswith(_TESTS) or not variable.upper().startswith(_PREFIX[:2]):
        return None
    if _OF_PLATFORMS.fullmatch(variable):
        return None
    meant = _meant(variable)
    if meant is None:
        return None
    where = _location_of_file(meant) or _location(meant) or ()
    return Finding(where, "is not a setting of this name", f"did you mean {meant}?")


def _meant(variable: str) -> str | None:
    """Return the variable whose name is nearly this one."""
    whole, names = re.sub(r"[^a-z0-9]+", "_", variable.lower()), _flat_names()
    flat = whole.removeprefix(_PREFIX.lower())
    if flat in names:
        return names[flat]
    if flat.endswith(in_file := _IN_FILE.lower()):
        found = names.get(flat.removesuffix(in_file))
        if found is not None:
            return found if found == _CONFIG else found + _IN_FILE
    if flat == whole:
        # Its prefix is another one.
        full = _similar(whole, [_PREFIX.lower() + name for name in names])
        return None if full is None else names[full.removeprefix(_PREFIX.lower())]
    similar = _similar(flat, names) or ("config" if _similar(whole, [_CONFIG.lower()]) else None)
    return None if similar is None else names[similar]


@lru_cache(maxsize=1)
def _flat_names() -> Mapping[str, str]:
    """Return each variable, by its setting's name with single underscores."""
    settings = {"_".join(map(str, where)): variable_of(where) for where in _settings((), schema())}
    return {**settings, "config": _CONFIG}


def _settings(where: tuple[str, ...], node: Schema) -> Iterator[tuple[str, ...]]:
    for key, child in resolved(node).get("properties", {}).items():
        yield (*where, key)
        yield from _settings((*where, key), child)


def _similar(name: str, names: Iterable[str]) -> str | None:
    """Return the name that was meant, if one is so similar that it can be no other program's."""
    return next(iter(get_close_matches(name, list(names), n=1, cutoff=0.92)), None)


def _fault(variable: str, where: tuple[str, ...]) -> Finding | None:
    node = schema()
    for depth, key in enumerate(where):
        node = resolved(node)
        if node.get("type") == "array":
            whole = variable_of(where[:depth])
            return Finding(
                where,
                f"is inside a list, which {variable} cannot reach",
                f"give the whole list as JSON: {whole}",
            )
        child = step(node, key)
        if child is None:
            meant = _meant(variable)
            if meant is None and (close := closest(key, list(node.get("properties", ())))):
                meant = variable_of((*where[:depth], close))
            hint = f"did you mean {meant}?" if meant else "see docs/configuration.md"
            return Finding(where, "is not a setting", hint)
        node = child
    return None


def _example(where: Location) -> str:
    node = schema()
    for key in where:
        node = step(node, key) or {}
    return "[…]" if node.get("type") == "array" else "{…}"


def _merged(below: Mapping[str, object], above: Mapping[str, object]) -> dict[str, object]:
    merged = dict(below)
    for key, value in above.items():
        under = merged.get(key)
        merged[key] = (
            _merged(under, value) if isinstance(under, Mapping) and isinstance(value, Mapping) else value
        )
    return merged
