"""CSV exports, one row at a time: with comma, semicolon, tab or bar; as Excel and PowerShell leave them."""

import csv
from collections.abc import Iterator
from itertools import chain
from typing import Final

from gateway.reconcile.exports.text import BadExport, Text

_DELIMITERS: Final = (",", ";", "\t", "|")
_TYPE: Final = "#TYPE "
"""Windows PowerShell begins a file with the type of its objects."""
_SEPARATOR: Final = "sep="
"""Excel may begin a file with the delimiter."""

# `firebase auth:export` writes CSV without a header (firebase.google.com/docs/cli/auth).
_FIREBASE: Final = (
    *("localId", "email", "emailVerified", "passwordHash", "salt", "displayName", "photoUrl"),
    *(f"{provider} {field}" for provider in ("google", "facebook", "twitter", "github")
      for field in ("id", "email", "name", "photo")),
    *("createdAt", "lastLoginAt", "phoneNumber", "disabled", "customAttributes", "", ""),
)  # fmt: skip
_FIREBASE_COLUMNS: Final = range(26, len(_FIREBASE) + 1)
_CREATED: Final = _FIREBASE.index("createdAt")


class CsvRecords:
    """The rows of a CSV text, and its header. Raises `BadExport`."""

    def __init__(self, text: Text) -> None:
        self._text = text
        self._lines = text.lines()
        first = next((line for line in self._lines if not line.startswith(_TYPE)), None)
        delimiters: tuple[str, ...] = _DELIMITERS
        if first is not None and first.lower().startswith(_SEPARATOR) and len(first.strip()) == 5:
            delimiters = (first[len(_SEPARATOR)],)
            first = next(self._lines, None)
        if first is None or not first.strip():
            raise BadExport(1, "the export is empty", "export at least the header")
        self._delimiter, self.header = _header(first, delimiters, text.number)
        self._loose = _is_firebase(self.header)
        if self._loose:
            self._lines = chain([first], self._lines)
            self.header = list(_FIREBASE)
        self.line = text.number
        """The number of the header's line."""
        self._before = text.number - self._loose

    def __iter__(self) -> Iterator[tuple[int, list[str]]]:
        """Yield each row after the number of the line in which it begins."""
        rows = csv.reader(self._lines, delimiter=self._delimiter, strict=True)
        width = len(self.header)
        start = self._before + 1
        while True:
            try:
                row = next(rows, None)
            except csv.Error as error:
                raise _not_csv(start, error) from error
            if row is None:
                return
            if any(row):  # not a blank line, and not one of delimiters alone, as Excel leaves them
                yield start, row if len(row) == width else self._fitted(row, start)
            start = self._text.number + 1

    def _fitted(self, row: list[str], line: int) -> list[str]:
        """Return a row with as many columns as the header. Excel adds empty ones."""
        width = len(self.header)
        if self._loose:
            return (row + [""] * width)[:width]
        if len(row) < width or any(row[width:]):
            raise BadExport(
                line,
                f"it has {len(row)} columns, the header {width}",
                "quote values that contain the delimiter",
            )
        return row[:width]


def _header(first: str, delimiters: tuple[str, ...], line: int) -> tuple[str, list[str]]:
    """Return the delimiter and the columns: the delimiter that gives the most columns."""
    try:
        split = [(mark, next(csv.reader([first], delimiter=mark), [])) for mark in delimiters]
    except csv.Error as error:
        raise _not_csv(line, error) from error
    delimiter, header = max(split, key=lambda each: len(each[1]))
    return delimiter, [name.strip() for name in header]


def _is_firebase(row: list[str]) -> bool:
    return len(row) in _FIREBASE_COLUMNS and row[2] in {"true", "false"} and row[_CREATED].isdigit()


def _not_csv(line: int, error: csv.Error) -> BadExport:
    what = str(error).partition(" - ")[0]  # the rest is advice for callers of Python's open()
    return BadExport(
        line, f"it is not CSV: {what}", "end each line with LF or CR LF; double a quote within quotes"
    )
