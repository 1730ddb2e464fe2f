"""The reference of all settings as Markdown, generated from the models."""

import json
from collections.abc import Iterator

from gateway.settings.reading.environment import variable_of
from gateway.settings.reading.shape import Schema, resolved, schema, values_of

_HEAD = """\
# Configuration

Gateway reads one YAML file: `--config FILE`, else `$GATEWAY_CONFIG`, else `config/gateway.yaml`.
[`config/gateway.yaml`](../config/gateway.yaml) is an example with every setting.

- An unknown key is an error. `gateway check` reports every mistake at once, each with its line.
- Durations are `500ms`, `30s`, `5m`, `24h`; sizes are `512B`, `64KiB`, `1MiB`. The unit is part of the value.
- An environment variable can override each value: `GATEWAY_`, then the sections and the key in capitals,
  joined by two underscores. Lists and mappings are JSON. A mapping is merged into the file's mapping; a list
  replaces the file's list. `null` means no value. A value inside a list (`issuers`, `routes`) cannot be
  overridden alone: override the whole list.
- `${NAME}` in a text of the file is the environment's; `$${` is a literal `${`.
- `GATEWAY_SECTION__KEY_FILE` names a file with the value, for secrets that are mounted as files.
- Paths of files are relative to the directory in which the gateway is started.
- Put secrets into the environment, or into files that only the gateway can read.

`gateway schema --markdown` generates this page.
"""


def markdown() -> str:
    """Return the page docs/configuration.md."""
    sections = [_HEAD.rstrip()]
    for name, node in schema()["properties"].items():
        sections += _section((name,), resolved(node))
    return "\n".join(sections).rstrip()


def _section(where: tuple[str, ...], node: Schema) -> Iterator[str]:
    """Yield a heading and a table, then the same for each section too nested for the table."""
    entry, where = _entry(node, where)
    heading = ".".join(where).replace(".[]", "[]")
    yield f"\n## `{heading}`\n\n{entry.get('description', '')}\n"
    yield "| setting | type | default | meaning | variable |\n|---|---|---|---|---|"
    required = entry.get("x-required", entry.get("required", ()))
    nested: list[tuple[tuple[str, ...], Schema]] = []
    for key, child in entry.get("properties", {}).items():
        below = resolved(child)
        if "x-parameter" in below:
            # Of a preset: docs/providers.md has it.
            continue
        if "properties" in _entry(below, ())[0] and "x-kind" not in below:
            nested.append(((*where, key), below))
            continue
        cells = (
            f"`{key}`",
            _kind(below),
            "**required**" if key in required else _default(child),
            below.get("description", ""),
            _variable((*where, key)),
        )
        yield "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"
    for path, below in nested:
        yield from _section(path, below)


def _entry(node: Schema, where: tuple[str, ...]) -> tuple[Schema, tuple[str, ...]]:
    """Return the section that a list, or a mapping with free names, contains; None if it contains none."""
    if "items" in node:
        return resolved(node["items"]), (*where, "[]")
    free = values_of(node)
    return (free, (*where, "<name>")) if free is not None and "properties" in free else (node, where)


def _kind(node: Schema) -> str:
    """Return the type of a value in a word. `x-kind` has the word where JSON Schema has none."""
    if "x-kind" in node:
        return str(node["x-kind"])
    if "enum" in node:
        return " or ".join(f"`{choice}`" for choice in node["enum"])
    if "items" in node:
        return f"list of {_kind(resolved(node['items']))}"
    free = values_of(node)
    if free is not None:
        return f"mapping to {_kind(free)}"
    names = {"string": "text", "integer": "number", "boolean": "true or false"}
    formats = {"path": "path", "password": "secret"}
    return formats.get(node.get("format", "")) or names[node["type"]]


def _default(node: Schema) -> str:
    if "default" not in node:
        return "see meaning"
    value = node["default"]
    return f"`{value}`" if isinstance(value, str) else f"`{json.dumps(value, ensure_ascii=False)}`"


def _variable(where: tuple[str, ...]) -> str:
    if "[]" in where:
        return f"in `{variable_of(where[: where.index('[]')])}`"
    return f"`{variable_of(where)}`"
