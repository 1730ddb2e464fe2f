"""The text of an export: compression and encoding are recognised by the first bytes."""

import gzip
import io
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO, Final, cast

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

MAX_LINE: Final = 1024 * 1024
"""Characters of a line of CSV, and of a JSON value; a file must not be read into memory as a whole."""
_BUFFER: Final = 64 * 1024
_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_PEEKED: Final = 1024
_NO_TEXT: Final = b"\xef\xbb\xbf\xff\xfe\0 \t\r\n"
_GZIP: Final = b"\x1f\x8b"
_ZIP: Final = b"PK\x03\x04"


class BadExport(Exception):
    """An export that cannot be read: the line, the mistake, and the fix. It quotes no subject."""

    def __init__(self, line: int, wrong: str, advice: str) -> None:
        super().__init__(f"line {line}: {wrong}")
        self.advice = advice


class Text:
    """A binary file as text: UTF-8 or UTF-16, with or without a byte order mark, perhaps in gzip.

    Raises `BadExport` for other files.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = _Counted(file)
        self._number = 0
        octets: io.BufferedReader = io.BufferedReader(cast("io.RawIOBase", self._file), _BUFFER)
        with self._translated():
            if octets.peek(2).startswith(_GZIP):
                unpacked = gzip.GzipFile(fileobj=octets)
                octets = io.BufferedReader(cast("io.RawIOBase", unpacked), _BUFFER)
            beginning = octets.peek(_PEEKED)[:_PEEKED]
        self.first = beginning.strip(_NO_TEXT)[:1].decode("ascii", "replace")
        """The first character that is not white space; empty if there is none near the beginning."""
        if beginning.startswith(_ZIP):
            raise BadExport(1, "it is a ZIP archive or an Excel file", "unpack it, or save it as CSV UTF-8")
        self._text = io.TextIOWrapper(
            octets, _encoding(beginning[:4]), errors="surrogateescape", newline="\n"
        )

    @property
    def bytes_read(self) -> int:
        """Bytes of the file, as it is compressed."""
        return self._file.bytes_read

    @property
    def number(self) -> int:
        """The number of the line that `lines` returned last, counted from 1."""
        return self._number

    def lines(self) -> Iterator[str]:
        """Yield each line with its end."""
        while True:
            with self._translated():
                line = self._text.readline(MAX_LINE + 1)
            if not line:
                return
            self._number += 1
            if len(line) > MAX_LINE:
                raise BadExport(self._number, "it is longer than 1 MiB", "write one user in each line")
            if not line.isascii() and _SURROGATE.search(line):
                raise _not_text(self._number)
            yield line

    def read(self, characters: int) -> str:
        """Return the next characters; none at the end. Do not call it between two lines."""
        with self._translated():
            text = self._text.read(characters)
        if not text.isascii() and (wrong := _SURROGATE.search(text)):
            raise _not_text(self._number + 1 + text.count("\n", 0, wrong.start()))
        self._number += text.count("\n")
        return text

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except UnicodeDecodeError as error:
            raise _not_text(self._number + 1) from error
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise BadExport(
                self._number + 1, "from here on, the gzip file is damaged", "export it again"
            ) from error


class _Counted(io.RawIOBase):
    """Counts the bytes that are read from a file."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.bytes_read = 0

    def readable(self) -> bool:
        return True

    def readinto(self, into: "WriteableBuffer", /) -> int:
        view = memoryview(into)
        data = self._file.read(len(view))
        view[: len(data)] = data
        self.bytes_read += len(data)
        return len(data)


def _encoding(beginning: bytes) -> str:
    """Return the encoding that the first four bytes show. Windows PowerShell writes UTF-16."""
    if beginning.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "utf-16"
    if beginning[1::2] == b"\0\0":
        return "utf-16-le"
    if beginning[::2] == b"\0\0":
        return "utf-16-be"
    return "utf-8-sig"


def _not_text(line: int) -> BadExport:
    return BadExport(line, "it is not UTF-8 text", "convert the file, for example with iconv -t UTF-8")
