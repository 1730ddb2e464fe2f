"""The environment overrides the file: `GATEWAY_SECTION__KEY` overrides one value."""

from collections.abc import Mapping
from copy import deepcopy
from typing import Final

from pydantic_settings import BaseSettings, EnvSettingsSource, SettingsConfigDict, SettingsError

from gateway.settings.findings import Finding, Location
from gateway.settings.model import Settings
from gateway.settings.rules import closest
from gateway.settings.shape import resolved, schema, step

_PREFIX: Final = "GATEWAY_"
# Not settings: the file to read, and the tests' servers.
_OTHERS: Final = ("GATEWAY_CONFIG", "GATEWAY_TEST_")


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
                continue
            fault = _fault(variable, where)
            if fault is not None:
                self.faults.append((variable, fault))
                continue
            value = environment[variable]
            source.env_vars = {variable.lower(): None if value == "null" else value}
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


def variable_of(where: Location) -> str:
    """Return the name of the variable that overrides a setting."""
    return _PREFIX + "__".join(str(key) for key in where).upper()


def _location(variable: str) -> tuple[str, ...] | None:
    """Return the setting that a variable overrides; None if the variable is not the gateway's.

    Platforms set their own variables with this prefix (`GATEWAY_SERVICE_HOST`, `GATEWAY_PORT`). So a variable
    is the gateway's only if it has the name of a section or a double underscore.
    """
    if not variable.startswith(_PREFIX) or variable.startswith(_OTHERS):
        return None
    keys = tuple(variable.removeprefix(_PREFIX).lower().split("__"))
    return keys if len(keys) > 1 or keys[0] in schema()["properties"] else None


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
            close = closest(key, list(node.get("properties", ())))
            hint = (
                f"did you mean {variable_of((*where[:depth], close))}?"
                if close
                else "see docs/configuration.md"
            )
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
