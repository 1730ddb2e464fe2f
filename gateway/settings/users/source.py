"""The settings of users who are kept in tables that were there before (`users.source`)."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    GetJsonSchemaHandler,
    WithJsonSchema,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from gateway.core.model import UserStatus
from gateway.core.text import sql_text
from gateway.settings.sections.section import Section
from gateway.settings.urls import PostgresDsn
from gateway.settings.users.presets import PRESETS, Preset
from gateway.settings.values import Duration, Name, SchemaName, Text, Timeout, duration, mistake


def _expression(text: str) -> str:
    try:
        sql_text.check_expression(text)
    except ValueError as error:
        raise mistake(str(error), "write a column or an SQL expression over the row") from error
    return text


def _query(text: str) -> str:
    try:
        sql_text.check_query(text)
    except ValueError as error:
        raise mistake(str(error), "write one SELECT of one column, with $1 for the user's id") from error
    return text


def _table(text: str) -> str:
    if not sql_text.is_table(text):
        raise mistake(
            "must be the name of a table, perhaps with its schema",
            """write auth_user, auth.users, or '"AspNetUsers"': capitals need double quotes, as in SQL""",
        )
    return text


Expression: TypeAlias = Annotated[
    str, AfterValidator(_expression), WithJsonSchema({"type": "string", "x-kind": "column or SQL expression"})
]
QueryText: TypeAlias = Annotated[
    str, AfterValidator(_query), WithJsonSchema({"type": "string", "x-kind": "SQL query"})
]
Table: TypeAlias = Annotated[
    str, AfterValidator(_table), WithJsonSchema({"type": "string", "x-kind": "table"})
]


class Value(Section):
    """A column or an expression; or a query with the tables that it reads."""

    sql: Expression | None = None
    """The column or expression, which may also be written alone, without a mapping."""
    query: QueryText | None = None
    """A SELECT of one column. `$1` is the user's id. Only roles may have several rows."""
    watch: dict[Table, Expression] = Field(default_factory=dict)
    """The tables that the query reads, each with its column of user ids; `"*"`: a row concerns all users."""

    @model_validator(mode="before")
    @classmethod
    def _written_alone(cls, data: object) -> object:
        return {"sql": data} if isinstance(data, str) else data

    @model_validator(mode="after")
    def _one_of_both(self) -> "Value":
        if (self.sql is None) == (self.query is None):
            raise mistake("must have either sql or query", "write a column, or {query: ..., watch: {...}}")
        if self.watch and self.query is None:
            raise mistake("watches tables, but has no query", "remove watch: the row itself is watched")
        return self

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return {
            "anyOf": [{"type": "string"}, handler(core_schema)],
            "description": cls.__doc__ or "",
            "x-kind": "column, SQL expression, or `{query, watch}`",
        }


def _by_name(value: object) -> object:
    """Return a list of columns as a mapping: the name of an attribute, and where its value comes from."""
    if isinstance(value, list | tuple) and all(isinstance(name, str) for name in value):
        return {sql_text.column_of(name) or name: name for name in value}
    return value


Attributes: TypeAlias = Annotated[
    dict[str, Value],
    BeforeValidator(_by_name),
    WithJsonSchema(
        {
            "anyOf": [{"type": "array", "items": {"type": "string"}}, {"type": "object"}],
            "x-kind": "list of columns, or mapping to columns, expressions and queries",
        }
    ),
]


class StatusRule(Section):
    """A status, and when users have it."""

    when: Expression = Field(examples=["NOT is_active"])
    """The SQL condition over the row."""
    status: UserStatus = Field(alias="is", examples=["suspended"])
    """The status of users for whom it holds."""
    until: Expression | None = None
    """The instant at which time changes whether it holds, such as the end of a ban. Answers are not
    remembered beyond it."""


def _several(value: object) -> object:
    return (value,) if isinstance(value, str) else value


Issuers: TypeAlias = Annotated[
    tuple[Name, ...],
    BeforeValidator(_several),
    WithJsonSchema(
        {
            "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}],
            "x-kind": "name, or list of names",
        }
    ),
]


