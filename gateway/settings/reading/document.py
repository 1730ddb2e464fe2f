"""YAML with line numbers: a document's values, and the line of each value."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import yaml

from gateway.settings.findings import Location

_PROPERTIES: Final = re.compile(r"(?:[&!]\S*\s+)*")
"""An anchor and a tag before a value (YAML 1.2 §6.9)."""
_DIGITS: Final = {"x": 2, "u": 4, "U": 8}
_SPACES: Final = frozenset(" \ttnrvfNLP_\r\n")
"""Escapes of white space (YAML 1.2 §5.7), and the one of a line break, which stands for nothing."""


class Unreadable(Exception):
    """Text that is not one YAML document. `line` counts from 1; None if it is not known."""

    def __init__(self, message: str, line: int | None) -> None:
        super().__init__(message)
        self.line = line


@dataclass(slots=True)
class Document:
    """The mapping at a document's root, and the line of each value."""

    data: dict[str, object] = field(default_factory=dict)
    lines: dict[Location, int] = field(default_factory=dict)
    faults: list[tuple[Location, str, str]] = field(default_factory=list)
    """Keys that YAML accepts and the gateway refuses: location, mistake, fix."""
    text: str = ""
    scalars: dict[Location, yaml.ScalarNode] = field(default_factory=dict)
    """The node of each single value, which knows where its text begins and ends."""

    def line(self, where: Location) -> int | None:
        """Return the line of a value, or of the nearest value around it that the file has."""
        for end in range(len(where), -1, -1):
            if where[:end] in self.lines:
                return self.lines[where[:end]]
        return None

    def position(self, where: Location, at: int) -> tuple[int, int] | None:
        """Return line and column, from 1, of a place within a text; None if the text is not in the file.

        YAML folds lines and writes escapes, so places are counted by the characters that are not white space.
        """
        node = self.scalars.get(where)
        if node is None or not isinstance(node.value, str):
            return None
        wanted = sum(not character.isspace() for character in node.value[:at])
        place, last = _content(node, self.text), node.end_mark.index
        while place < last:
            length, visible = _step(self.text, place, node.style)
            if visible and not wanted:
                break
            wanted -= visible
            place += length
        line = self.text.count("\n", 0, place) + 1
        return line, place - (self.text.rfind("\n", 0, place) + 1) + 1


def _content(node: yaml.ScalarNode, text: str) -> int:
    """Return the index at which the text of a scalar begins: behind anchor, tag, quote or head of a block."""
    start: int = node.start_mark.index
    if node.style in ("|", ">"):
        return text.find("\n", start) + 1
    if (properties := _PROPERTIES.match(text, start)) is not None:
        start = properties.end()
    return start + (node.style in ("'", '"'))


def _step(text: str, place: int, style: str | None) -> tuple[int, bool]:
    """Return how many characters of the file stand for one of the value, and whether that can be seen."""
    if style == "'" and text.startswith("''", place):
        return 2, True
    if style != '"' or text[place] != "\\":
        return 1, not text[place].isspace()
    kind = text[place + 1 : place + 2]
    if kind not in _DIGITS:
        return 2, kind not in _SPACES
    end = place + 2 + _DIGITS[kind]
    return end - place, not chr(int(text[place + 2 : end], 16)).isspace()


def parse(text: str) -> Document:
    """Read a YAML document whose root is a mapping; an empty one is an empty mapping.

    Raises `Unreadable`.
    """
    try:
        return _read(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        message = error.problem or error.context or "cannot be read"
        raise Unreadable(f"not YAML: {message}", mark.line + 1 if mark else None) from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise Unreadable(f"not YAML: {error.reason}", line) from error
    except (ValueError, RecursionError) as error:
        raise Unreadable("not YAML: it contains a value that cannot be read", None) from error


def _read(text: str) -> Document:
    loader = yaml.SafeLoader(text)
    root = loader.get_single_node()
    if root is None:
        return Document()
    # A YAML set is a mapping node too, but no mapping is constructed from it.
    if not isinstance(root, yaml.MappingNode) or root.tag != "tag:yaml.org,2002:map":
        raise Unreadable("must be a mapping of sections", root.start_mark.line + 1)
    document = Document(lines={(): root.start_mark.line + 1}, text=text)
    # Before construction, which merges `<<` into the nodes and keeps the last of equal keys.
    document.lines.update(_places(root, (), document, frozenset()))
    document.data = loader.construct_document(root)
    return document


def _places(
    node: yaml.Node, where: Location, document: Document, above: frozenset[int]
) -> Iterator[tuple[Location, int]]:
    """Yield the line of each value below a node. An alias to a node above it is not followed."""
    above |= {id(node)}
    for key, child, line in _children(node, where, document.faults):
        yield (*where, key), line
        if isinstance(child, yaml.ScalarNode):
            document.scalars[(*where, key)] = child
        elif id(child) not in above:
            yield from _places(child, (*where, key), document, above)


def _children(
    node: yaml.Node, where: Location, faults: list[tuple[Location, str, str]]
) -> Iterator[tuple[str | int, yaml.Node, int]]:
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            yield index, item, item.start_mark.line + 1
    elif isinstance(node, yaml.MappingNode):
        seen: dict[str, int] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if key.tag == "tag:yaml.org,2002:merge":
                continue
            name = str(key.value)
            if key.tag != "tag:yaml.org,2002:str":
                faults.append(
                    ((*where, name), "is not text, but keys must be", f'put it in quotes: "{name}"')
                )
            if name in seen:
                advice = f"remove this one or the one on line {seen[name]}"
                faults.append(((*where, name), "is given twice", advice))
            seen[name] = line
            yield name, value, line
