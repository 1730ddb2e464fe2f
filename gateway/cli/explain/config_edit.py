"""Changes one value of the configuration file, and nothing else: comments, order and spelling stay.

The new text is used only if YAML reads it as the old one with just that value changed, and if the gateway
would start with it. Where that cannot be had, nothing is written, and the patch is shown where there is one.
"""

import difflib
import json
import os
import re
from collections.abc import Iterator, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Final, TypeAlias

import yaml

from gateway.cli.terminal import files, output
from gateway.cli.terminal.yaml import flow
from gateway.core.model import JSON

Way: TypeAlias = tuple[str | int, ...]

_STEP: Final = re.compile(r"([A-Za-z_]\w*)|\[(\d+)\]")
_REPAIRS: Final = re.compile(
    r"issuers\[\d+\]\.(issuer|require|scope_separator|claims\.(tenant|scopes|roles))"
    r"|postgres\.(schema|replica_dsn)|users\.source\.replica_dsn"
)
"""What may be edited from here: where the gateway looks. All else lets more in, and people decide on it."""


class NotEditable(Exception):
    """Why a file is not changed. `text`: how it would be; None if that is not known."""

    def __init__(self, why: str, text: str | None = None) -> None:
        super().__init__(why)
        self.text = text


def edited(file: Path, line: str) -> str:
    """Return the text of a file with a line of a fix, such as `issuers[0].issuer: "https://…"`.

    Raises `NotEditable`.
    """
    from gateway.settings.reading.environment import Overrides

    field, _, written = line.partition(": ")
    way, value = _way(field), yaml.safe_load(written)
    try:
        before = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise NotEditable(f"it cannot be read: {error}") from error
    variable = Overrides(os.environ).origin(way)
    if variable is not None:
        raise NotEditable(f"the environment has this value, in {variable}")
    after = changed(before, way, value)
    if _REPAIRS.fullmatch(field) is None:
        raise NotEditable("the edit lets more requests in, which is a decision", after)
    if not os.access(file, os.W_OK):
        raise NotEditable("it may not be written to", after)
    return after


def _way(field: str) -> Way:
    return tuple(name or int(place) for name, place in _STEP.findall(field))


def changed(text: str, way: Way, value: JSON) -> str:
    """Return YAML with one value changed or added. Raises `NotEditable`."""
    try:
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Loader=yaml.SafeLoader)):
            raise NotEditable("it has aliases, so that one value may stand for several")
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise NotEditable("it is not one YAML document") from error
    if root is None:
        raise NotEditable("it is empty")
    parts = [*_edits(text, root, way, value)]
    after = text
    for start, end, new in sorted(parts, reverse=True):
        after = f"{after[:start]}{new}{after[end:]}"
    try:
        agrees = yaml.safe_load(after) == _with(data, way, value)
    except yaml.YAMLError:
        agrees = False
    if not agrees:
        raise NotEditable("the value is written in a form that cannot be changed safely")
    return after


Edit: TypeAlias = tuple[int, int, str]
"""From, to, and what stands there then."""


def _edits(text: str, node: yaml.Node, way: Way, value: JSON) -> Iterator[Edit]:
    """Yield the edits of the text, at a node and below."""
    if not way:
        yield from _replaced(text, node, value)
        return
    step, *rest = way
    if isinstance(step, int):
        if not isinstance(node, yaml.SequenceNode) or step >= len(node.value):
            raise NotEditable("it has no such entry in the list")
        yield from _edits(text, node.value[step], tuple(rest), value)
        return
    if not isinstance(node, yaml.MappingNode):
        raise NotEditable("it has something else in the place of the section")
    found = [child for key, child in node.value if key.value == step]
    if len(found) > 1 or any(key.tag == "tag:yaml.org,2002:merge" for key, _ in node.value):
        raise NotEditable("the section is merged from several places")
    if found:
        yield from _edits(text, found[0], tuple(rest), value)
        return
    for name in reversed(rest):
        if isinstance(name, int):
            raise NotEditable("it has no such entry in the list")
        value = {name: value}
    yield _inserted(text, node, step, value)


