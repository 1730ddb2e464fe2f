"""The SQL of a source: users and identities as if they were the gateway's own tables.

`users` has the columns `key` (the id in its own type), `id` (as text), `status`, `valid_until`, `tenant`,
`email`, `display_name`, `roles`, `attributes`, `tokens_valid_after`, `created_at`; `all_identities` has
`issuer`, `subject` and `key`. Postgres takes such a subquery apart, so look-ups use the tables' indexes.
"""

from collections.abc import Mapping
from typing import Final

from gateway.core.text import sql_text
from gateway.core.tokens.issuer_patterns import TENANT
from gateway.stores.postgres.errors import quoted
from gateway.stores.postgres.source.definition import Identities, UserSource, Value

_KEY: Final = "gateway_user_id"
_RULE: Final = "gateway_status_rule"

COLUMNS: Final = """
u.id, u.status, u.tenant, u.email, u.display_name, u.roles, u.attributes,
extract(epoch FROM u.tokens_valid_after)::float8 AS tokens_valid_after,
extract(epoch FROM nullif(u.valid_until, 'infinity') - now())::float8 AS valid_for
"""
"""What `look_ups.user_from_row` reads, from a relation of users named `u`."""

STATE: Final = """
u.id, u.status, u.tenant, u.email, u.display_name, u.roles, u.attributes, u.tokens_valid_after, u.valid_until
"""
"""Every column that an answer needs; their values change only when the user changes."""

_UUID: Final = "^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$"
_INTEGER: Final = "^-?[0-9]{1,19}$"
_INTEGERS: Final = frozenset({"smallint", "integer", "bigint"})
_TEXTS: Final = frozenset({"text", "character varying"})


def table_of(source: UserSource, table: str) -> str:
    """Return a table's name with its schema, quoted."""
    schema, name = sql_text.parts_of(table)
    return f"{quoted(schema or source.schema_name)}.{quoted(name)}"


def alias_of(table: str) -> str:
    """Return the name by which expressions may call a table's columns."""
    return quoted(sql_text.parts_of(table)[1])


def users(source: UserSource, rows: str | None = None) -> str:
    """Return the query of all users, or of those in other rows of the same form, such as `after`."""
    alias = alias_of(source.table)
    rows = rows or table_of(source, source.table)
    keyed = f"(SELECT {alias}.*, {_one(source.id)} AS {_KEY} FROM {rows} AS {alias})"
    if source.status:
        rules = " ".join(
            f"WHEN {_one(rule.when)} THEN {number}" for number, rule in enumerate(source.status, start=1)
        )
        keyed = f"(SELECT {alias}.*, CASE {rules} ELSE 0 END AS {_RULE} FROM {keyed} AS {alias})"
    return (
        f"SELECT {_KEY} AS key, {_KEY}::text AS id, {_status(source)} AS status,"
        f" {_valid_until(source)} AS valid_until,"
        f" {_text(source.tenant)} AS tenant, {_text(source.email)} AS email,"
        f" {_text(source.display_name)} AS display_name, {_roles(source.roles)} AS roles,"
        f" {_attributes(source.attributes)} AS attributes,"
        f" {_instant(source.tokens_valid_after)} AS tokens_valid_after,"
        f" {_instant(source.created_at)} AS created_at FROM {keyed} AS {alias}"
    )


def identities(
    source: UserSource, types: Mapping[str, str], issuer_name: str, subject: str, tenant: str
) -> str:
    """Return the query of the keys of the users behind one issuer's subject.

    `subject` is SQL, such as `$1`, and so is `tenant`, for issuers of many tenants. `types` has the types of
    columns, by `type_key`.
    """
    return " UNION ALL ".join(
        f"SELECT {_one(each.user or source.id)} AS key FROM {_from(source, each)}"
        f" WHERE {_is_subject(each, types.get(type_key(source, each, each.subject)), subject)}{_also(each)}"
        + ("" if each.tenant is None else f" AND {_one(each.tenant)}::text = {tenant}")
        for each in source.identities_of(issuer_name)
    )


