"""A configuration that a person has pasted, to see what it would decide.

Nothing of this machine is put into it: no variable, no file. Nothing of it is applied, and none of its
secrets comes back. What verdicts do not depend on is not read: stores, the admin port, upstreams' addresses.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from gateway.settings.findings import Location
from gateway.settings.reading.document import Document, Unreadable, parse
from gateway.settings.reading.interpolation import Fault
from gateway.settings.reading.loading import ConfigurationError, Problem, validated
from gateway.settings.sections.model import Settings

NAME: Final = "configuration"
"""What a pasted text is called in place of a file."""
_SECRET: Final = "not-read-here".ljust(64, "-")
"""What stands for a secret that is a variable."""
_VARIABLE: Final = re.compile(r"(?<!\$)\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_STORES: Final[Mapping[str, object]] = {
    "postgres": {"dsn": "postgresql://replay@localhost/replay"},
    "redis": {"url": "redis://localhost"},
}
_UNUSED: Final = ("admin", "jwks", "assertion", "record", "log", "tracing", "cache", "revocation", "errors")
"""Sections that no verdict depends on."""
_SECRETS: Final = ("secret", "password", "token", "dsn", "url")
"""How the names of settings with secrets end."""
_SHORTEST_SECRET: Final = 4


def load_pasted(text: str) -> tuple[Settings, list[str]]:
    """Read a pasted configuration; also return the names of the variables that stand for secrets.

    A variable elsewhere is a mistake: a verdict may depend on it. Raises `ConfigurationError`, without a
    secret of the text.
    """
    try:
        document = parse(text)
    except Unreadable as error:
        # What it quotes of the text may be a secret.
        message = re.sub(r"'.*'|\".*\"", "…", str(error), flags=re.DOTALL)
        raise ConfigurationError([Problem(message, "", NAME, error.line)]) from None
    _reduce(document)
    unread: set[str] = set()
    document.data = {
        key: _without_variables(value, (key,), document.faults, unread)
        for key, value in document.data.items()
    }
    try:
        settings, _ = validated(document, Path(NAME), {})
    except ConfigurationError as error:
        secrets = sorted(_secrets(document), key=len, reverse=True)
        raise ConfigurationError(_without(secrets, each) for each in error.problems) from None
    return settings, sorted(unread)


def _reduce(document: Document) -> None:
    """Leave out what no verdict depends on."""
    data = {key: value for key, value in document.data.items() if key not in _UNUSED}
    data |= _STORES
    if isinstance(server := data.get("server"), Mapping):
        data["server"] = {key: value for key, value in server.items() if key == "mode"}
    if isinstance(decision := data.get("decision"), Mapping) and decision:
        data["decision"] = {"listen": "127.0.0.1:0", "trusted_proxies": ["127.0.0.1/32"]}
    if isinstance(upstreams := data.get("upstreams"), Mapping):
        data["upstreams"] = {name: {"urls": ["http://localhost"]} for name in upstreams}
    users = data.get("users")
    if isinstance(users, Mapping) and isinstance(source := users.get("source"), Mapping):
        data["users"] = {**users, "source": {key: value for key, value in source.items() if key != "dsn"}}
    document.data = data


def _without_variables(
    value: object,
    where: Location,
    faults: list[Fault],
    unread: set[str],
    above: frozenset[int] = frozenset(),
) -> object:
    """Return a value in which no variable is left to be read.

    Something else stands for a secret that is a variable, whose name is added to `unread`. Any other variable
    is a mistake, added to `faults`, and stays there as a literal.
    """
    if isinstance(value, str):
        names = _VARIABLE.findall(value)
        if names and _is_secret(where):
            unread.update(names)
            return _SECRET
        faults += [(where, f"names ${{{name}}}, which is not read here", "write its value") for name in names]
        return _VARIABLE.sub(r"$\g<0>", value)
    if not isinstance(value, dict | list) or id(value) in above:
        return value
    above |= {id(value)}
    if isinstance(value, dict):
        return {
            key: _without_variables(each, (*where, key), faults, unread, above) for key, each in value.items()
        }
    return [
        _without_variables(each, (*where, index), faults, unread, above) for index, each in enumerate(value)
    ]


def _is_secret(where: Location) -> bool:
    names = [key for key in where if isinstance(key, str)]
    return bool(names) and names[-1].endswith(_SECRETS)


def _secrets(document: Document) -> Iterator[str]:
    for where, node in document.scalars.items():
        if _is_secret(where) and len(str(node.value)) >= _SHORTEST_SECRET:
            yield str(node.value)


def _without(secrets: list[str], problem: Problem) -> Problem:
    message, hint = problem.message, problem.hint
    for secret in secrets:
        message = message.replace(secret, "***")
        hint = None if hint is None else hint.replace(secret, "***")
    return replace(problem, message=message, hint=hint)
