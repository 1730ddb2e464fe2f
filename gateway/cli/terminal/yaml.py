"""Values as YAML in one line, as people write them in a configuration."""

import json
import re
from collections.abc import Iterator
from typing import Final

import yaml

from gateway.core.model import JSON

_PLAIN: Final = re.compile(r"[A-Za-z0-9/_.+:-][A-Za-z0-9/_.+:@-]*")


def entry(settings: dict[str, JSON]) -> Iterator[str]:
    """Yield the lines of one entry of a list, below the list's name: one setting a line."""
    for index, (name, value) in enumerate(settings.items()):
        yield f"  {'-' if index == 0 else ' '} {name}: {flow(value)}"


def flow(value: JSON) -> str:
    """Return a value in YAML's flow style, quoted where it would be read as something else."""
    match value:
        case dict():
            return "{" + ", ".join(f"{flow(name)}: {flow(each)}" for name, each in value.items()) + "}"
        case list():
            return "[" + ", ".join(map(flow, value)) + "]"
        case str():
            return value if _is_plain(value) else json.dumps(value)
        case _:
            return json.dumps(value)


def _is_plain(text: str) -> bool:
    """Tell whether YAML reads a text as itself, also between brackets."""
    if not _PLAIN.fullmatch(text):
        return False
    try:
        return bool(
            yaml.safe_load(f"[{text}]") == [text] and yaml.safe_load(f"{{{text}: {text}}}") == {text: text}
        )
    except yaml.YAMLError:
        return False
