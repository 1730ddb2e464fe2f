"""Where the roles of users are: a column, or tables that lead from a user to the names of roles."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from gateway.reconcile.adopt import naming
from gateway.reconcile.adopt.fields import ids, user_references
from gateway.stores.postgres.inspection.catalog import Column, Relation


@dataclass(frozen=True, slots=True)
class Roles:
    """A source of roles. `sql` is an expression, or, with `watch`, a query with `$1` for the user's id."""

    sql: str
    shown: str
    """The column or table, for people."""
    score: int
    watch: dict[str, str] = field(default_factory=dict)
    """The tables that the query reads, each with its column of user ids, or `*`."""


def roles(users: Relation, relations: Sequence[Relation]) -> list[Roles]:
    """Return the sources of roles, the likeliest first."""
    found = [*_columns(users), *_tables(users, relations)]
    return sorted(found, key=lambda each: -each.score)


def _columns(users: Relation) -> Iterator[Roles]:
    for column in users.columns.values():
        score = naming.score(column.name, naming.ROLES, users.name)
        if not score:
            continue
        if column.item_category in {"S", "E"}:
            sql = column.sql if column.item_category == "S" else f"{column.sql}::text[]"
            yield Roles(sql, f"{users.shown}.{column.sql}", score + 4)
        elif column.type == "jsonb" or column.category == "S":
            yield Roles(column.sql, f"{users.shown}.{column.sql}", score)
        elif column.category == "E":
            yield Roles(f"{column.sql}::text", f"{users.shown}.{column.sql}", score)


def _tables(users: Relation, relations: Sequence[Relation]) -> Iterator[Roles]:
    by_oid = {each.oid: each for each in relations}
    for link in relations:
        if link.oid == users.oid or link.kind not in {"table", "partitioned table"}:
            continue
        references = [each for each in user_references(link, users) if each.score > 3]
        if not references:
            continue
        user = references[0].column
        for key in link.foreign_keys:
            target = by_oid.get(key.target)
            if target is not None and naming.thing(target.name) in naming.ROLE_TABLES:
                yield from _joined(link, user, link.columns[key.column], target, key.target_column)
        if naming.thing(link.name) in naming.ROLE_TABLES:
            yield from _named_in(link, user)


def _joined(link: Relation, user: Column, role: Column, target: Relation, key: str) -> Iterator[Roles]:
    names = sorted(
        (column for column in target.columns.values() if column.category == "S"),
        key=lambda column: -naming.score(column.name, naming.ROLE_NAMES, target.name),
    )
    if not names or not naming.score(names[0].name, naming.ROLE_NAMES, target.name):
        return
    own = naming.thing(target.name) == "role"
    yield Roles(
        f"SELECT r.{names[0].sql} FROM {link.shown} u JOIN {target.shown} r"  # noqa: S608 -- names as Postgres quotes them
        f" ON r.{target.columns[key].sql} = u.{role.sql} WHERE u.{user.sql} = $1",
        f"{link.shown}, {target.shown}",
        9 if own else 6,
        {link.shown: user.sql, target.shown: "*"},
    )


def _named_in(link: Relation, user: Column) -> Iterator[Roles]:
    """Yield a table of users and the names of their roles."""
    if any(id_.column.name == user.name for id_ in ids(link)) and link.primary_key == (user.name,):
        return
    for column in link.columns.values():
        if column.name != user.name and column.category in "SE" and naming.score(column.name, naming.ROLES):
            text = f"u.{column.sql}" if column.category == "S" else f"u.{column.sql}::text"
            yield Roles(
                f"SELECT {text} FROM {link.shown} u WHERE u.{user.sql} = $1",  # noqa: S608 -- names as Postgres quotes them
                link.shown,
                8,
                {link.shown: user.sql},
            )
