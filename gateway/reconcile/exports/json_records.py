"""JSON exports, one value at a time: lines, arrays, and objects that wrap a list of users.

The exports of the providers are not one JSON text each. Pages that were put one after the other are several;
and a list is wrapped, as in `{"users": […]}`, which may come after much else. So the outer brackets are read
here, and each value within them by the parser of the standard library, which can start anywhere in a text.
"""

import json
import re
from collections.abc import Generator, Iterator
from typing import Final

from gateway.core.model import JSON
from gateway.core.text import json_text
from gateway.reconcile.exports.text import MAX_LINE, BadExport, Text

_CHUNK: Final = 256 * 1024
"""Characters that are read at once."""
_SPACE: Final = re.compile(r"[ \t\r\n]*")
LISTS: Final = frozenset({"users", "Users", "value", "items", "data", "Resources", "results"})
"""The members that hold a list of users: Auth0, Keycloak, Firebase, Google; Cognito; Graph; others; SCIM."""
_KEPT: Final = 100
"""Members of a nested value that are kept, when it may be a part of a user and may be long."""


def json_records(text: Text) -> Iterator[tuple[int, JSON]]:
    """Yield each user after the number of its line. Raises `BadExport`."""
    cursor = _Cursor(text)
    wraps: bool | None = None
    while mark := cursor.peek():
        if mark == "[":
            yield from _array(cursor)
        elif mark == "{" and wraps is not False:
            # The first object tells for all: either each is a user, or each wraps a list of users.
            line = cursor.line
            record = yield from _wrapper(cursor)
            wraps = record is None
            if record is not None:
                yield line, record
        else:
            line = cursor.line
            yield line, cursor.value()


class _Cursor:
    """A place in a text of which little is in memory."""

    def __init__(self, text: Text) -> None:
        self._text = text
        self._buffer = ""
        self._at = 0
        self._ended = False
        self._decode = json.JSONDecoder().raw_decode
        self.line = 1
        """The number of the line, counted from 1."""

    def peek(self) -> str:
        """Return the next character that is not white space, and stay there; none at the end."""
        while True:
            self._go(_SPACE.match(self._buffer, self._at).end())  # type: ignore[union-attr]  # always matches
            if self._at < len(self._buffer):
                return self._buffer[self._at]
            if not self._more():
                return ""

    def take(self, marks: str) -> str:
        """Return the next character, which is one of `marks`, and go beyond it."""
        mark = self.peek()
        if not mark or mark not in marks:
            raise self._not_json()
        self._go(self._at + 1)
        return mark

    def value(self) -> JSON:
        """Return the next value, and go beyond it."""
        self.peek()
        while True:
            found, end = self._try()
            # A number may go on in what has not been read yet.
            if end is not None and (end < len(self._buffer) or self._ended):
                self._check_depth(end)
                self._go(end)
                return found
            if len(self._buffer) - self._at > MAX_LINE:
                raise BadExport(
                    self.line, "it has a value of more than 1 MiB, or is not JSON", "export it again as JSON"
                )
            if not self._more() and end is None:
                raise self._not_json()

    def _try(self) -> tuple[JSON, int | None]:
        """Return the value that begins here, and where it ends; None if what has been read is none."""
        try:
            return self._decode(self._buffer, self._at)
        except (ValueError, RecursionError):
            return None, None

    def _check_depth(self, end: int) -> None:
        try:
            json_text.check_depth(self._buffer[self._at : end].encode())
        except ValueError as error:
            raise BadExport(self.line, str(error), "export it again as JSON") from error

    def _more(self) -> bool:
        chunk = "" if self._ended else self._text.read(_CHUNK)
        if not chunk:
            self._ended = True
            return False
        self._buffer = self._buffer[self._at :] + chunk
        self._at = 0
        return True

    def _go(self, place: int) -> None:
        self.line += self._buffer.count("\n", self._at, place)
        self._at = place

    def _not_json(self) -> BadExport:
        return BadExport(
            self.line, "it is not JSON", "export it again as JSON: an array, or one object in each line"
        )


def _array(cursor: _Cursor, *, of_pages: bool = True) -> Iterator[tuple[int, JSON]]:
    """Yield the users of a list. An element that is a list, or wraps one, is a page of several."""
    cursor.take("[")
    if cursor.peek() == "]":
        cursor.take("]")
        return
    while True:
        if cursor.peek() == "[" and of_pages:
            yield from _array(cursor, of_pages=False)
        else:
            line = cursor.line
            value = cursor.value()
            page = _page(value)
            if page is None:
                yield line, value
            else:
                yield from ((line, each) for each in page)
        if cursor.take(",]") == "]":
            return


def _page(value: JSON) -> list[JSON] | None:
    if isinstance(value, dict) and not LISTS.isdisjoint(value):
        for name in LISTS & value.keys():
            page = value[name]
            if isinstance(page, list) and all(isinstance(each, dict) for each in page):
                return page
    return None


def _wrapper(cursor: _Cursor) -> Generator[tuple[int, JSON], None, dict[str, JSON] | None]:
    """Yield the users of the lists in an object; return the object if it has no such list."""
    cursor.take("{")
    members: dict[str, JSON] = {}
    wraps = False
    if cursor.peek() == "}":
        cursor.take("}")
        return members
    while True:
        name = cursor.value()
        cursor.take(":")
        if not isinstance(name, str):
            raise BadExport(cursor.line, "it is not JSON", "export it again as JSON")
        if name in LISTS and cursor.peek() == "[":
            wraps = True
            yield from _array(cursor)
        else:
            members[name] = _member(cursor)
        if cursor.take(",}") == "}":
            return None if wraps else members


def _member(cursor: _Cursor) -> JSON:
    """Return a value of an object that may be large, as a whole realm is; without the end of it if it is."""
    if cursor.peek() == "[":
        cursor.take("[")
        if cursor.peek() == "]":
            cursor.take("]")
            return []
        kept: list[JSON] = []
        while True:
            value = cursor.value()
            if len(kept) < _KEPT:
                kept.append(value)
            if cursor.take(",]") == "]":
                return kept
    return cursor.value()
