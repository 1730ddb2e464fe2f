"""YAML with line numbers: a document's values, and the line of each value."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import yaml

from gateway.settings.findings import Location


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

    def line(self, where: Location) -> int | None:
        """Return the line of a value, or of the nearest value around it that the file has."""
        for end in range(len(where), -1, -1):
            if where[:end] in self.lines:
                return self.lines[where[:end]]
        return None


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
    document = Document(lines={(): root.start_mark.line + 1})
    # Before construction, which merges `<<` into the nodes and keeps the last of equal keys.
    document.lines.update(_places(root, (), document.faults, frozenset()))
    document.data = loader.construct_document(root)
    return document


def _places(
    node: yaml.Node, where: Location, faults: list[tuple[Location, str, str]], above: frozenset[int]
) -> Iterator[tuple[Location, int]]:
    """Yield the line of each value below a node. An alias to a node above it is not followed."""
    above |= {id(node)}
    for key, child, line in _children(node, where, faults):
        yield (*where, key), line
        if id(child) not in above:
            yield from _places(child, (*where, key), faults, above)


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
