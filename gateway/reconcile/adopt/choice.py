"""Which of the systems in a database the users are in, and where their subjects are.

The subjects decide, if some were given: names only suggest. A table of events has subjects, too, so of
columns that have as many, one that a unique key belongs to is preferred.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from gateway.reconcile.adopt import fields, naming, systems
from gateway.reconcile.adopt.matching import Match, Search
from gateway.reconcile.adopt.systems import GATEWAY, IdentityTable, System
from gateway.stores.postgres.inspection.catalog import Column, Relation
from gateway.stores.postgres.inspection.session import comparable

_WORTH: Final = 0.01
"""The share of the subjects that a further table of identities has to add."""
_LIKELY_TABLES: Final = 5


@dataclass(frozen=True, slots=True)
class SubjectColumn:
    """A column that has subjects: of the users' own table, if `table` is None."""

    users: Relation
    column: Column
    table: IdentityTable | None = None
    match: Match | None = None

    @property
    def relation(self) -> Relation:
        """The table that has the column."""
        return self.users if self.table is None else self.table.relation

    @property
    def provider(self) -> Column | None:
        """The column that tells apart the providers of subjects.

        A name such as `google_sub` tells it by itself, and an id is not of a provider.
        """
        if self.table is not None:
            return self.table.provider
        if naming.words(self.column.name) not in naming.OF_ANY_PROVIDER:
            return None
        return systems.provider_of(self.users)


@dataclass(frozen=True, slots=True)
class Choice:
    """The system that is proposed."""

    system: System
    subjects: tuple[SubjectColumn, ...]
    found: int = 0
    """How many of the given subjects lead to its users."""


def all_systems(relations: Sequence[Relation]) -> list[System]:
    """Return the systems that may have the users, the likeliest first; the gateway itself is last."""
    known = systems.recognise(relations)
    taken = {each.users.oid for each in known}
    likely = [each for each in fields.user_tables(relations) if each.relation.oid not in taken]
    owns = [systems.own(each.relation, relations) for each in likely if each.score >= fields.LIKELY]
    return [
        *(each for each in known if each.preset != GATEWAY),
        *(each for each in owns[:_LIKELY_TABLES] if each is not None),
        *(each for each in known if each.preset == GATEWAY),
    ]


def choose(found: Sequence[System], relations: Sequence[Relation], search: Search | None) -> Choice | None:
    """Return the best choice; None if nothing is likely enough."""
    if search is None or not search.matches:
        return next((Choice(each, _by_name(each)) for each in found), None)
    candidates = [*found, *_led_to_by(search, found, relations)]
    choices = [choice for each in candidates if (choice := _by_subjects(each, search)).found]
    telling = [choice for choice in choices if not _is_integer(choice)]
    if telling:
        return max(telling, key=lambda choice: choice.found)
    # Every table has numbers: how many of them are the same says little, so the likeliest table counts.
    most = max((choice.found for choice in choices), default=0)
    numbered = (choice for choice in choices if choice.found >= most / 2)
    return next(numbered, None) or next((Choice(each, _by_name(each)) for each in found), None)


def _is_integer(choice: Choice) -> bool:
    return all(comparable(each.column) == "bigint" for each in choice.subjects)


def _led_to_by(search: Search, found: Sequence[System], relations: Sequence[Relation]) -> list[System]:
    """Return further tables of users that only the subjects lead to: with them, or referred to from them."""
    by_oid = {each.oid: each for each in relations}
    known = {each.users.oid for each in found}
    tables: dict[int, Relation] = {}
    for match in search.matches:
        if comparable(match.column) == "bigint" or not (
            match.column.unique or match.found >= search.subjects / 2
        ):
            continue
        targets = [by_oid[key.target] for key in match.relation.foreign_keys if key.target in by_oid]
        for relation in (match.relation, *targets):
            if relation.oid not in known:
                tables.setdefault(relation.oid, relation)
    led = [systems.own(each, relations) for each in tables.values()]
    return [each for each in led if each is not None]


def _by_name(system: System) -> tuple[SubjectColumn, ...]:
    """Return where a system's subjects probably are."""
    if system.preset is not None:
        in_preset = [each for each in system.identities if each.in_preset]
        tables = in_preset or ([] if system.own_subjects else list(system.identities[:1]))
        if tables:
            return tuple(SubjectColumn(system.users, each.subject, each) for each in tables)
        return (SubjectColumn(system.users, system.id),)
    users = system.users
    own = [
        each
        for each in fields.by_name(users, naming.SUBJECT)
        if each.column.name != system.id.name and each.score > naming.SUBJECT["provider_id"]
    ]
    best = system.identities[0] if system.identities else None
    if own and (best is None or own[0].score + own[0].column.unique > best.score):
        return (SubjectColumn(users, own[0].column),)
    if best is not None:
        return (SubjectColumn(users, best.subject, best),)
    return (SubjectColumn(system.users, system.id),)


def _by_subjects(system: System, search: Search) -> Choice:
    """Return where the given subjects are: one column, and others if they add something."""
    options = sorted(
        _options(system, search),
        key=lambda option: (-_found(option), not _is_key(option), option.table is not None),
    )
    chosen: list[SubjectColumn] = []
    places: set[int] = set()
    found = 0
    for option in options:
        match = option.match
        if match is None:
            continue
        if match.estimated:
            if not chosen:
                return Choice(system, (option,), match.found)
            continue
        added = len(match.places - places)
        if not chosen or (added >= max(1, _WORTH * found) and _is_key(option)):
            chosen.append(option)
            places |= match.places
            found = len(places)
    return Choice(system, tuple(chosen), found)


def _found(option: SubjectColumn) -> int:
    return 0 if option.match is None else option.match.found


def _is_key(option: SubjectColumn) -> bool:
    """Return whether a subject has one row, or one for each provider."""
    if option.table is None:
        return option.column.unique
    return option.table.is_key


def _options(system: System, search: Search) -> list[SubjectColumn]:
    users, known = system.users, {(each.relation.oid, each.subject.name): each for each in system.identities}
    options = []
    for match in search.matches:
        table = known.get((match.relation.oid, match.column.name))
        if match.relation.oid == users.oid:
            options.append(SubjectColumn(users, match.column, None, match))
        elif table is not None or (table := _linked(match, users)) is not None:
            options.append(SubjectColumn(users, match.column, table, match))
    return options


def _linked(match: Match, users: Relation) -> IdentityTable | None:
    """Return a table that has subjects and leads to users, unless its subjects are what leads to them."""
    references = fields.user_references(match.relation, users)
    if not references or any(each.column.name == match.column.name for each in references):
        return None
    if any(key.column == match.column.name for key in match.relation.foreign_keys):
        return None
    return IdentityTable(
        match.relation, match.column, references[0].column, systems.provider_of(match.relation)
    )