def _replaced(text: str, node: yaml.Node, value: JSON) -> Iterator[Edit]:
    start, end = node.start_mark.index, node.end_mark.index
    if "${" in text[start:end]:
        raise NotEditable("the environment has a part of this value")
    if isinstance(node, yaml.SequenceNode) and isinstance(value, list) and not node.flow_style:
        yield from _items(text, node, value)
    elif isinstance(node, yaml.ScalarNode) and node.style not in ("|", ">"):
        space = " " if start == end else ""
        yield start, end, f"{space}{_written(text, value)}"
    elif getattr(node, "flow_style", False) and "#" not in text[start:end]:
        yield start, end, _written(text, value)
    else:
        raise NotEditable("the value takes several lines, whose comments would be lost")


def _items(text: str, node: yaml.SequenceNode, value: list[JSON]) -> Iterator[Edit]:
    """Change a list of one entry a line: what stays, stays as it is written."""
    if len(value) < len(node.value) or not node.value:
        raise NotEditable("the list would lose an entry, and its comment")
    for item, wanted in zip(node.value, value, strict=False):
        if yaml.safe_load(text[item.start_mark.index : item.end_mark.index]) != wanted:
            yield from _replaced(text, item, wanted)
    last = node.value[-1]
    dash = " " * node.start_mark.column
    end = _end_of_line(text, last)
    for wanted in value[len(node.value) :]:
        yield end, end, f"\n{dash}- {_written(text, wanted)}"


def _inserted(text: str, node: yaml.MappingNode, name: str, value: JSON) -> Edit:
    """Add an entry at the end of a mapping."""
    if node.flow_style:
        end = node.end_mark.index - 1
        if "#" in text[node.start_mark.index : end] or text[end] != "}":
            raise NotEditable("the section is written in a form that cannot be changed safely")
        held = text[:end].rstrip()
        comma = ", " if node.value and not held.endswith(",") else ""
        entry = f"{_written(text, name)}: {_written(text, value)}"
        return len(held), len(held), f"{comma}{entry}"
    end = _end_of_line(text, node)
    return end, end, f"\n{' ' * node.start_mark.column}{name}: {_written(text, value)}"


def _end_of_line(text: str, node: yaml.Node) -> int:
    """Return where the last line of a node ends, with the comment on it."""
    last = _last(node)
    if isinstance(last, yaml.ScalarNode) and last.style in ("|", ">"):
        raise NotEditable("the value before takes several lines")
    end = text.find("\n", last.end_mark.index)
    return len(text) if end < 0 else end


def _last(node: yaml.Node) -> yaml.Node:
    """Return what stands last in a node: the mark of the end of a block is behind the comments after it."""
    while isinstance(node, yaml.CollectionNode) and not node.flow_style and node.value:
        last = node.value[-1]
        node = last[1] if isinstance(node, yaml.MappingNode) else last
    return node


def _written(text: str, value: JSON) -> str:
    is_json = text.lstrip()[:1] in {"{", "["}
    return json.dumps(value, ensure_ascii=False) if is_json else flow(value)


def _with(data: JSON, way: Way, value: JSON) -> JSON:
    """Return values with one changed or added."""
    result = deepcopy(data)
    node = result
    for step, following in zip(way, [*way[1:], None], strict=True):
        if isinstance(step, int) and isinstance(node, list):
            if following is None:
                node[step] = value
            node = node[step]
        elif isinstance(step, str) and isinstance(node, dict):
            if following is None:
                node[step] = value
            node = node.setdefault(step, {})
    return result


def patch(file: Path, text: str) -> str:
    """Return the change of a file as a patch."""
    before = file.read_text(encoding="utf-8")
    return "".join(_lines(before, text, str(file))).rstrip("\n")


def _lines(before: str, after: str, name: str) -> Iterator[str]:
    def ended(text: str) -> Sequence[str]:
        return [line if line.endswith("\n") else f"{line}\n" for line in text.splitlines(keepends=True)]

    yield from difflib.unified_diff(ended(before), ended(after), name, name)


def write(file: Path, text: str) -> None:
    """Put a text in the place of a file's, at once; exit if the gateway would not start with it."""
    from gateway.settings import ConfigurationError, load

    try:
        files.write(file, text, accept=load)
    except ConfigurationError as error:
        output.fail(f"{file} was not changed: with the edit, it has mistakes: {error}", code=output.USAGE)
    except OSError as error:
        output.fail(f"{file} was not changed: {error.strerror}", "edit it by hand", output.USAGE)
