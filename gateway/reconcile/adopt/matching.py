"""Which columns of a database have the subjects: exactly, or nearly, in another spelling.

First a few subjects are looked for in many columns, then all of them where some were found. Where no index
helps, and the table is large, a sample of its rows is read instead.
"""

import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final
from uuid import UUID

from gateway.core.text.spelling import Difference, spellings
from gateway.reconcile.adopt import naming
from gateway.reconcile.adopt.fields import Candidate
from gateway.stores.postgres.inspection.catalog import Column, Relation
from gateway.stores.postgres.inspection.session import Inspection, Unread, comparable, is_large

_FEW: Final = 200
"""Subjects that are looked for in every column, and in other spellings."""
_MAX_COLUMNS: Final = 400
_BUDGET: Final = 60.0
"""Seconds for all columns together."""
_MAX_FAILURES: Final = 2
"""Columns of one table that cannot be read, before the others are not tried."""
_NAMED: Final = 4
"""The score from which the name of a column says that it has subjects."""
_INTEGER: Final = re.compile(r"0|-?[1-9]\d{0,18}")
_MAX_BIGINT: Final = 2**63 - 1
_MAX_PROVIDERS: Final = 20
_PROVIDER: Final = re.compile(r"[A-Za-z][\w.:/~-]{0,99}", re.ASCII)
"""What the name of a provider or a realm looks like. Other values might be of a person, and are not shown."""


@dataclass(frozen=True, slots=True)
class Match:
    """A column that has some of the subjects."""

    relation: Relation
    column: Column
    found: int
    estimated: bool = False
    """Whether the number comes from a sample of the rows."""
    places: frozenset[int] = frozenset()
    """Which subjects were found, by their places in the sample; none if estimated."""
    near: Mapping[Difference, int] = field(default_factory=dict)
    """Of the subjects that were not found, how many differ only in spelling, by what differs."""
    near_of: int = 0
    """Of how many such subjects."""

    @property
    def shown(self) -> str:
        return f"{self.relation.shown}.{self.column.sql}"


@dataclass(slots=True)
class Search:
    """What was found in which column, the most first, and what was not looked at."""

    subjects: int
    """How many subjects were looked for."""
    matches: list[Match] = field(default_factory=list)
    unread: dict[str, str] = field(default_factory=dict)
    """The columns that could not be read, and why."""
    skipped: int = 0
    """The columns that were not looked at, for lack of time or rights."""

    def of(self, relation: Relation, column: Column) -> Match | None:
        """Return the match in a column."""
        same = (each for each in self.matches if each.relation.oid == relation.oid and each.column == column)
        return next(same, None)


async def search(
    inspection: Inspection,
    candidates: Sequence[Candidate],
    subjects: Sequence[str],
    *,
    step: Callable[[int, int], None] = lambda _done, _all: None,
    clock: Callable[[], float] = time.monotonic,
) -> Search:
    """Look for subjects in columns, the likeliest first; tell `step` about it. Raises `StoreUnavailable`."""
    texts = {kind: _texts(subjects, kind) for kind in ("text", "uuid", "bigint")}
    tried = [each for each in candidates if texts[comparable(each.column) or "text"]][:_MAX_COLUMNS]
    result = Search(len(subjects), skipped=max(0, len(candidates) - _MAX_COLUMNS))
    end = clock() + _BUDGET
    failures: Counter[int] = Counter()
    for number, candidate in enumerate(tried):
        step(number, len(tried))
        if clock() > end:
            result.skipped += len(tried) - number
            break
        if failures[candidate.relation.oid] == _MAX_FAILURES:
            result.skipped += 1
            continue
        try:
            match = await _match(inspection, candidate, texts[comparable(candidate.column) or "text"])
        except Unread as error:
            # What a role may not read, or another session has locked, is so for every column.
            failures[candidate.relation.oid] += 1
            result.unread[candidate.shown] = str(error)
            continue
        if match is not None:
            result.matches.append(match)
    result.matches.sort(key=lambda match: -match.found)
    await _look_nearby(inspection, result, tried, subjects)
    step(len(tried), len(tried))
    return result


