"""What to do about a user: a `gateway` command, or, where the users are in a source, what its tables need.

For a source that is read-only, or in which the change cannot be expressed, the fix names the place of the
change. Where a statement would do it, the fix has it for the owner of the tables.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from gateway.core.model import Claims, User, UserStatus
from gateway.core.text import sql_text
from gateway.explain import changes as edits
from gateway.explain.answer import Fix
from gateway.explain.changes import Change
from gateway.explain.wording import Commands, sql_literal
from gateway.stores.postgres.directory.user_rows import ChangeRefused, NotWritable, UserChanges
from gateway.stores.postgres.errors import quoted
from gateway.stores.postgres.source import relations
from gateway.stores.postgres.source.definition import Identities, UserSource
from gateway.stores.postgres.source.directory import writable
from gateway.stores.postgres.source.directory.assignments import Assignment

_OWNER: Final = "Do it in the system itself; or as the owner of its tables, whose triggers and checks apply."


@dataclass(frozen=True, slots=True)
class Server:
    """The server of a source, for commands."""

    address: str
    """Hosts and ports."""
    database: str | None
    """None: it is not known."""


class Remedies:
    """Makes the fixes. `source` is None where users are in the gateway's own tables."""

    def __init__(self, commands: Commands, source: UserSource | None = None) -> None:
        self._commands = commands
        self.source = source
        self.server: Server | None = None

    def status(self, advice: str, user: User, holding: Sequence[bool] = ()) -> Fix:
        """Make a user active. `holding` tells which rules of a source hold for the user."""
        verb = "restore" if user.status is UserStatus.DELETED else "activate"
        command = self._commands.gateway("users", verb, user.id)
        change = edits.activated(user.id, user.status)
        if self.source is None:
            return Fix(advice, command, change=change)
        changes: UserChanges = {"status": UserStatus.ACTIVE}
        try:
            plan = writable.for_status(self.source, UserStatus.ACTIVE, holding)
        except NotWritable as refusal:
            return self._elsewhere(advice, refusal)
        return self._changed(advice, user.id, changes, plan, Fix(advice, command, change=change))

    def value(self, advice: str, user: User, changes: UserChanges, change: Change, *options: str) -> Fix:
        """Change values of a user. `options` are those of `gateway users change`."""
        command = self._commands.gateway("users", "change", user.id, *options)
        fix = Fix(advice, command, change=None if command is None else change)
        if self.source is None:
            return fix
        try:
            plan = list(writable.for_values(self.source, changes))
        except NotWritable as refusal:
            return self._elsewhere(advice, refusal)
        return self._changed(advice, user.id, changes, plan, fix)

    def link(
        self,
        advice: str,
        claims: Claims,
        user_id: str,
        *,
        owner: str | None = None,
        obstacle: str | None = None,
    ) -> Fix:
        """Link the token's identity to a user. `owner` has it now.

        `obstacle`: why a new row cannot be written.
        """
        given = () if owner is None else (f"--from={owner}",)
        command = self._commands.gateway(
            "users", "link", user_id, f"--issuer={claims.realm}", f"--subject={claims.subject}", *given
        )
        if self.source is None or (self.source.writable and obstacle is None):
            change = edits.linked(user_id, claims.realm, claims.identity, owner)
            return Fix(advice, command, change=None if command is None else change)
        if obstacle is not None and self.source.writable:
            return Fix(f"{advice} {_sentence(obstacle)}.")
        if (own := self._own_id(claims)) is not None:
            return Fix(
                f"Find out whether it is user {user_id}. The issuer's subjects are the ids of {own}, which"
                " the system gives and never changes, so that nothing can be linked: let the token have the"
                " id as it is there. A token with another id is of another environment, or of an account that"
                " is gone."
            )
        name = claims.realm.partition("/")[0]
        rows = [_row_of(self.source, each) for each in self.source.identities_of(name)]
        return Fix(f"{advice} Do it in the system itself: {'; or '.join(rows)}.")

    def respell(self, advice: str, claims: Claims, written: str) -> Fix | None:
        """Give a subject of a source the spelling of the token; None if no single column has it."""
        if self.source is None or self.source.writable or self._own_id(claims) is not None:
            return None
        entries = self.source.identities_of(claims.realm.partition("/")[0])
        column = sql_text.column_of(entries[0].subject) if len(entries) == 1 else None
        if column is None:
            return None
        each = entries[0]
        table = each.table or self.source.table
        also = "".join(f" AND ({part})" for part in (each.where,) if part is not None)
        statement = (
            f"UPDATE {relations.table_of(self.source, table)} SET {quoted(column)} ="  # noqa: S608 -- printed, and never executed here
            f" {sql_literal(claims.subject)} WHERE {quoted(column)} = {sql_literal(written)}{also}"
        )
        return Fix(f"{advice} {_OWNER}", self.owner_sql(statement))

    def create(self, advice: str, claims: Claims, *, obstacle: str | None = None, person: bool = True) -> Fix:
        """Create a user with the token's identity and tenant. `person`: False for a client.

        `obstacle`: why a row cannot be written into a source.
        """
        if self.source is None or (self.source.writable and obstacle is None):
            words = [f"--issuer={claims.realm}", f"--subject={claims.subject}"]
            words += [] if claims.tenant is None else [f"--tenant={claims.tenant}"]
            command = self._commands.gateway("users", "add", *words)
            change = edits.added(claims.realm, claims.identity, claims.tenant, person=person)
            return Fix(advice, command, change=None if command is None else change)
        if obstacle is not None and self.source.writable:
            return Fix(f"{advice} {_sentence(obstacle)}.")
        if (own := self._own_id(claims)) is not None:
            return Fix(
                f"The issuer's subjects are the ids of {own}, which the system gives. So the user was deleted"
                " there, or the token is of another environment than the database. If a new user should"
                " exist, create it in the system itself: it gets an id of its own, and tokens with it."
            )
        name = claims.realm.partition("/")[0]
        rows = [_row_of(self.source, each) for each in self.source.identities_of(name)]
        where = f"{self.source.table}, and its identity: {'; or '.join(rows)}"
        return Fix(f"{advice} Do it in the system itself: a row of {where}.")

    def _own_id(self, claims: Claims) -> str | None:
        """Return the table whose own ids are the issuer's subjects; None if they are in another place."""
        source = self.source
        if source is None:
            return None
        entries = source.identities_of(claims.realm.partition("/")[0])
        key = sql_text.column_of(source.id)
        own = [each.table is None and sql_text.column_of(each.subject) == key for each in entries]
        return source.table if key is not None and own and all(own) else None

    def owner_sql(self, statement: str) -> str | None:
        """Return a command for the owner of the source's tables; None if the database is not known."""
        if self.server is None or self.server.database is None:
            return None
        return self._commands.owner_sql(self.server.database, statement, address=self.server.address)

    def _changed(
        self, advice: str, user_id: str, changes: UserChanges, plan: Iterable[Assignment], fix: Fix
    ) -> Fix:
        """Return the fix where the source may be written to; else the statement for its owner."""
        source = self.source
        if source is None or source.writable:
            return fix
        sets = [_assigned(each) for each in plan]
        column = sql_text.column_of(source.id)
        if column is None or None in sets or not sets:
            return self._elsewhere(advice, writable.read_only(source, changes))
        where = f"{quoted(column)} = {sql_literal(user_id)}"
        change = ", ".join(map(str, sets))
        statement = f"UPDATE {relations.table_of(source, source.table)} SET {change} WHERE {where}"  # noqa: S608 -- printed, and never executed here
        return Fix(f"{advice} {_OWNER}", self.owner_sql(statement))

    def _elsewhere(self, advice: str, refusal: ChangeRefused) -> Fix:
        return Fix(f"{advice} {_sentence(str(refusal))}.")


def _assigned(each: Assignment) -> str | None:
    """Return the SQL of an assignment; None for one that needs the type of its column."""
    column = quoted(each.column)
    match each.kind:
        case "null":
            return f"{column} = NULL"
        case "true" | "false":
            return f"{column} = {each.kind}"
        case "sql":
            return f"{column} = {each.value}"
        case "text":
            return f"{column} = {'NULL' if each.value is None else sql_literal(str(each.value))}"
        case "instant" if each.value is None:
            return f"{column} = NULL"
        case "now":
            return f"{column} = now()"
        case _:
            return None


def _row_of(source: UserSource, each: Identities) -> str:
    table = each.table or source.table
    columns = each.subject if each.user is None else f"{each.subject}, {each.user}"
    where = "" if each.where is None else f", where `{each.where}`"
    return f"{table} ({columns}){where}"


def place_of_subject(source: UserSource, issuer_name: str) -> str:
    """Return where the subjects of an issuer are, such as `social_auth_usersocialauth.uid`."""
    return " or ".join(
        f"{each.table or source.table}.{each.subject}" for each in source.identities_of(issuer_name)
    )


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]
