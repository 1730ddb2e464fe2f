"""The structure of the configuration, read from its JSON Schema."""

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final, TypeAlias

import yaml

from gateway.settings.sections.model import Settings

# JSON Schema is open-ended: the type of a keyword's value depends on the keyword.
Schema: TypeAlias = Mapping[str, Any]

_KEPT: Final = ("description", "default", "examples", "x-kind", "x-one-or-more")
"""What a field says about the section or value that it refers to."""


@lru_cache(maxsize=1)
def schema() -> Schema:
    """Return the JSON Schema (draft 2020-12) of a configuration file."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **Settings.model_json_schema(by_alias=True),
        "title": "Gateway configuration",
    }


def resolved(node: Schema) -> Schema:
    """Follow a reference, and return the one alternative to null."""
    # A text that stands for a section is a shorter way to write it.
    alternatives = [option for option in node.get("anyOf", ()) if option.get("type") != "null"]
    sections = [option for option in alternatives if option.get("type") != "string"]
    alternatives = sections if len(sections) == 1 and "x-kind" in node else alternatives
    if "x-one-or-more" in node:
        alternatives = alternatives[:1]
    if len(alternatives) == 1:
        return {
            **resolved(alternatives[0]),
            **{key: node[key] for key in _KEPT if key in node},
        }
    if "$ref" in node:
        definition: Schema = schema()["$defs"][node["$ref"].removeprefix("#/$defs/")]
        return {**definition, **{key: value for key, value in node.items() if key != "$ref"}}
    return node


def step(node: Schema, key: str | int) -> Schema | None:
    """Return the schema under a key or at a position; None if there is none."""
    node = resolved(node)
    if isinstance(key, int):
        child = node if "x-one-or-more" in node else node.get("items")
    else:
        child = node.get("properties", {}).get(key) or values_of(node)
    return resolved(child) if child else None


def values_of(node: Schema) -> Schema | None:
    """Return the schema of the values of a mapping with free names; None for one with known keys."""
    free = node.get("additionalProperties") or next(iter(node.get("patternProperties", {}).values()), None)
    return resolved(free) if isinstance(free, Mapping) else None


def keys_at(where: tuple[str | int, ...]) -> list[str]:
    """Return the settings of a section."""
    node = at(where)
    return list(node.get("properties", ())) if node else []


def how_to_write(where: tuple[str | int, ...]) -> str | None:
    """Return an example of a setting with its key, as one line of YAML; None if there is none."""
    node = at(where)
    if node is None:
        return None
    line: str = yaml.safe_dump({where[-1]: _example(node)}, default_flow_style=True, width=math.inf)
    return line.strip().removeprefix("{").removesuffix("}")


def _example(node: Schema) -> object:
    """Return a valid value without its optional parts."""
    node = resolved(node)
    if "examples" in node:
        return node["examples"][0]
    if "items" in node:
        return [_example(node["items"])]
    return {
        key: _example(node["properties"][key]) for key in node.get("x-required", node.get("required", ()))
    }


def at(where: tuple[str | int, ...]) -> Schema | None:
    """Return the schema at a location; None if there is none."""
    node: Schema | None = schema()
    for key in where:
        node = step(node, key) if node else None
    return resolved(node) if node else None