async def _match(inspection: Inspection, candidate: Candidate, texts: Mapping[int, str]) -> Match | None:
    relation, column = candidate.relation, candidate.column
    places, values = list(texts), list(texts.values())
    if is_large(relation) and not column.indexed:
        if naming.score(column.name, naming.SUBJECT, relation.name) < _NAMED or relation.kind == "view":
            return None
        found = min(await inspection.estimated(relation, column, values), len(values))
        return Match(relation, column, found, estimated=True) if found else None
    few = values[:: max(1, len(values) // _FEW)]
    if not await inspection.found(relation, column, few):
        return None
    matched = await inspection.found(relation, column, values)
    return Match(relation, column, len(matched), places=frozenset(places[place] for place in matched))


def _texts(subjects: Sequence[str], kind: str) -> dict[int, str]:
    """Return the subjects that a column of a kind may have, by their places."""
    return {place: subject for place, subject in enumerate(subjects) if _fits(subject, kind)}


def _fits(subject: str, kind: str) -> bool:
    if kind == "bigint":
        return _INTEGER.fullmatch(subject) is not None and abs(int(subject)) <= _MAX_BIGINT
    return kind == "text" or _is_uuid(subject)


def _is_uuid(text: str) -> bool:
    """Return whether a text is a UUID as Postgres writes it."""
    try:
        return len(text) == 36 and str(UUID(text)) == text
    except ValueError:
        return False


async def _look_nearby(
    inspection: Inspection, result: Search, tried: Sequence[Candidate], subjects: Sequence[str]
) -> None:
    """Look for the subjects that were not found in other spellings, in the likeliest columns."""
    exact = [each for each in result.matches if not each.estimated]
    if result.matches and not exact:
        return
    likely = (
        exact[:2]
        or [
            Match(each.relation, each.column, 0)
            for each in tried
            if naming.score(each.column.name, naming.SUBJECT, each.relation.name) >= _NAMED
        ][:5]
    )
    known = frozenset().union(*(match.places for match in exact))
    missing = [subject for place, subject in enumerate(subjects) if place not in known][:_FEW]
    for match in likely if missing else ():
        try:
            near = await _near(inspection, match, missing)
        except Unread as error:
            result.unread.setdefault(match.shown, str(error))
            continue
        if near:
            if match in result.matches:
                result.matches.remove(match)
            result.matches.append(replace(match, near=near, near_of=len(missing)))
    result.matches.sort(key=lambda match: (-match.found, -sum(match.near.values())))


async def _near(inspection: Inspection, match: Match, missing: Sequence[str]) -> dict[Difference, int]:
    guesses: dict[str, tuple[int, Difference]] = {}
    kind = comparable(match.column) or "text"
    for number, subject in enumerate(missing):
        for spelling, differs in spellings(subject):
            if _fits(spelling, kind) and "\0" not in spelling:
                guesses.setdefault(spelling, (number, differs))
    differences: dict[int, Difference] = {}
    spelt = list(guesses)
    for place in await inspection.found(match.relation, match.column, spelt) if spelt else ():
        number, differs = guesses[spelt[place]]
        differences.setdefault(number, differs)
    if kind == "text" and not is_large(match.relation):
        rest = [number for number in range(len(missing)) if number not in differences]
        folded = [missing[number].lower() for number in rest]
        for place in await inspection.found(match.relation, match.column, folded, folded=True):
            differences.setdefault(rest[place], "case")
    counts: dict[Difference, int] = {}
    for differs in differences.values():
        counts[differs] = counts.get(differs, 0) + 1
    return counts


async def names_of_providers(
    inspection: Inspection, relation: Relation, column: Column, *,
    subject: Column | None = None, subjects: Iterable[str] = (),
) -> list[str]:  # fmt: skip
    """Return the values of a column that names providers or realms, the most frequent first.

    Only those of the rows with `subjects`, if `subject` is their column. None at all, if values do not look
    like names. Raises `Unread`.
    """
    values = await inspection.values(relation, column, at_most=_MAX_PROVIDERS + 1, of=subjects, by=subject)
    if len(values) > _MAX_PROVIDERS or not all(_PROVIDER.fullmatch(value) for value, _ in values):
        return []
    return [value for value, _ in values]
