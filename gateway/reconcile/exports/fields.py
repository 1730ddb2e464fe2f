"""How the fields of a record are found by name: in a row of CSV by the header, in JSON by the members."""

from collections.abc import Iterable, Mapping
from typing import Final, Protocol

from gateway.core.model import JSON
from gateway.reconcile.exports.accounts import Field, Record
from gateway.reconcile.exports.layouts import PLAIN, Names, normal
from gateway.reconcile.exports.text import BadExport


class Fields(Protocol):
    """Finds fields by their names."""

    @property
    def names(self) -> frozenset[str]:
        """The names of all fields, or of those of the first record, in their normal form."""

    def field(self, names: Names, /) -> Field:
        """Return a reader of the first of these fields that is there; it returns None if none is."""

    def lacks(self, line: int, record: JSON, name: str, /) -> BadExport:
        """Return the error for a record without a subject in the field of this name."""


class Columns:
    """Finds the columns of CSV. Raises `BadExport` for one that is there more than once."""

    def __init__(self, header: list[str], line: int) -> None:
        self._header = header
        self._line = line
        self._normal = [normal(name) for name in header]

    @property
    def names(self) -> frozenset[str]:
        return frozenset(self._normal)

    def field(self, names: Names) -> Field:
        for name in names:
            for wanted, present in ((name, self._header), (normal(name), self._normal)):
                if present.count(wanted) > 1:
                    raise BadExport(
                        self._line, f"it has the column `{name}` more than once", "remove all but one"
                    )
                if wanted in present:
                    return _cell(present.index(wanted))
        return nothing

    def lacks(self, line: int, record: JSON, name: str) -> BadExport:
        if record is None:
            wrong = f"the header has no column `{name}`"
            return BadExport(self._line, wrong, advice(name, self._header))
        return BadExport(line, "its subject is empty", "correct the line or remove it")


class Members:
    """Finds the members of JSON objects. A name with dots leads into them, unless a member has that name."""

    def __init__(self, first: Mapping[str, JSON]) -> None:
        self._names = set(map(normal, first))
        for name, value in first.items():
            if isinstance(value, dict):
                self._names.update(normal(name + inner) for inner in value)

    @property
    def names(self) -> frozenset[str]:
        return frozenset(self._names)

    def field(self, names: Names) -> Field:
        return _member([(name, name.split(".") if "." in name else None) for name in names])

    def lacks(self, line: int, record: JSON, name: str) -> BadExport:
        if isinstance(record, dict) and self.field((name,))(record) is None and name not in record:
            return BadExport(line, f"it has no `{name}`", advice(name, record))
        return BadExport(line, "its subject is not a string", "correct the line or remove it")


class Values:
    """An export of JSON strings or numbers: each is a subject, and has no fields."""

    names: Final[frozenset[str]] = frozenset()

    def field(self, _: Names, /) -> Field:
        return nothing

    def lacks(self, line: int, _record: JSON, _name: str, /) -> BadExport:
        return BadExport(line, "its subject is not a string", "correct the line or remove it")


def nothing(_: Record) -> JSON:
    """Read a field that is not there."""
    return None


def itself(record: Record) -> JSON:
    """Read a record that is a subject itself."""
    return record


def advice(name: str, names: Iterable[str]) -> str:
    """Suggest a usual column. Do not quote other names: without a header, they may be personal data."""
    usual = {normal(each) for candidate in PLAIN for each in candidate.names}
    found = next((each for each in names if normal(each) in usual and each != name), None)
    if found is not None:
        return f"--column {found!r}" if " " in found else f"--column {found}"
    return "name the column with the subject: --column NAME"


def _cell(place: int) -> Field:
    def read(record: Record) -> JSON:
        return record[place] if isinstance(record, list) else None

    return read


def _member(paths: list[tuple[str, list[str] | None]]) -> Field:
    def read(record: Record) -> JSON:
        if not isinstance(record, dict):
            return None
        for name, steps in paths:
            value = record.get(name)
            if value is None and steps is not None:
                value = record
                for step in steps:
                    value = value.get(step) if isinstance(value, dict) else None
            if value is not None and value != "":
                return value
        return None

    return read
