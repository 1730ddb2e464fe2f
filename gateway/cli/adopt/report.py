"""How `gateway adopt` reports: as YAML with comments for people, to be pasted as it is, or as JSON."""

from collections.abc import Iterator, Mapping
from typing import Final

import yaml
from rich.text import Text

from gateway.cli.terminal import output
from gateway.core.model import JSON
from gateway.core.text.spelling import Difference
from gateway.reconcile.adopt.matching import Match
from gateway.reconcile.adopt.proposal import FILL_IN, Source
from gateway.reconcile.adopt.survey import Survey
from gateway.reconcile.adopt.systems import System

_COMMANDS: Final = ("gateway check", "gateway migrate --print-sql", "gateway migrate && gateway check --live")
_COMMANDS_WITHOUT_SOURCE: Final = ("gateway check", "gateway migrate", "gateway check --live")
_DIFFERS_IN: Final[Mapping[Difference, str]] = {
    "case": "in letter case",
    "spacing": "in white space or invisible characters",
    "encoding": "in percent-encoding or composed letters",
    "prefix": "by a provider's prefix, such as `auth0|`",
    "uuid": "in the spelling of a UUID",
}
_SHOWN: Final = 5
"""Candidates and columns that people are shown; JSON has all."""


def block(source: Source) -> str:
    """Return the settings as YAML: each field in one line, if it is not a mapping of mappings."""
    lines = ["users:", "  source:"]
    for name, value in source.items():
        style = None if isinstance(value, dict | list) else False
        text = yaml.safe_dump(
            {name: value}, default_flow_style=style, sort_keys=False, allow_unicode=True, width=100_000
        )
        lines += [f"    {line}" for line in text.splitlines()]
    return "\n".join(lines) + "\n"


def document(found: Survey) -> dict[str, JSON]:
    """Return everything that was found."""
    server, choice, sample, search = found.server, found.choice, found.sample, found.search
    return {
        "server": {
            "database": server.database,
            "role": server.role,
            "version": server.version,
            "replica": server.replica,
            "tables": found.relations,
        },
        "recognised": None if choice is None else _system(choice.system),
        "others": [_system(each) for each in found.others],
        "subjects": None
        if sample is None
        else {
            "lines": sample.lines,
            "unusable": sample.unusable,
            "issuers": sample.issuers,
            "sample": len(sample.subjects),
            "found": 0 if choice is None else choice.found,
            "columns": [] if search is None else [_match(each) for each in search.matches],
            "skipped_columns": 0 if search is None else search.skipped,
        },
        "candidates": {
            name: [{"column": each.column, "score": each.score, "reason": each.reason} for each in guesses]
            for name, guesses in found.guesses.items()
        },
        "source": found.source,
        "yaml": None if found.source is None else block(found.source),
        "unreadable": _unreadable(found),
        "advice": [*found.advice],
        "commands": [] if choice is None else [*_commands(found)],
    }


def _system(system: System) -> JSON:
    estimate = system.users.estimate
    return {
        "system": system.preset or "own",
        "title": system.title,
        "users": system.users.shown,
        "rows": estimate,
        "identities": [each.relation.shown for each in system.identities],
    }


def _match(match: Match) -> JSON:
    return {
        "column": match.shown,
        "found": match.found,
        "estimated": match.estimated,
        "near": dict(match.near.items()),
        "near_of": match.near_of,
    }


def _unreadable(found: Survey) -> list[JSON]:
    tables: list[JSON] = [
        {"name": each.table, "reason": each.reason, "grant": each.grant} for each in found.unreadable
    ]
    columns: list[JSON] = [
        {"name": name, "reason": reason, "grant": None} for name, reason in found.unread.items()
    ]
    return tables + columns


def _commands(found: Survey) -> tuple[str, ...]:
    return _COMMANDS_WITHOUT_SOURCE if found.is_gateway else _COMMANDS


