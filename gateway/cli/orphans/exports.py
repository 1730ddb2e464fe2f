"""An identity provider's export of subjects: CSV with a header, or JSON lines. UTF-8, read line by line."""

import csv
from collections.abc import Iterable, Iterator
from enum import StrEnum
from pathlib import PurePath
from typing import BinaryIO, Final

import orjson

from gateway.core import json_text

_MAX_LINE: Final = 1024 * 1024
"""Bytes; a file without line ends must not be read into memory as a whole."""
_USUAL_COLUMNS: Final = ("sub", "subject", "user_id", "userid", "user id", "uid", "id", "object id")


class Format(StrEnum):
    """The format of an export."""

    CSV = "csv"
    JSONL = "jsonl"
    AUTO = "auto"


class BadExport(Exception):
    """An export that cannot be read: the line, the mistake, and the fix. It quotes no subject."""

    def __init__(self, line: int, wrong: str, advice: str) -> None:
        super().__init__(f"line {line}: {wrong}")
        self.advice = advice


class Lines:
    """The lines of a binary file, decoded and counted. Raises `BadExport`."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.number = 0
        """The number of the line that was read last, counted from 1."""
        self.bytes_read = 0

    def __iter__(self) -> Iterator[str]:
        while line := self._file.readline(_MAX_LINE + 1):
            self.number += 1
            self.bytes_read += len(line)
            if len(line) > _MAX_LINE:
                raise BadExport(self.number, "it is longer than 1 MiB", "write one subject in each line")
            try:
                yield line.decode("utf-8-sig" if self.number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise BadExport(
                    self.number, "it is not UTF-8 text", "convert the file, for example with iconv -t UTF-8"
                ) from error


def subjects(
    lines: Lines, *, style: Format = Format.AUTO, column: str = "sub", name: str = ""
) -> Iterator[tuple[int, str]]:
    """Yield each subject after the number of its line.

    `column` is the column, or the member of the objects, that holds the subject. With `Format.AUTO`
    the file's `name` decides, then its first character. Raises `BadExport`.
    """
    rest = iter(lines)
    first = next(rest, None)
    if first is None:
        raise BadExport(1, "the export is empty", "export at least the header")
    if style is Format.AUTO:
        style = _style(first, name)
    if style is Format.JSONL:
        yield from _from_json(lines, first, rest, column)
    else:
        yield from _from_csv(lines, first, rest, column)


def _style(first: str, name: str) -> Format:
    suffix = PurePath(name).suffix.lower()
    if suffix in {".csv", ".tsv"}:
        return Format.CSV
    if suffix in {".jsonl", ".ndjson", ".json"} or first.lstrip().startswith(("{", "[")):
        return Format.JSONL
    return Format.CSV


def _from_json(lines: Lines, first: str, rest: Iterator[str], column: str) -> Iterator[tuple[int, str]]:
    if first.lstrip().startswith("["):
        raise BadExport(1, "this is one JSON array", "write one object in each line: jq -c '.[]' FILE")
    line: str | None = first
    while line is not None:
        if line.strip():
            yield lines.number, _member(line, lines.number, column)
        line = next(rest, None)


def _member(line: str, number: int, column: str) -> str:
    try:
        json_text.check_depth(line.encode())
        value = orjson.loads(line)
    except ValueError as error:
        raise BadExport(number, "it is not JSON", "write one JSON object in each line") from error
    if isinstance(value, dict):
        if column not in value:
            raise BadExport(number, f"it has no `{column}`", _advice(column, value))
        value = value[column]
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)  # some providers number their users; their tokens carry the number as text
    if not isinstance(value, str) or not value:
        raise BadExport(number, "its subject is not a string", "correct the line or remove it")
    return value


def _from_csv(lines: Lines, first: str, rest: Iterator[str], column: str) -> Iterator[tuple[int, str]]:
    header, delimiter = _header(first, column)
    place = header.index(column)
    rows = csv.reader(rest, delimiter=delimiter, strict=True)
    while True:
        start = lines.number + 1
        try:
            row = next(rows, None)
        except csv.Error as error:
            raise _not_csv(start, error) from error
        if row is None:
            return
        if not row:
            continue
        if len(row) != len(header):
            raise BadExport(
                start,
                f"it has {len(row)} columns, the header {len(header)}",
                "quote values that contain the delimiter",
            )
        if not row[place]:
            raise BadExport(start, "its subject is empty", "correct the line or remove it")
        yield start, row[place]


def _header(first: str, column: str) -> tuple[list[str], str]:
    """Return the columns and the delimiter: the delimiter with which the wanted column is there."""
    try:
        split = {mark: next(csv.reader([first], delimiter=mark), []) for mark in (",", ";", "\t")}
    except csv.Error as error:
        raise _not_csv(1, error) from error
    for delimiter, header in split.items():
        names = [each.strip() for each in header]
        if names.count(column) == 1:
            return names, delimiter
        if column in names:
            raise BadExport(1, f"it has the column `{column}` more than once", "remove all but one")
    every = [name.strip() for header in split.values() for name in header]
    raise BadExport(1, f"the header has no column `{column}`", _advice(column, every))


def _not_csv(line: int, error: csv.Error) -> BadExport:
    what = str(error).partition(" - ")[0]  # the rest is advice for callers of Python's open()
    return BadExport(
        line, f"it is not CSV: {what}", "end each line with LF or CR LF; double a quote within quotes"
    )


def _advice(column: str, names: Iterable[str]) -> str:
    """Suggest a usual column. Do not quote other names: without a header, they may be personal data."""
    usual = next((name for name in names if name.lower() in _USUAL_COLUMNS and name != column), None)
    if usual is not None:
        return f"--column {usual!r}" if " " in usual else f"--column {usual}"
    return "name the column with the subject: --column NAME"
