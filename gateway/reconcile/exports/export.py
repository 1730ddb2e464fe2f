"""An export of an identity provider, as it is: `Export` recognises it and reads its users one by one."""

import re
from collections.abc import Iterator, Sequence
from enum import StrEnum
from itertools import chain, islice
from pathlib import PurePath
from typing import BinaryIO, Final

from gateway.core.model import JSON
from gateway.reconcile.exports import accounts
from gateway.reconcile.exports.accounts import Account, Field, Record, StatusReader, each_of, text_of
from gateway.reconcile.exports.csv_records import CsvRecords
from gateway.reconcile.exports.fields import Columns, Fields, Members, Values, itself, nothing
from gateway.reconcile.exports.json_records import json_records
from gateway.reconcile.exports.layouts import KEYCLOAK_REALM, LAYOUTS, PLAIN, SubjectField, normal
from gateway.reconcile.exports.text import BadExport, Text

_ROUNDED: Final = re.compile(r"\d[.,]\d+E\+\d+")
_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_FORMULA: Final = re.compile("'[-=+@]")
"""Auth0 writes a quote before text that a spreadsheet would take for a formula."""
_ATTRIBUTES: Final = ("Attributes", "UserAttributes")
"""Members of Cognito's users that list further fields."""


class Format(StrEnum):
    """The format of an export."""

    CSV = "csv"
    JSONL = "jsonl"
    AUTO = "auto"