def all_identities(source: UserSource, labels: Mapping[str, str], among: str | None = None) -> str:
    """Return the query of all identities, or of those of some users: `among` is SQL behind the id.

    `labels` has what stands for each issuer's name, such as its `iss`.
    """
    return " UNION ALL ".join(
        identities_in(
            source, each, _from(source, each), labels,
            None if among is None else f"{_one(each.user or source.id)} {among}",
        )
        for each in source.identities
    )  # fmt: skip


def identities_in(
    source: UserSource, each: Identities, rows: str, labels: Mapping[str, str], condition: str | None = None
) -> str:
    """Return the query of the identities in some rows of one of the tables: `issuer`, `subject` and `key`."""
    names = ", ".join(f"({_label(each, labels[name])})" for name in each.issuer)
    return (
        f"SELECT gateway_issuers.gateway_label AS issuer, {_one(each.subject)}::text AS subject,"
        f" {_one(each.user or source.id)} AS key FROM {rows}"
        f" CROSS JOIN LATERAL (VALUES {names}) AS gateway_issuers (gateway_label)"
        f" WHERE {_one(each.subject)} IS NOT NULL{_also(each)}"
        + ("" if condition is None else f" AND {condition}")
    )


def _label(each: Identities, label: str) -> str:
    """Return the SQL of an issuer's label. A pattern stands for that of the row's tenant."""
    if each.tenant is None:
        return literal(label)
    before, _, after = label.partition(TENANT)
    return f"{literal(before)} || {_one(each.tenant)}::text || {literal(after)}"


def rows_of(source: UserSource, each: Identities, rows: str) -> str:
    """Return rows of an identities' table under the name that its expressions use."""
    return f"{rows} AS {alias_of(each.table or source.table)}"


def _from(source: UserSource, each: Identities) -> str:
    table = each.table or source.table
    return f"{table_of(source, table)} AS {alias_of(table)}"


def type_key(source: UserSource, each: Identities, expression: str) -> str:
    """Return the key of a column's type: its table and its name; a key of no column for an expression."""
    return f"{table_of(source, each.table or source.table)}.{sql_text.column_of(expression) or ''}"


def subject_of_nothing(source: UserSource, each: Identities) -> str:
    """Return a query of the column of subjects in its own type, or of nothing where it is an expression."""
    column = sql_text.column_of(each.subject)
    return "SELECT NULL" if column is None else f"SELECT {quoted(column)} FROM {_from(source, each)}"


def _is_subject(each: Identities, column_type: str | None, subject: str) -> str:
    condition = f"{_one(each.subject)}::text = {subject}"
    column = sql_text.column_of(each.subject)
    typed = None if column is None else _typed(column_type, subject)
    return condition if typed is None else f"{quoted(column or '')} = {typed} AND {condition}"


def indexed_subject(each: Identities, column_type: str | None) -> str:
    """Return what an index must be on for `identities` to find a subject by it."""
    column = sql_text.column_of(each.subject)
    if column is None:
        return _one(each.subject)
    of_its_type = column_type in _TEXTS or _typed(column_type, "NULL") is not None
    return quoted(column) if of_its_type else f"({quoted(column)}::text)"


def _typed(column_type: str | None, text: str) -> str | None:
    """Return the value of a text in a column's own type, null if it has none; or None for other types.

    The column's index is on that type. What is compared as text, too, must be spelt as Postgres does.
    """
    if column_type == "uuid":
        return f"CASE WHEN {text} ~ {literal(_UUID)} THEN {text}::uuid END"
    if column_type in _INTEGERS:
        # The widest of them, because the type of a column may be widened at any time.
        within = f"{text}::numeric BETWEEN -9223372036854775808 AND 9223372036854775807"
        return f"CASE WHEN {text} ~ {literal(_INTEGER)} THEN CASE WHEN {within} THEN {text}::bigint END END"
    return None


def is_key(key_type: str, key: str, text: str) -> str:
    """Return the condition that a key of some type is the id in a text, by the key's index."""
    typed = _typed(key_type, text)
    return f"{key}::text = {text}" + ("" if typed is None else f" AND {key} = {typed}")


def _also(each: Identities) -> str:
    return "" if each.where is None else f" AND {_one(each.where)}"


