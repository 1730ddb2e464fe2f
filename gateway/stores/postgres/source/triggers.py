"""The SQL of the triggers that report changes of a source, and how it is removed.

Every statement that changes a table on which an answer depends sends one notification (`notices.py`). What
that costs grows with the rows of the statement, and no faster. A function that fails reports a change of all
users in place of its own, and warns: it does not fail the statement of another program. Only waiting for a
lock can do that, as it can for any other writer.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from gateway.stores.postgres.errors import quoted
from gateway.stores.postgres.source import relations
from gateway.stores.postgres.source.definition import ALL_USERS, UserSource
from gateway.stores.postgres.source.notices import FUNCTIONS, PLACEHOLDER, SCHEMA, TRUNCATED

REMOVE: Final = f"DROP SCHEMA IF EXISTS {SCHEMA} CASCADE"
"""Removes all functions, and with them the triggers."""

_HEAD: Final = """
CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = {path}, pg_temp SET jit = off SET row_security = off AS $gateway$
#variable_conflict use_column
DECLARE
    gateway_changed {type}[];
    gateway_linked {type}[];
    gateway_identities jsonb[] := '{{}}';
BEGIN
    IF {schema}.told() > 500 THEN
        RETURN NULL;
    END IF;
    BEGIN
"""
_TAIL: Final = """
    EXCEPTION WHEN OTHERS THEN
        -- A deadlock, a serialization failure or a lock that cannot be had is for the transaction to know.
        IF SQLSTATE LIKE '40%' OR SQLSTATE = '55P03' THEN
            RAISE;
        END IF;
        RAISE WARNING 'gateway: a change of % is reported as one of all users: %',
            TG_RELID::regclass, SQLERRM;
        PERFORM {schema}.tell_all();
    END;
    RETURN NULL;
END
$gateway$;
"""


@dataclass(frozen=True, slots=True)
class Trigger:
    """One trigger, as it must be found in the catalogs."""

    table: str
    """The quoted name with the schema."""
    name: str
    function: str
    """In `SCHEMA`."""
    event: str
    """INSERT, UPDATE, DELETE or TRUNCATE."""


@dataclass(frozen=True, slots=True)
class Installation:
    """The functions and triggers that report the changes of a source."""

    functions: str
    """SQL that creates `SCHEMA` with its functions."""
    triggers: tuple[Trigger, ...]

    def create(self, trigger: Trigger, table: str | None = None) -> str:
        """Return the SQL of a trigger, on its table or on one of its partitions."""
        rows = {
            "INSERT": " REFERENCING NEW TABLE AS after",
            "UPDATE": " REFERENCING OLD TABLE AS before NEW TABLE AS after",
            "DELETE": " REFERENCING OLD TABLE AS before",
        }.get(trigger.event, "")
        return (
            f"CREATE TRIGGER {quoted(trigger.name)} AFTER {trigger.event} ON {table or trigger.table}{rows}"
            f" FOR EACH STATEMENT EXECUTE FUNCTION {SCHEMA}.{trigger.function}()"
        )


def installation(
    source: UserSource, issuers: Mapping[str, str], key_type: str, views: frozenset[str] = frozenset()
) -> Installation:
    """Return the triggers of a source, whose ids are of a type. `issuers` maps names to `iss`.

    `views` are those of its tables, as `relations.table_of` names them, that are views: their rows cannot be
    watched or locked.
    """
    writer = _Writer(source, issuers, key_type, relations.table_of(source, source.table) not in views)
    functions = {
        table: (f"changed_{number}_{PLACEHOLDER}", body)
        for number, (table, body) in enumerate(writer.bodies())
        if table not in views
    }
    text = FUNCTIONS + writer.shared()
    for name, body in functions.values():
        text += writer.function(f"{SCHEMA}.{name}", body)
    names = ", ".join(
        f"{SCHEMA}.{signature}"
        for signature in (
            "told()", "tell(jsonb)", "tell_all()", "tell_changes(jsonb[], text[])",
            f"identities_of({key_type}[])", f"{TRUNCATED}_{PLACEHOLDER}()",
            *(f"{name}()" for name, _ in functions.values()),
        )
    )  # fmt: skip
    text += f"\nREVOKE ALL ON FUNCTION {names} FROM PUBLIC;\n"
    version = hashlib.sha256(text.encode()).hexdigest()[:12]
    triggers = [
        Trigger(table, f"gateway_source_{event.lower()}", function.replace(PLACEHOLDER, version), event)
        for table, (name, _) in functions.items()
        for event, function in (
            ("INSERT", name),
            ("UPDATE", name),
            ("DELETE", name),
            ("TRUNCATE", f"{TRUNCATED}_{PLACEHOLDER}"),
        )
    ]
    return Installation(text.replace(PLACEHOLDER, version), tuple(triggers))


@dataclass(frozen=True, slots=True)
class _Writer:
    """Writes the functions of one source."""

    source: UserSource
    issuers: Mapping[str, str]
    key_type: str
    lockable: bool
    """Whether the rows of users can be locked."""

    def bodies(self) -> Iterator[tuple[str, str]]:
        """Yield each table on which an answer depends, with the statements of its trigger."""
        source = self.source
        parts: dict[str, list[str]] = {relations.table_of(source, source.table): [self._users()]}
        for table in dict.fromkeys(each.table for each in source.identities if each.table is not None):
            parts.setdefault(relations.table_of(source, table), []).append(self._identities(table))
        for table, columns in source.watched.items():
            parts.setdefault(relations.table_of(source, table), []).append(self._watched(table, columns))
        for table, statements in parts.items():
            yield table, "".join(statements)

    def function(self, name: str, body: str) -> str:
        head = _HEAD.format(
            name=name, path=quoted(self.source.schema_name), type=self.key_type, schema=SCHEMA
        )
        return head + body + _TAIL.format(schema=SCHEMA)

    def shared(self) -> str:
        """Return the function that finds the identities of some users by the indexes of their tables."""
        found = relations.all_identities(self.source, self.issuers, "= ANY (gateway_ids)")
        return f"""