class Export:
    """An export: first `choose` the field with the subjects, then read it, once. Raises `BadExport`.

    `claim` is the issuer's `subject`; `column` names the field, if a person did; `name` is the file's.
    """

    def __init__(
        self,
        file: BinaryIO,
        *,
        claim: str = "sub",
        column: str | None = None,
        style: Format = Format.AUTO,
        name: str = "",
    ) -> None:
        self._text = Text(file)
        self._claim = claim
        self._column = column
        self.by_email = False
        """Whether it has no subjects, and e-mail addresses stand in their place."""
        self._records: Iterator[tuple[int, Record]]
        is_json = _is_json(self._text, style, name)
        self._fields = self._open_json() if is_json else self._open_csv()
        self._layout = next((each for each in LAYOUTS if each.fits(self._fields.names)), None)
        self.candidates: tuple[SubjectField, ...] = tuple(self._present())
        """The fields that may hold the subjects."""
        self._chosen = self.candidates[0] if self.candidates else None

    @property
    def provider(self) -> str | None:
        """The provider that writes such exports, if it is known."""
        return None if self._layout is None else self._layout.title

    @property
    def field(self) -> str:
        """The name of the field with the subjects."""
        return self._claim if self._chosen is None else self._chosen.names[0]

    @property
    def advice(self) -> str:
        """What to do if it has no field for the issuer's claim."""
        known = "" if self._layout is None else self._layout.without_subject
        return known or "export it as well, or name the field: --column NAME"

    @property
    def bytes_read(self) -> int:
        return self._text.bytes_read

    @property
    def is_certain(self) -> bool:
        """Whether the field with the subjects is known without a look at the identities."""
        return len(self.candidates) < 2 and (self._column is not None or bool(self._fitting()))

    def sample(self, size: int) -> list[list[str]]:
        """Return, for each candidate, the subjects that it has in the first records."""
        head = list(islice(self._records, size))
        self._records = chain(head, self._records)
        readers = [self._fields.field(each.names) for each in self.candidates]
        return [[text for _, each in head if (text := text_of(read(each))) is not None] for read in readers]

    def choose(self, known: Sequence[int] = (), *, or_email: bool = False) -> None:
        """Choose the field with the subjects. `known` has, for each candidate, how many are known identities.

        What is known decides; else the issuer's claim does. With `or_email`, an export without subjects is
        read by its e-mail addresses.
        """
        if any(known):
            self._chosen = self.candidates[max(range(len(known)), key=known.__getitem__)]
            return
        fitting = self._fitting()
        if fitting:
            self._chosen = fitting[0]
        elif self.candidates and or_email:
            self.by_email = True
        elif self._layout is not None:
            raise BadExport(
                1,
                f"this export of {self.provider} has no field for the claim `{self._claim}`, by which the"
                " issuer names users",
                self.advice,
            )

    def subjects(self) -> Iterator[tuple[int, str]]:
        """Yield each subject after the number of its line, or each e-mail address in small letters."""
        if self.by_email:
            read = self._fields.field(accounts.EMAIL)
            for line, record in self._records:
                email = text_of(read(record))
                if email is not None:
                    yield line, email.lower()
            return
        read = self._subject_field()
        for line, record in self._records:
            yield line, self._subject(read, line, record)

    def accounts(
        self, *, now: float, tenant: str | None = None, roles: str | None = None
    ) -> Iterator[Account]:
        """Yield each user. `tenant` and `roles` name fields; `now` is in Unix seconds."""
        fields = self._fields
        subject, email, name = (
            self._subject_field(),
            fields.field(accounts.EMAIL),
            fields.field(accounts.NAME),
        )
        first, last = fields.field(accounts.FIRST_NAME), fields.field(accounts.LAST_NAME)
        tenant_of, roles_of = self._named(tenant), self._named(roles)
        status = StatusReader(fields.field, now)
        for line, record in self._records:
            found = text_of(subject(record))
            full = self._plain(name(record)) or " ".join(
                word for each in (first, last) if (word := self._plain(each(record)))
            )
            yield Account(
                line,
                found and _whole(line, found),
                self._plain(email(record)),
                full or None,
                status(record),
                text_of(tenant_of(record)),
                each_of(roles_of(record)),
            )

    def _open_csv(self) -> Fields:
        rows = CsvRecords(self._text)
        self._records = ((line, [*row]) for line, row in rows)
        return Columns(rows.header, rows.line)

    def _open_json(self) -> Fields:
        if not self._text.first:
            raise BadExport(1, "the export is empty", "export at least the header")
        records = json_records(self._text)
        head = list(islice(records, 1))
        self._records = chain(head, records)
        if not head:
            return Members({})
        ((line, first),) = head
        if not isinstance(first, dict):
            return Values()
        if first.keys() >= KEYCLOAK_REALM:
            raise BadExport(
                line, "this export of a realm has no users", "export them: kc.sh export --users realm_file"
            )
        if any(isinstance(first.get(name), list) for name in _ATTRIBUTES):
            self._records = ((number, _with_attributes(each)) for number, each in chain(head, records))
            first = _with_attributes(first)
        return Members(first if isinstance(first, dict) else {})

    def _present(self) -> Iterator[SubjectField]:
        """Yield the candidates that are there, each once."""
        names = self._fields.names
        if self._column is not None:
            yield SubjectField(self._claim, (self._column,))
            return
        known = PLAIN if self._layout is None else self._layout.subjects
        for each in (*known, SubjectField(self._claim, (self._claim,))):
            fields = {normal(name) for name in each.names}
            if not fields.isdisjoint(names):
                names -= fields
                yield each

    def _fitting(self) -> list[SubjectField]:
        """Return the candidates that the issuer's claim is about."""
        fitting = [each for each in self.candidates if each.claim == self._claim]
        return fitting or (list(self.candidates) if self._layout is None else [])

    def _subject_field(self) -> Field:
        if isinstance(self._fields, Values):
            return itself
        if self._chosen is None:
            if isinstance(self._fields, Columns):
                raise self._fields.lacks(1, None, self._claim)
            return nothing
        read = self._fields.field(self._chosen.names)
        if read is nothing:
            raise self._fields.lacks(1, None, self.field)
        return read

    def _named(self, name: str | None) -> Field:
        """Return the field that a person named."""
        if name is None:
            return nothing
        read = self._fields.field((name,))
        if read is nothing:
            raise BadExport(1, f"there is no column `{name}`", "correct its name")
        return read

    def _subject(self, read: Field, line: int, record: Record) -> str:
        subject = text_of(read(record))
        if subject is None:
            raise self._fields.lacks(line, record, self.field)
        return _whole(line, subject)

    def _plain(self, value: JSON) -> str | None:
        """Return a text as people know it."""
        text = text_of(value)
        if text is not None and self.provider == "Auth0" and _FORMULA.match(text):
            return text[1:]
        return text


def _is_json(text: Text, style: Format, name: str) -> bool:
    if text.first == "<":
        raise BadExport(1, "it is HTML or XML", "export it as CSV or JSON; it may be the page of a sign-in")
    if style is not Format.AUTO:
        return style is Format.JSONL
    suffix = PurePath(name.removesuffix(".gz")).suffix.lower()
    may_be = not text.first.isalpha() or text.first in "tfn"
    return text.first in {"{", "["} or (may_be and suffix in {".jsonl", ".ndjson", ".json"})


def _whole(line: int, subject: str) -> str:
    """Return a subject that is what the provider wrote."""
    if "E+" in subject and _ROUNDED.fullmatch(subject):
        raise BadExport(
            line, "its subject is a number that a spreadsheet has rounded", "export it again; do not edit it"
        )
    if not subject.isascii() and _SURROGATE.search(subject):
        raise BadExport(
            line, "it is not JSON: its subject is no Unicode text", "correct the line or remove it"
        )
    return subject


def _with_attributes(record: Record) -> Record:
    """Return a user of Cognito with its attributes, a list of `Name` and `Value`, as members."""
    if not isinstance(record, dict):
        return record
    for name in _ATTRIBUTES:
        if isinstance(listed := record.get(name), list):
            return record | {
                str(each.get("Name")): each.get("Value") for each in listed if isinstance(each, dict)
            }
    return record
