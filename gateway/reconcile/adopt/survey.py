"""Looks at a database: its tables, the subjects in them, the settings that fit, and what to know of them."""

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from gateway.reconcile.adopt import fields, matching, naming, proposal, roles, status, systems
from gateway.reconcile.adopt.advice import advice
from gateway.reconcile.adopt.choice import Choice, all_systems, choose
from gateway.reconcile.adopt.matching import Search
from gateway.reconcile.adopt.proposal import Known, Source
from gateway.reconcile.adopt.subjects import SubjectSample
from gateway.reconcile.adopt.systems import GATEWAY, System
from gateway.stores.postgres.inspection.catalog import MAX_RELATIONS, Relation, Server
from gateway.stores.postgres.inspection.session import Inspection, Unread

_MAX_WORDS: Final = 30
_SEARCHED_TABLES: Final = 5
_REALM_ID: Final = "realm_id"

Step = Callable[[str, int, int], None]
"""Is told what is being done, how much of it is done, and how much there is."""


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A table that the source needs, and why its rows could not be read."""

    table: str
    reason: str
    grant: str | None
    """The SQL with which the owner of the table can permit it; None if that is not what it lacks."""


@dataclass(frozen=True, slots=True)
class Guess:
    """A candidate for a field."""

    column: str
    score: int
    reason: str


@dataclass(slots=True)
class Survey:
    """What was found."""

    server: Server
    relations: int = 0
    choice: Choice | None = None
    """The proposal's system; None if no table looks like one of users."""
    others: list[System] = field(default_factory=list)
    search: Search | None = None
    sample: SubjectSample | None = None
    source: Source | None = None
    """The proposed `users.source`; None for the gateway's own tables, or if nothing was found."""
    guesses: dict[str, list[Guess]] = field(default_factory=dict)
    unreadable: list[Unreadable] = field(default_factory=list)
    unread: dict[str, str] = field(default_factory=dict)
    """Columns whose values could not be read, and why."""
    advice: list[str] = field(default_factory=list)

    @property
    def is_gateway(self) -> bool:
        """Whether the users are in the gateway's own tables."""
        return self.choice is not None and self.choice.system.preset == GATEWAY


async def survey(
    inspection: Inspection,
    sample: SubjectSample | None = None,
    *,
    issuer: str | None = None,
    step: Step = lambda _what, _done, _all: None,
) -> Survey:
    """Look at a database. `issuer` is the configured name of the issuer, for the proposal.

    Raises `StoreUnavailable`, and `Unread` if the catalogs cannot be read in time.
    """
    step("Reading the catalogs", 0, 1)
    found = Survey(await inspection.server(), sample=sample)
    relations = await inspection.relations()
    found.relations = len(relations)
    candidates = all_systems(relations)
    if sample is not None:
        likely = [
            *(each.users for each in candidates),
            *(each.relation for each in fields.user_tables(relations)[:_SEARCHED_TABLES]),
        ]
        found.search = await matching.search(
            inspection,
            systems.columns_to_search(relations, candidates, likely),
            sample.subjects,
            step=lambda done, of: step("Looking for the subjects", done, of),
        )
        found.unread.update(found.search.unread)
    choice = found.choice = choose(candidates, relations, found.search)
    if choice is None:
        return found
    found.others = [each for each in candidates if each.users.oid != choice.system.users.oid]
    step("Reading samples", 0, 1)
    known = Known()
    if not found.is_gateway:
        known = await _known(inspection, choice, sample, found)
        found.source = proposal.source(choice, relations, known, issuer)
        found.unreadable = [each async for each in _unreadable(inspection, choice, relations, found)]
    found.guesses = _guesses(choice, relations, known)
    found.advice = list(advice(choice, relations, known, found.server, sample))
    if len(relations) == MAX_RELATIONS:
        found.advice.append(
            f"The database has more than {MAX_RELATIONS:,} tables: the rest was not looked at."
        )
    return found