CREATE FUNCTION {SCHEMA}.identities_of(gateway_ids {self.key_type}[]) RETURNS jsonb[] LANGUAGE plpgsql
SET search_path = {quoted(self.source.schema_name)}, pg_temp
-- Otherwise a plan that was made for few users would read all of them each time.
SET enable_seqscan = off SET jit = off
-- A policy that hides identities makes this fail, so that all users are reported.
SET row_security = off AS $gateway$
#variable_conflict use_column
BEGIN
    RETURN ARRAY(SELECT jsonb_build_array(issuer, subject) FROM ({found}) AS found LIMIT 501);
END
$gateway$;
"""

    def _listed(self, each_rows: str) -> str:
        return f"ARRAY(SELECT jsonb_build_array(issuer, subject) FROM ({each_rows}) AS found LIMIT 501)"

    def _users(self) -> str:
        source = self.source
        own = [each for each in source.identities if each.table is None]
        before = " UNION ALL ".join(
            relations.identities_in(
                source, each, relations.rows_of(source, each, "before"), self.issuers,
                # Only so is a hash table made: a join may compare each row with each id.
                f"(({source.id}) IN (SELECT unnest(gateway_changed))) IS TRUE",
            )
            for each in own
        )  # fmt: skip
        gone = (
            f"""
            IF TG_OP <> 'INSERT' THEN
                gateway_identities := {self._listed(before)};
            END IF;"""
            if own
            else ""
        )
        return f"""
        IF TG_OP = 'INSERT' THEN
            gateway_changed := ARRAY(SELECT key FROM ({relations.keys(source, "after")}) AS rows LIMIT 501);
        ELSIF TG_OP = 'DELETE' THEN
            gateway_changed := ARRAY(SELECT key FROM ({relations.keys(source, "before")}) AS rows LIMIT 501);
        ELSE
            gateway_changed := ARRAY(
                SELECT key FROM ({relations.states(source, "after")}) AS later
                FULL JOIN ({relations.states(source, "before")}) AS earlier USING (key)
                WHERE later.state IS DISTINCT FROM earlier.state LIMIT 501
            );
        END IF;
        IF cardinality(gateway_changed) > 500 THEN
            PERFORM {SCHEMA}.tell_all();
        ELSIF cardinality(gateway_changed) > 0 THEN{gone}
            IF TG_OP <> 'INSERT'
                AND current_setting('transaction_isolation') IN ('repeatable read', 'serializable')
            THEN
                -- An identity that was linked meanwhile cannot be seen.
                PERFORM {SCHEMA}.tell_all();
            ELSE
                PERFORM {SCHEMA}.tell_changes(
                    gateway_identities || {SCHEMA}.identities_of(gateway_changed), gateway_changed::text[]
                );
            END IF;
        END IF;
