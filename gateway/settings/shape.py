"""The shape of the configuration: which settings there are, read from its JSON Schema."""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, TypeAlias

from gateway.settings.model import Settings

# JSON Schema is open-ended: what a keyword holds depends on the keyword.
Schema: TypeAlias = Mapping[str, Any]


@lru_cache(maxsize=1)
def schema() -> Schema:
    """Return the JSON Schema (draft 2020-12) of a configuration file."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **Settings.model_json_schema(by_alias=True),
        "title": "Gateway configuration",
    }


def resolved(node: Schema) -> Schema:
    """Follow a reference, and take the one alternative to null."""
    alternatives = [option for option in node.get("anyOf", ()) if option.get("type") != "null"]
    if len(alternatives) == 1:
        return {
            **resolved(alternatives[0]),
            **{key: node[key] for key in ("description", "default") if key in node},
        }
    if "$ref" in node:
        definition: Schema = schema()["$defs"][node["$ref"].removeprefix("#/$defs/")]
        return {**definition, **{key: value for key, value in node.items() if key != "$ref"}}
    return node


def step(node: Schema, key: str | int) -> Schema | None:
    """Return what belongs under a key or at a position; None when nothing does."""
    node = resolved(node)
    if isinstance(key, int):
        child = node.get("items")
    else:
        child = node.get("properties", {}).get(key) or values_of(node)
    return resolved(child) if child else None


def values_of(node: Schema) -> Schema | None:
    """Return what a mapping with free names holds; None for one with known keys."""
    free = node.get("additionalProperties") or next(iter(node.get("patternProperties", {}).values()), None)
    return resolved(free) if isinstance(free, Mapping) else None


def keys_at(where: tuple[str | int, ...]) -> list[str]:
    """Return the settings that a section knows."""
    node = at(where)
    return list(node.get("properties", ())) if node else []


def meaning_of(where: tuple[str | int, ...]) -> str | None:
    """Return the description of a setting, or of the entries of a list or mapping without one."""
    node = at(where)
    if node is None:
        return None
    entries = node.get("items") or values_of(node) or {}
    return node.get("description") or resolved(entries).get("description")


def at(where: tuple[str | int, ...]) -> Schema | None:
    """Return the schema of what is at a location; None when nothing is."""
    node: Schema | None = schema()
    for key in where:
        node = step(node, key) if node else None
    return resolved(node) if node else None
