"""The environment over the file: `GATEWAY_SECTION__KEY` overrides one value."""

from collections.abc import Mapping
from copy import deepcopy
from typing import Final

from pydantic_settings import BaseSettings, EnvSettingsSource, SettingsConfigDict, SettingsError

from gateway.settings.model import Settings
from gateway.settings.rules import Finding, Location, closest
from gateway.settings.shape import resolved, schema, step

_PREFIX: Final = "GATEWAY_"
# Not settings: which file to read, and where the tests' servers are.
_OTHERS: Final = ("GATEWAY_CONFIG", "GATEWAY_TEST_")


class _Variables(BaseSettings, Settings):
    """The same fields, as pydantic-settings wants them in order to name and decode variables."""

    model_config = SettingsConfigDict(env_prefix=_PREFIX, env_nested_delimiter="__", env_ignore_empty=False)


class Overrides:
    """What the environment sets.

    Mappings and lists are given as JSON; a mapping is merged into the file's, anything else takes
    the place of what the file has. `null` is no value.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.faults: list[tuple[str, Finding]] = []
        """Variables that cannot be used: the variable's name, and why."""
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
                # Without a cause: its text may hold the value, and the value a secret.
                advice = f"write JSON, as {variable}='{_example(where)}'"
                self.faults.append((variable, Finding(where, "is not JSON", advice)))
                continue
            self._origins[where] = variable

    def over(self, data: Mapping[str, object]) -> dict[str, object]:
        """Return the file's values with those of the environment laid over them."""
        merged = deepcopy(dict(data))
        for value in self._values:
            merged = _merged(merged, value)
        return merged

    def origin(self, where: Location) -> str | None:
        """Return the variable from which a value came, the closest first; None when it is the file's."""
        for end in range(len(where), 0, -1):
            if where[:end] in self._origins:
                return self._origins[where[:end]]
        return None


def variable_of(where: Location) -> str:
    """Return the name of the variable that overrides a setting."""
    return _PREFIX + "__".join(str(key) for key in where).upper()


def _location(variable: str) -> tuple[str, ...] | None:
    """Return what a variable overrides, or None when it is none of ours.

    Platforms set variables of their own with our prefix (`GATEWAY_SERVICE_HOST`, `GATEWAY_PORT`),
    so only a section's name or a double underscore makes one ours.
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
                where, f"is inside a list, which {variable} cannot reach", f"give the list as JSON: {whole}"
            )
        child = step(node, key)
        if child is None:
            close = closest(key, list(node.get("properties", ())))
            hint = (
                f"did you mean {variable_of((*where[:depth], close))}?"
                if close
                else "see docs/configuration.md"
            )
            return Finding(where, "is no setting", hint)
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