async def _known(
    inspection: Inspection, choice: Choice, sample: SubjectSample | None, found: Survey
) -> Known:
    """Read the words of status, and the names of providers and realms."""
    users = choice.system.users
    words: dict[str, list[str]] = {}
    unknown: list[str] = []
    for column in status.word_columns(users):
        if column.category == "N":
            unknown.append(column.sql)
            continue
        try:
            values = await inspection.values(users, column, at_most=_MAX_WORDS)
        except Unread as error:
            found.unread[f"{users.shown}.{column.sql}"] = str(error)
        else:
            texts = column.labels or [value for value, _ in values]
            words[column.name] = status.known_words(texts)
            if len(words[column.name]) < len(texts):
                unknown.append(column.sql)
    providers: dict[int, str] = {}
    several: dict[str, int] = {}
    for each in choice.subjects:
        if each.provider is None:
            continue
        matched = (
            [] if each.match is None or sample is None else [sample.subjects[n] for n in each.match.places]
        )
        try:
            names = await matching.names_of_providers(
                inspection,
                each.relation,
                each.provider,
                subject=each.column if matched else None,
                subjects=matched,
            )
        except Unread as error:
            found.unread[f"{each.relation.shown}.{each.provider.sql}"] = str(error)
        else:
            if names:
                providers[each.relation.oid] = names[0]
                if len(names) > 1:
                    several[f"{each.relation.shown}.{each.provider.sql}"] = len(names)
    return Known(words, providers, await _realm(inspection, choice, sample, found), unknown, several)


async def _realm(
    inspection: Inspection, choice: Choice, sample: SubjectSample | None, found: Survey
) -> str | None:
    """Return the name of the realm of the users: of those with the given subjects, or of most."""
    realms = choice.system.realms
    if realms is None:
        return None
    first = choice.subjects[0]
    relation = first.relation
    matched = (
        [] if first.match is None or sample is None else [sample.subjects[n] for n in first.match.places]
    )
    try:
        ids = await inspection.values(
            relation,
            relation.columns[_REALM_ID],
            at_most=1,
            of=matched,
            by=first.column if matched else None,
        )
        names = await matching.names_of_providers(
            inspection,
            realms,
            realms.columns["name"],
            subject=realms.columns["id"],
            subjects=[value for value, _ in ids],
        )
    except Unread as error:
        found.unread[f"{realms.shown}.name"] = str(error)
        return None
    return names[0] if names else None


async def _unreadable(
    inspection: Inspection, choice: Choice, relations: Sequence[Relation], found: Survey
) -> AsyncIterator[Unreadable]:
    """Try to read each table that the source needs."""
    needed = _needed(choice, relations)
    for relation in needed:
        try:
            await inspection.try_reading(relation)
        except Unread as error:
            role = found.server.role
            grant = f"GRANT SELECT ON {relation.sql} TO {_quoted(role)}"
            if not relation.schema_usable:
                grant = f"GRANT USAGE ON SCHEMA {relation.schema_sql} TO {_quoted(role)}; {grant}"
            yield Unreadable(relation.shown, str(error), grant if error.denied else None)


def _needed(choice: Choice, relations: Sequence[Relation]) -> list[Relation]:
    needed = {choice.system.users.oid: choice.system.users}
    for each in choice.subjects:
        if each.table is not None:
            needed.setdefault(each.table.relation.oid, each.table.relation)
    if choice.system.realms is not None:
        needed.setdefault(choice.system.realms.oid, choice.system.realms)
    best = next(iter(roles.roles(choice.system.users, relations)), None)
    for relation in relations:
        if best is not None and relation.shown in best.watch:
            needed.setdefault(relation.oid, relation)
    return list(needed.values())


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _guesses(choice: Choice, relations: Sequence[Relation], known: Known) -> dict[str, list[Guess]]:
    """Return the candidates for each field, the likeliest first."""
    users = choice.system.users
    subjects = [
        Guess(
            f"{each.relation.shown}.{each.column.sql}",
            10,
            "proposed",
        )
        for each in choice.subjects
    ]
    proposed = {each.column for each in subjects}
    subjects += [
        Guess(each.shown, each.score, each.reason)
        for each in _subject_candidates(choice)
        if each.shown not in proposed
    ]
    return {
        "id": _listed(fields.ids(users)),
        "subject": subjects,
        "status": [
            Guess(rule.when, 1, rule.status.value) for rule in proposal.all_rules(choice.system, known)
        ],
        "tenant": _listed(fields.tenants(users)),
        "roles": [
            *(
                [Guess("as the preset has them", 10, "proposed")]
                if proposal.has_preset_roles(choice.system)
                else []
            ),
            *(Guess(each.shown, each.score, "by its name") for each in roles.roles(users, relations)),
        ],
        "email": _listed(fields.emails(users)),
    }


def _subject_candidates(choice: Choice) -> Iterator[fields.Candidate]:
    for table in choice.system.identities:
        yield fields.Candidate(table.relation, table.subject, table.score or 6, "a table of identities")
    yield from fields.by_name(choice.system.users, naming.SUBJECT)


def _listed(candidates: Sequence[fields.Candidate]) -> list[Guess]:
    return [Guess(each.shown, each.score, each.reason) for each in candidates]