def literal(text: str) -> str:
    """Return a text as an SQL literal."""
    return "'" + text.replace("'", "''") + "'"


def _one(expression: str) -> str:
    return f"({expression})"


def _status(source: UserSource) -> str:
    if not source.status:
        return "'active'"
    cases = " ".join(
        f"WHEN {number} THEN {literal(rule.status.value)}"
        for number, rule in enumerate(source.status, start=1)
    )
    return f"CASE {_RULE} {cases} ELSE 'active' END"


def _valid_until(source: UserSource) -> str:
    """Return the next instant at which time alone may change the status.

    That is the earliest one in the future, of the rules before the first that holds, and of that one.
    """
    instants = [
        f"CASE WHEN {_RULE} IN (0) OR {_RULE} >= {number} THEN"
        f" CASE WHEN {_one(rule.until)}::timestamptz >= now() THEN {_one(rule.until)}::timestamptz END END"
        for number, rule in enumerate(source.status, start=1)
        if rule.until is not None
    ]
    return f"least({', '.join(instants)})" if instants else "NULL::timestamptz"


def states(source: UserSource, rows: str) -> str:
    """Return the query of the state of users in some rows: `key`, and as one text all that answers have.

    Instants are in it as they are, although they may not count yet.
    """
    alias = alias_of(source.table)
    own = [each for each in source.identities if each.table is None]
    parts = [
        *(_one(rule.when) for rule in source.status),
        *(_one(rule.until) for rule in source.status if rule.until is not None),
        *(_one(value.sql) for value in source.values.values() if value.sql is not None),
        *(_one(each.subject) for each in own),
        *(_one(each.where) for each in own if each.where is not None),
        *(_one(each.tenant) for each in own if each.tenant is not None),
    ]
    state = f"ROW({', '.join(parts) or 'NULL'})::text"
    return f"SELECT {_one(source.id)} AS key, {state} AS state FROM {rows} AS {alias}"


def statuses_by_email(source: UserSource) -> str:
    """Return the statement of the statuses of users with the e-mail address $1, in any letter case."""
    return f"SELECT DISTINCT u.status FROM ({users(source)}) AS u WHERE lower(u.email) = lower($1::text)"


def keys(source: UserSource, rows: str) -> str:
    """Return the query of the ids of users in some rows of their table."""
    return f"SELECT {_one(source.id)} AS key FROM {rows} AS {alias_of(source.table)}"


def _selected(query: str) -> str:
    return f"({sql_text.with_parameter(query, _KEY)})"


def _scalar(value: Value) -> str:
    if value.query is not None:
        return f"(SELECT gateway_value FROM {_selected(value.query)} AS found (gateway_value))"
    return _one(value.sql or "NULL")


def _text(value: Value | None) -> str:
    return "NULL::text" if value is None else f"{_scalar(value)}::text"


def _instant(value: Value | None) -> str:
    return "NULL::timestamptz" if value is None else f"{_scalar(value)}::timestamptz"


def _roles(value: Value | None) -> str:
    if value is None:
        return "'{}'::text[]"
    if value.query is not None:
        found, order = f"{_selected(value.query)} AS found (gateway_value)", " ORDER BY 1"
    else:
        found, order = f"(SELECT {_one(value.sql or 'NULL')}) AS found (gateway_value)", ""
    # An array, a JSON array, a text or a number: all of them are known as JSON.
    return (
        # A char(n) is padded.
        f"ARRAY(SELECT rtrim(role, ' ') FROM (SELECT to_jsonb(gateway_value) AS roles FROM {found}) AS found,"
        " LATERAL jsonb_array_elements_text(CASE WHEN jsonb_typeof(roles) = 'array' THEN roles"
        " WHEN jsonb_typeof(roles) IN ('string', 'number') THEN jsonb_build_array(roles)"
        f" ELSE '[]'::jsonb END) AS each (role) WHERE role IS NOT NULL{order})"
    )


def _attributes(attributes: Mapping[str, Value]) -> str:
    if not attributes:
        return "'{}'::jsonb"
    pairs = ", ".join(f"{literal(name)}, to_jsonb({_scalar(value)})" for name, value in attributes.items())
    return f"jsonb_build_object({pairs})"