class Identities(Section):
    """Where the subjects of one or more issuers are."""

    issuer: Issuers = ()
    """The names of the issuers whose tokens have these subjects. Default: `users.source.issuer`."""
    table: Table | None = None
    """The table of subjects. `null`: the table of users itself."""
    subject: Expression = Field(examples=["uid"])
    """The column or expression that is equal to a token's `sub`."""
    user: Expression | None = None
    """The column with the user's id. Only for a table of its own."""
    where: Expression | None = None
    """The condition for rows that count."""
    tenant: Expression | None = None
    """The column with the tenant, for issuers with `{tenant}`. Other tenants have other users."""

    @model_validator(mode="after")
    def _has_a_user(self) -> "Identities":
        if (self.table is None) != (self.user is None):
            raise mistake(
                "must have both table and user, or neither",
                "give the column with the user's id as `user`, or leave out `table`",
            )
        return self


class Poll(Section):
    """How the tables are polled where no triggers can be installed."""

    column: Expression | None = None
    """The column of the table of users that has the time of a row's last change (a timestamp). `null`: the
    users that are remembered are compared, which finds every change."""
    interval: Timeout = duration("1s")
    """The time between two polls."""
    compare: Duration = duration("30s")
    """With a column: the time between two comparisons of the remembered users. They find changes that do not
    touch the column: deleted rows, roles."""


class UserSource(Section):
    """The tables of another system that has the users. The gateway only reads them, unless `writable`."""

    preset: Preset | None = None
    """The system whose tables these are. It fills in what is not written; see docs/existing-users.md."""
    provider: Text | None = None
    """For a preset: the name that the system has given to the tokens' issuer."""
    realm: Text | None = None
    """For `keycloak`: the realm's name."""
    issuer: Issuers = ()
    """The name of the issuer whose tokens name these users, or a list. Default: the only one."""
    dsn: PostgresDsn | None = None
    """Another server or database than `postgres.dsn`."""
    replica_dsn: PostgresDsn | None = None
    """A read replica of it, which is asked first."""
    listen_dsn: PostgresDsn | None = None
    """Its primary without a transaction pooler, for changes. `null`: `dsn`."""
    schema_name: SchemaName = Field("public", alias="schema")
    """The schema of the tables that are named without one."""
    table: Table = Field(examples=["auth_user"])
    """The table or view with one row for each user."""
    id: Expression = Field(examples=["id"])
    """The user's id: a uuid, an integer or a text. Upstreams get it as it is."""
    status: tuple[StatusRule, ...] = ()
    """The first rule that holds gives the status; if none holds, the user is active."""
    tenant: Value | None = None
    """The tenant."""
    email: Value | None = None
    """The e-mail address."""
    display_name: Value | None = None
    """The name."""
    roles: Value | None = None
    """The roles: an array, a JSON array, one role, or a query whose rows have them."""
    attributes: Attributes = Field(default_factory=dict)
    """Other columns for `user.attributes.<name>`."""
    tokens_valid_after: Value | None = None
    """The instant (`timestamptz`) before which issued tokens are refused."""
    created_at: Value | None = None
    """The instant at which the user was created, for lists of users."""
    identities: Annotated[tuple[Identities, ...], Field(min_length=1)]
    """The subjects of tokens, for each issuer."""
    watch: dict[Table, Expression] = Field(default_factory=dict)
    """Other tables that expressions or a view read, each with its column of user ids, or `"*"`."""
    changes: Literal["triggers", "poll", "none"] = "triggers"
    """How changes become known: within milliseconds by triggers that `gateway migrate` installs, within
    `poll.interval`, or after `cache.user_ttl` (at most 30 s)."""
    poll: Poll = Field(default_factory=Poll)
    """For `changes: poll`."""
    writable: bool = False
    """Whether the gateway's commands, API and console may change mapped columns."""

    @model_validator(mode="before")
    @classmethod
    def _with_preset(cls, data: object) -> object:
        """Fill in what the preset knows; what is written stands."""
        if not isinstance(data, Mapping) or data.get("preset") not in PRESETS:
            return data
        given: dict[str, Any] = dict(data)  # Any: whatever the file has
        preset = PRESETS[given["preset"]]
        if "identities" not in given and preset.needs_provider and not given.get("provider"):
            raise mistake(
                f"has no provider, and {given['preset']} keeps subjects by provider",
                f"write provider: with your issuer's value of {preset.provider_column}, or write identities",
            )
        return {**preset.fields(given), **given}
