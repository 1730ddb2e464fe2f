"""The file of an OpenAPI description, in YAML or JSON: what it has, or where it cannot be read.

A name that is given twice is refused: which of the two counts, readers do not agree on.
"""

import json
from collections.abc import Hashable
from pathlib import Path

import yaml

from gateway.cli.routes.operations import NotOpenApi


def load(file: Path) -> object:
    """Return what a file has. Raises `NotOpenApi`."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise NotOpenApi(f"cannot be read: {error}") from error
    try:
        # YAML does not take the tabs that JSON may have.
        if text.lstrip().startswith("{") and "\t" in text:
            return json.loads(text, object_pairs_hook=_members)
        return yaml.load(text, _Loader)  # noqa: S506 -- it is a SafeLoader
    except (yaml.YAMLError, ValueError) as error:
        raise NotOpenApi(f"is neither YAML nor JSON: {error}") from error
    except RecursionError as error:
        raise NotOpenApi("is nested too deeply") from error


def _members(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members: dict[str, object] = {}
    for name, value in pairs:
        if name in members:
            raise NotOpenApi(f"has {name!r} twice in one object")
        members[name] = value
    return members


class _Loader(yaml.SafeLoader):
    """Reads what `yaml.safe_load` does, but leaves dates as texts: examples have some that do not exist."""

    def construct_mapping(
        self,
        node: yaml.MappingNode,
        deep: bool = False,  # noqa: FBT001, FBT002 -- as in the library
    ) -> dict[Hashable, object]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    line = key.start_mark.line + 1
                    raise NotOpenApi(f"line {line}: {key.value!r} is given twice")
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def _text(loader: _Loader, node: yaml.ScalarNode) -> str:
    return str(loader.construct_scalar(node))


_Loader.add_constructor("tag:yaml.org,2002:timestamp", _text)
