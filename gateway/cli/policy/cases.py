"""The cases of `gateway policy test`, as they are written: YAML, each with its line."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

from gateway.core.model import JSON, User, UserStatus
from gateway.core.reasons import CATALOGUE
from gateway.core.tokens.issuer_patterns import TENANT, named

if TYPE_CHECKING:
    from gateway.replay.decider import Case
    from gateway.settings.sections.model import Issuer, Settings

_CASE: Final = ("name", "request", "issuer", "claims", "user", "expect")
_REQUEST: Final = ("method", "path", "host", "headers", "client", "at")
_USER: Final = ("id", "status", "tenant", "email", "display_name", "roles", "attributes")
_EXPECT: Final = ("verdict", "reason", "route")


class CaseMistake(Exception):
    """A file with cases that cannot be read. The text has file and line."""


@dataclass(frozen=True, slots=True)
class Expected:
    """One case, and what it says must come out."""

    name: str
    line: int | None
    case: "Case"
    verdict: str
    """`allow`, `deny`, or the code of a reason."""
    route: str | None
    """The name of the route; None: any."""

    def is_met_by(self, verdict: str, route: str | None) -> bool:
        fits = self.verdict == verdict or (self.verdict == "deny" and verdict != "allow")
        return fits and self.route in {None, route}


def read(file: Path, settings: "Settings") -> list[Expected]:
    """Read a file. Raises `CaseMistake` for the first mistake."""
    from gateway.settings.reading.document import Unreadable, parse

    try:
        document = parse(file.read_text(encoding="utf-8"))
    except Unreadable as error:
        place = f"{file}:{error.line}" if error.line else str(file)
        raise CaseMistake(f"{place}: {error}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise CaseMistake(f"{file}: cannot be read: {error}") from error
    if document.faults:
        # Of two expectations, the last one alone would count.
        where, mistake, fix = document.faults[0]
        raise CaseMistake(f"{file}:{document.line(where)}: {where[-1]!r} {mistake}: {fix}")
    entries = document.data.get("cases")
    if not isinstance(entries, list) or not entries or len(document.data) > 1:
        raise CaseMistake(f"{file}:1: must have one key, `cases`, with a list")
    found: list[Expected] = []
    for index, entry in enumerate(entries):
        line = document.line(("cases", index))
        try:
            found.append(_Reader(settings).read(entry, index, line))
        except (ValueError, TypeError) as error:
            raise CaseMistake(f"{file}:{line}: cases[{index}]: {error}") from error
    return found


class _Reader:
    def __init__(self, settings: "Settings") -> None:
        self._settings = settings

    def read(self, entry: object, index: int, line: int | None) -> Expected:
        from gateway.replay.decider import Case

        fields = _known(entry, _CASE, "a case")
        asked = _known(fields.get("request"), _REQUEST, "request")
        method, path = str(asked.get("method", "GET")), asked.get("path")
        if not isinstance(path, str):
            raise TypeError("request.path is required: write request: {path: /orders/7}")
        headers = _mapping(asked.get("headers", {}), "request.headers")
        at = _instant(asked.get("at"))
        verdict, route = self._expected(fields.get("expect"))
        case = Case(
            method,
            path,
            str(asked.get("host", "localhost")),
            self._payload(fields, at),
            _user(fields.get("user", {})),
            at,
            str(asked.get("client", "127.0.0.1")),
            tuple((name.encode(), str(value).encode()) for name, value in headers.items()),
        )
        name = fields.get("name", f"cases[{index}]: {method} {path}")
        return Expected(str(name), line, case, verdict, route)

    def _expected(self, value: object) -> tuple[str, str | None]:
        written = value if isinstance(value, dict) else {"verdict": value}
        fields = _known(written, _EXPECT, "expect")
        verdict = fields.get("reason") or fields.get("verdict")
        if verdict not in {"allow", "deny"} and verdict not in CATALOGUE:
            raise ValueError("expect must be allow, deny or the code of a reason: see docs/reasons.md")
        route = fields.get("route")
        if route is not None and route not in {each.name for each in self._settings.routes}:
            raise ValueError(f"expect.route: there is no route {route!r}")
        return str(verdict), None if route is None else str(route)

    def _payload(self, fields: Mapping[str, object], at: float) -> Mapping[str, JSON] | None:
        """Return the claims of a token that is good but for what the case says of it; None without one."""
        given = fields.get("claims", {})
        if given is None:
            return None
        written = _mapping(given, "claims")
        issuer = self._issuer(fields.get("issuer"))
        tenants = issuer.tenants if isinstance(issuer.tenants, tuple) else ()
        tenant = tenants[0] if tenants else "tenant"
        made: dict[str, JSON] = {
            "iss": issuer.issuer.replace(TENANT, tenant),
            "iat": int(at) - 1,
            "exp": int(at) + 60,
        }
        made |= {path: "test" for path in issuer.require if path not in made and _is_name(path)}
        made |= {path: named(values, tenant)[0] for path, values in issuer.expect.items() if _is_name(path)}
        if _is_name(issuer.subject):
            made[issuer.subject] = "test"
        if issuer.audiences:
            made["aud"] = issuer.audiences[0]
        merged = {**made, **cast("dict[str, JSON]", dict(written))}
        return {name: value for name, value in merged.items() if value is not None}

    def _issuer(self, name: object) -> "Issuer":
        issuers = self._settings.issuers
        if name is None:
            return issuers[0]
        found = next((each for each in issuers if each.name == name), None)
        if found is None:
            raise ValueError(f"there is no issuer {name!r}: {', '.join(each.name for each in issuers)}")
        return found


def _is_name(path: str) -> bool:
    return not path.startswith("/") and "." not in path


def _user(value: object) -> User | None:
    if value is None:
        return None
    fields = _known(value, _USER, "user")
    try:
        status = UserStatus(str(fields.get("status", "active")))
    except ValueError:
        raise ValueError(f"user.status must be one of {', '.join(UserStatus)}") from None
    roles = fields.get("roles", [])
    if not isinstance(roles, list):
        raise TypeError("user.roles must be a list")
    return User(
        str(fields.get("id", "test")),
        status,
        _text(fields.get("tenant"), "user.tenant"),
        _text(fields.get("email"), "user.email"),
        _text(fields.get("display_name"), "user.display_name"),
        tuple(map(str, roles)),
        cast("dict[str, JSON]", dict(_mapping(fields.get("attributes", {}), "user.attributes"))),
    )


def _text(value: object, where: str) -> str | None:
    if value is not None and not isinstance(value, str):
        raise ValueError(f"{where} must be text: put it in quotes")
    return value


def _instant(value: object) -> float:
    if value is None:
        return time.time()
    moment = datetime.fromisoformat(value) if isinstance(value, str) else value
    if not isinstance(moment, datetime) or moment.tzinfo is None:
        raise ValueError('request.at must be an instant with its zone: write "2026-01-31T12:00:00Z"')
    return moment.timestamp()


def _mapping(value: object, where: str) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise TypeError(f"{where} must be a mapping")
    return value


def _known(value: object, names: tuple[str, ...], where: str) -> Mapping[str, object]:
    fields = _mapping(value, where)
    unknown = next(_unknown(fields, names), None)
    if unknown is not None:
        raise ValueError(f"{where} has no {unknown!r}: {', '.join(names)}")
    return fields


def _unknown(fields: Mapping[str, object], names: tuple[str, ...]) -> Iterator[str]:
    return (name for name in fields if name not in names)
