"""What an operator should know before using the proposed settings. It names tables and columns, no values."""

from collections.abc import Iterator, Sequence
from typing import Final

from gateway.reconcile.adopt import fields, status
from gateway.reconcile.adopt.choice import Choice, SubjectColumn
from gateway.reconcile.adopt.proposal import Known
from gateway.reconcile.adopt.subjects import SubjectSample
from gateway.reconcile.adopt.systems import GATEWAY
from gateway.stores.postgres.inspection.catalog import Relation, Server

_OWN_TABLES: Final = frozenset({"users", "identities", "revocations", "audit"})
"""The tables that `gateway migrate` creates, whose names others may have taken."""


def advice(
    choice: Choice,
    relations: Sequence[Relation],
    known: Known,
    server: Server,
    sample: SubjectSample | None,
) -> Iterator[str]:
    """Yield pieces of advice, the most important first."""
    users = choice.system.users
    if choice.system.preset == GATEWAY:
        yield "The gateway finds these users without `users.source`: leave it out."
        return
    for each in choice.subjects:
        yield from _of_subjects(each)
    if users.kind in {"table", "partitioned table"} and not choice.system.id.unique:
        yield f"{users.shown}.{choice.system.id.sql} is not unique by itself: no two users may share an id."
    if sample is not None and sample.issuers > 1:
        yield (
            f"The tokens are of {sample.issuers} issuers, and subjects count only together with their issuer:"
            " run the command for the tokens of each, with --issuer NAME, and put the identities together."
        )
    taken = sorted(each.name for each in relations if each.schema == "public" and each.name in _OWN_TABLES)
    if taken and not any(each.name == "gateway_migrations" for each in relations):
        yield (
            f"Schema public has a table {' and a table '.join(taken)}, as the gateway's own are called:"
            " if this is the database of `postgres.dsn`, set `postgres.schema: gateway`."
        )
    if users.kind not in {"table", "partitioned table"}:
        yield f"{users.shown} is a {users.kind}, whose changes no trigger tells: the gateway looks for them."
    if (
        choice.system.preset in {None, "authjs"}
        and not status.rules(users, {})
        and not status.word_columns(users)
    ):
        yield f"{users.shown} has no column that says who may not sign in: only deleted users are refused."
    for column, count in known.several_providers.items():
        yield (
            f"{column} names {count} providers: the source is for the most frequent one. Give --subjects of"
            " your issuer, or correct it."
        )
    for column in known.unknown:
        yield (
            f"{users.shown}.{column} has values that are no usual words for a status: see that the rules"
            " refuse whom they must."
        )
    if any("AT TIME ZONE" in (rule.until or "") for rule in status.rules(users, {})):
        yield "Columns of type `timestamp` have no time zone: the rules take them for UTC."
    if server.replica:
        yield "This server is a replica: `gateway migrate` and LISTEN need the primary."


def _of_subjects(subjects: SubjectColumn) -> Iterator[str]:
    relation = subjects.relation
    shown = f"{relation.shown}.{subjects.column.sql}"
    if any(
        each.column == subjects.column and each.relation.oid == relation.oid
        for each in fields.emails(relation)
    ):
        yield (
            f"{shown} is an e-mail address, which may pass to another person: use it only if the issuer"
            " gives it to no other person."
        )
    if not subjects.column.indexed and relation.kind in {"table", "partitioned table"}:
        yield f"No index begins with {shown}: create the one that `gateway migrate --print-sql` prints."
    if subjects.table is None and not subjects.column.unique and relation.kind == "table":
        yield f"{shown} is not unique: tokens whose subject several users have are refused."