def write(found: Survey) -> None:
    """Write the report for people."""
    _comment(_heading(found))
    for line in _recognised(found):
        _comment(line)
    for line in _subjects(found):
        _comment(line)
    if found.guesses:
        _comment("")
    for name, guesses in found.guesses.items():
        listed = ", ".join(f"{each.column} ({each.reason})" for each in guesses[:_SHOWN]) or "none found"
        _comment(f"{name:9}{listed}")
    if found.source is not None:
        output.out.print(Text(block(found.source)), soft_wrap=True, end="")
    for heading, lines in (("To know", list(_to_know(found))), ("Could not be read", list(_unread(found)))):
        if lines:
            _comment(f"{heading}:")
        for line in lines:
            _comment(f"- {line}")
    if found.choice is not None:
        where = "" if found.is_gateway else " put this into the configuration, then"
        _comment(f"Next:{where}")
        for command in _commands(found):
            _comment(f"  {command}")


def _comment(line: str) -> None:
    # Names may have any character. One that ends the line would end the comment, too.
    output.out.print(Text(f"# {output.plain(line)}".rstrip(), style="dim"), soft_wrap=True)


def _heading(found: Survey) -> str:
    server = found.server
    return (
        f"PostgreSQL {server.version}, database {server.database}, as role {server.role}:"
        f" {found.relations:,} tables and views"
    )


def _recognised(found: Survey) -> Iterator[str]:
    if found.choice is None:
        yield "Recognised: nothing. No table looks like one of users."
        yield (
            "If there is one, give subjects of its users (--subjects FILE, --tokens FILE), or write the table"
            " into users.source yourself."
        )
        return
    yield f"Recognised: {_described(found.choice.system)}"
    for other in found.others[:_SHOWN]:
        yield f"Also here: {_described(other)}"


def _described(system: System) -> str:
    estimate = system.users.estimate
    rows = "" if estimate is None else f", about {estimate:,} rows"
    return f"{system.title}: users in {system.users.shown}{rows}"


def _subjects(found: Survey) -> Iterator[str]:
    sample, search = found.sample, found.search
    if sample is None or search is None:
        return
    of = f"{len(sample.subjects):,}"
    which = f"a sample of {of} subjects" if sample.dropped else f"{of} subjects"
    without = f"; {sample.unusable:,} lines have none that a token may have" if sample.unusable else ""
    yield f"Read {sample.lines:,} lines, with {which}{without}"
    if found.choice is not None:
        yield f"{found.choice.found:,} of {of} subjects lead to these users"
    for match in search.matches[:_SHOWN]:
        about = "about " if match.estimated else ""
        yield f"  {about}{match.found:,} of {of} subjects are in {match.shown}"
        for differs, count in match.near.items():
            others = f"{count:,} of {match.near_of:,} others"
            yield f"    {others} differ {_DIFFERS_IN[differs]} from one that is there"
    if not search.matches:
        yield "  no column has any of them"
    if search.skipped:
        yield f"  {search.skipped:,} columns were not searched, for lack of time or rights"


def _to_know(found: Survey) -> Iterator[str]:
    yield from found.advice
    if found.search is not None and any(match.near for match in found.search.matches):
        yield "Subjects count exactly: one that differs in spelling has no user until one side is changed."
    if found.source is not None and FILL_IN in block(found.source):
        yield f"Write the name of your issuer's provider, or realm, for {FILL_IN}: it could not be read."
    if found.source is not None:
        yield "If this is not the database of `postgres.dsn`, add `dsn:` to the source."


def _unread(found: Survey) -> Iterator[str]:
    for each in found.unreadable:
        grant = "" if each.grant is None else f"; as its owner: {each.grant}"
        yield f"{each.table}: {each.reason}{grant}"
    told = tuple(f"{each.table}." for each in found.unreadable)
    for column, reason in found.unread.items():
        if not column.startswith(told):
            yield f"{column}: {reason}"