"""

    def _identities(self, table: str) -> str:
        each_in = [each for each in self.source.identities if each.table == table]

        def rows(name: str) -> str:
            return " UNION ALL ".join(
                relations.identities_in(
                    self.source, each, relations.rows_of(self.source, each, name), self.issuers
                )
                for each in each_in
            )

        return f"""
        IF TG_OP = 'DELETE' THEN
            gateway_identities := {self._listed(rows("before"))};
        ELSIF TG_OP = 'INSERT' THEN
            gateway_identities := {self._listed(rows("after"))};
            gateway_linked := ARRAY(SELECT DISTINCT key FROM ({rows("after")}) AS rows WHERE key IS NOT NULL);
        ELSE
            gateway_identities := ARRAY(
                SELECT jsonb_build_array(issuer, subject) FROM (
                    (SELECT * FROM ({rows("before")}) AS b EXCEPT SELECT * FROM ({rows("after")}) AS a)
                    UNION ALL
                    (SELECT * FROM ({rows("after")}) AS a EXCEPT SELECT * FROM ({rows("before")}) AS b)
                ) AS found LIMIT 501
            );
            gateway_linked := ARRAY(
                SELECT DISTINCT key FROM (
                    SELECT * FROM ({rows("after")}) AS a EXCEPT SELECT * FROM ({rows("before")}) AS b
                ) AS found WHERE key IS NOT NULL
            );
        END IF;
{self._hold("gateway_linked")}
        IF cardinality(gateway_identities) > 0 THEN
            PERFORM {SCHEMA}.tell_changes(gateway_identities, '{{}}');
        END IF;
"""

    def _watched(self, table: str, columns: frozenset[str]) -> str:
        rows = relations.alias_of(table)
        if ALL_USERS in columns:
            differ = (
                f"SELECT ROW({rows}.*)::text FROM before AS {rows}"
                f" EXCEPT ALL SELECT ROW({rows}.*)::text FROM after AS {rows}"
            )
            return f"""
        IF TG_OP = 'INSERT' THEN
            IF EXISTS (SELECT FROM after) THEN
                PERFORM {SCHEMA}.tell_all();
            END IF;
        ELSIF EXISTS (SELECT FROM before) THEN
            IF TG_OP = 'DELETE' OR EXISTS ({differ}) THEN
                PERFORM {SCHEMA}.tell_all();
            END IF;
        END IF;
"""

        def keys(name: str) -> str:
            return " UNION ALL ".join(
                f"SELECT ({column})::{self.key_type} AS key, ROW({rows}.*)::text AS state"
                f" FROM {name} AS {rows}"
                for column in sorted(columns)
            )

        return f"""
        IF TG_OP = 'INSERT' THEN
            gateway_changed := ARRAY(
                SELECT DISTINCT key FROM ({keys("after")}) AS rows WHERE key IS NOT NULL LIMIT 501
            );
        ELSIF TG_OP = 'DELETE' THEN
            gateway_changed := ARRAY(
                SELECT DISTINCT key FROM ({keys("before")}) AS rows WHERE key IS NOT NULL LIMIT 501
            );
        ELSE
            gateway_changed := ARRAY(
                SELECT DISTINCT key FROM (
                    (SELECT * FROM ({keys("before")}) AS b EXCEPT SELECT * FROM ({keys("after")}) AS a)
                    UNION ALL
                    (SELECT * FROM ({keys("after")}) AS a EXCEPT SELECT * FROM ({keys("before")}) AS b)
                ) AS found WHERE key IS NOT NULL LIMIT 501
            );
        END IF;
        IF cardinality(gateway_changed) > 500 THEN
            PERFORM {SCHEMA}.tell_all();
        ELSIF cardinality(gateway_changed) > 0 THEN
{self._hold("gateway_changed")}
            IF current_setting('transaction_isolation') IN ('repeatable read', 'serializable') THEN
                -- An identity that was linked meanwhile cannot be seen.
                PERFORM {SCHEMA}.tell_all();
            ELSE
                PERFORM {SCHEMA}.tell_changes(
                    {SCHEMA}.identities_of(gateway_changed), gateway_changed::text[]
                );
            END IF;
        END IF;
"""

    def _hold(self, keys: str) -> str:
        """Return what makes two transactions follow each other that link an identity and change its user.

        Otherwise the second would not see the identity, and would not report it. The rows are locked in one
        order, so that two transactions do not wait for each other.
        """
        if not self.lockable:
            return ""
        source = self.source
        alias, table = relations.alias_of(source.table), relations.table_of(source, source.table)
        return f"""
            BEGIN
                PERFORM FROM (
                    SELECT FROM {table} AS {alias} WHERE ({source.id}) = ANY ({keys})
                    ORDER BY ({source.id}) FOR NO KEY UPDATE
                ) AS held;
            EXCEPTION WHEN serialization_failure THEN
                NULL;  -- The other transaction has committed, and this one reports what it links.
            END;"""


def tables_of(source: UserSource) -> tuple[str, ...]:
    """Return the tables on which an answer depends, with their schemas, quoted."""
    named = (source.table, *(each.table for each in source.identities if each.table), *source.watched)
    return tuple(dict.fromkeys(relations.table_of(source, table) for table in named))
