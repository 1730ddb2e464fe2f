"""The table of users, and its columns for id, tenant, e-mail address and name, the best guess first."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from gateway.reconcile.adopt import naming
from gateway.reconcile.adopt.naming import Names
from gateway.stores.postgres.inspection.catalog import Column, Relation
from gateway.stores.postgres.inspection.session import comparable

LIKELY: Final = 7
"""The score from which a table counts as one of users."""
_MOST_REFERENCES: Final = 3


@dataclass(frozen=True, slots=True)
class Candidate:
    """A column that may be what is looked for, and why."""

    relation: Relation
    column: Column
    score: int
    reason: str

    @property
    def shown(self) -> str:
        return f"{self.relation.shown}.{self.column.sql}"


@dataclass(frozen=True, slots=True)
class UserTable:
    """A table that may be that of users."""

    relation: Relation
    score: int


def user_tables(relations: Sequence[Relation]) -> list[UserTable]:
    """Return the tables that may be those of users, the likeliest first."""
    referenced: dict[int, int] = {}
    for relation in relations:
        for key in relation.foreign_keys:
            if key.target != relation.oid:
                referenced[key.target] = referenced.get(key.target, 0) + 1
    found = [UserTable(each, _likeness(each, referenced.get(each.oid, 0))) for each in relations]
    by_oid = {each.relation.oid: each.score for each in found}
    # A profile belongs to a user: it is not the user.
    found = [
        UserTable(each.relation, each.score - 3)
        if any(
            by_oid.get(key.target, 0) >= LIKELY
            for key in each.relation.foreign_keys
            if key.target != each.relation.oid
        )
        and naming.USER_WORDS.get(naming.thing(each.relation.name), 0) < naming.USER_WORDS["user"]
        else each
        for each in found
    ]
    return sorted((each for each in found if each.score > 0), key=lambda each: -each.score)


def _likeness(relation: Relation, references: int) -> int:
    named = naming.USER_WORDS.get(naming.thing(relation.name), 0)
    marks = {
        "email": 2 * any(naming.score(name, naming.EMAIL, relation.name) > 1 for name in relation.columns),
        "password": 2 * any(naming.score(name, naming.PASSWORD) for name in relation.columns),
        "subject": any(naming.score(name, naming.SUBJECT, relation.name) > 3 for name in relation.columns),
        "name": any(naming.score(name, naming.NAME, relation.name) for name in relation.columns),
        "created": any(naming.score(name, naming.CREATED) for name in relation.columns),
    }
    evidence = sum(map(int, marks.values()))
    if not ids(relation) or (named < 3 and evidence < 4):
        return 0
    return (
        named
        + evidence
        + min(references, _MOST_REFERENCES)
        - (relation.kind != "table" and relation.kind != "partitioned table")
    )


def ids(relation: Relation) -> list[Candidate]:
    """Return the columns that may be the user's id."""
    found = []
    for column in relation.columns.values():
        if comparable(column) is None:
            continue
        named = naming.score(column.name, {"id": 3, "uuid": 2, "guid": 2, "pk": 2, "key": 1}, relation.name)
        if relation.primary_key == (column.name,):
            found.append(Candidate(relation, column, 10 + named, "the primary key"))
        elif column.name in relation.primary_key and named:
            found.append(Candidate(relation, column, 6 + named, "part of the primary key"))
        elif column.unique and column.required and named:
            found.append(Candidate(relation, column, 4 + named, "unique, by its name"))
        elif not relation.primary_key and named > 1:
            found.append(Candidate(relation, column, named, "by its name"))
    return _ranked(found)


def by_name(relation: Relation, names: Names) -> list[Candidate]:
    """Return the columns of text or of ids that have one of the usual names."""
    return _ranked(
        Candidate(relation, column, score, "by its name")
        for column in relation.columns.values()
        if comparable(column) and (score := naming.score(column.name, names, relation.name))
    )


def tenants(relation: Relation) -> list[Candidate]:
    """Return the columns that may be the tenant."""
    return [
        each
        for each in by_name(relation, naming.TENANT)
        if each.column.name not in relation.primary_key[:1] or len(relation.primary_key) > 1
    ]


def emails(relation: Relation) -> list[Candidate]:
    """Return the columns that may be the e-mail address."""
    return [
        each for each in by_name(relation, naming.EMAIL) if each.column.type not in {"uuid", "int4", "int8"}
    ]


def names(relation: Relation) -> list[Candidate]:
    """Return the columns that may be the name."""
    return [each for each in by_name(relation, naming.NAME) if each.column.category == "S"]


def instants(relation: Relation, usual: Names) -> Iterator[Candidate]:
    """Yield the columns of time that have one of the usual names, the best first."""
    found = (
        Candidate(relation, column, score, "by its name")
        for column in relation.columns.values()
        if column.category == "D" and (score := naming.score(column.name, usual))
    )
    yield from _ranked(found)


def user_references(relation: Relation, users: Relation) -> list[Candidate]:
    """Return the columns that lead to a user."""
    user_ids = {each.column.type for each in ids(users)}
    found = []
    for column in relation.columns.values():
        keys = [key for key in relation.foreign_keys if key.column == column.name]
        if any(key.target == users.oid for key in keys):
            found.append(Candidate(relation, column, 10, f"refers to {users.shown}"))
        elif not keys and column.type in user_ids:
            expected = {
                **naming.USER_ID,
                f"{naming.thing(users.name)}_id": 6,
                f"{naming.words(users.name)}_id": 6,
            }
            if score := expected.get(naming.words(column.name), 0):
                found.append(Candidate(relation, column, score, "by its name"))
    return _ranked(found)


def _ranked(found: "Sequence[Candidate] | Iterator[Candidate]") -> list[Candidate]:
    return sorted(found, key=lambda each: (-each.score, not each.column.unique))
