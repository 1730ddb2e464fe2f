"""What is kept of a request for replay: a line of JSON with what its decision depended on.

Never the token: of its claims the values, without those that name or reach a person (`replay.redaction`).
Never the query, in which secrets travel, and no headers. A rule that reads what was redacted cannot be
replayed.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from types import NoneType
from typing import Any, Final, get_args

import orjson

from gateway.core.admission import Admission, AdmittedInShadow
from gateway.core.model import (
    JSON,
    Auth,
    Claims,
    Request,
    Resolution,
    RevocationKind,
    Route,
    User,
    UserStatus,
)
from gateway.core.reasons import (
    CATALOGUE,
    CREDENTIALS_MISSING,
    METHOD_NOT_ALLOWED,
    ROUTE_NOT_FOUND,
    Denial,
    Group,
)
from gateway.core.routes import LIBERTIES, read_target
from gateway.core.tokens.claim_paths import claims_on
from gateway.replay import redaction
from gateway.replay.decider import Case

LONGEST: Final = 32 * 1024
"""Bytes of a line. A longer record is left out."""
_LONGEST_PATH: Final = 2000
_OF_ROUTES: Final = frozenset({ROUTE_NOT_FOUND, METHOD_NOT_ALLOWED})
_KINDS: Final = frozenset(get_args(RevocationKind))


@dataclass(frozen=True, slots=True)
class Sample:
    """A request and its verdict, as they are handed over."""

    request: Request
    at: float
    admission: Admission | None
    denial: Denial | None
    forwards: bool


@dataclass(frozen=True, slots=True)
class Recorded:
    """A record that was read."""

    case: Case
    verdict: str
    """`allow`, or the code of the reason."""
    enforced: bool
    """False: the request passed, because something was in shadow."""
    route: str | None
    redacted: frozenset[str]
    """Paths that the record does not have: `claims.email`, `user.email`, `request.query`."""
    credential: bool
    """Whether the request had a token, of whatever worth."""


class Unreadable(ValueError):
    """A line that is no record."""


def encode(sample: Sample, subjects: Mapping[str, str]) -> bytes | None:
    """Return the line; None for a request that cannot be replayed, or whose record is too long.

    `subjects` has, by the name of an issuer, the claim that names the user.
    """
    denial = sample.denial
    if denial is not None and denial.reason.group is Group.OURS:
        return None
    if denial is not None and denial.reason.group is Group.PROXY and denial.reason not in _OF_ROUTES:
        return None
    request, admission = sample.request, sample.admission
    try:
        hosts = [value for name, value in request.headers if name.lower() == b"host"]
        target = read_target(request.target, hosts, frozenset(LIBERTIES))
    except Denial:
        return None
    if len(target.path) > _LONGEST_PATH:
        return None
    found = _found(admission, denial)
    redacted = ["request.query"] if target.query else []
    path = redaction.path(target.path)
    if path != target.path:
        redacted.append("request.path")
    claims = None if found.claims is None else _claims(found.claims, subjects, redacted)
    record = {
        "at": round(sample.at, 3),
        "route": None if found.route is None else found.route.name,
        "issuer": None if denial is None else denial.issuer,
        "verdict": found.verdict,
        "enforced": found.enforced,
        "method": request.method,
        "host": target.host,
        "path": path,
        "client": request.client,
        "scheme": request.scheme,
        "forwards": sample.forwards,
        "credential": _has_credential(request, target.query, found),
        "claims": claims,
        "user": None if found.resolution is None else _user(found.resolution.user, redacted),
        "revoked": None if found.resolution is None else found.resolution.revoked,
        "redacted": redacted,
    }
    try:
        line = orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE | orjson.OPT_NON_STR_KEYS)
    except orjson.JSONEncodeError:  # attributes with hundreds of levels
        return None
    return line if len(line) <= LONGEST else None


@dataclass(frozen=True, slots=True)
class _Found:
    route: Route | None
    verdict: str
    claims: Claims | None
    resolution: Resolution | None
    enforced: bool = True


def _found(admission: Admission | None, denial: Denial | None) -> _Found:
    if denial is not None:
        return _Found(denial.route, denial.reason.code, denial.claims, denial.resolution)
    if admission is None:
        raise ValueError("neither admitted nor denied")
    route, decision = admission.forwarding.route, admission.decision
    resolution = None if decision is None else decision.resolution
    if isinstance(admission, AdmittedInShadow):
        shadow = admission.shadow
        claims = admission.claims or shadow.claims
        return _Found(route, shadow.reason.code, claims, resolution or shadow.resolution, enforced=False)
    return _Found(route, "allow", admission.claims, resolution)


def _has_credential(request: Request, query: str, found: _Found) -> bool:
    """Return whether the request has a token, or may have one where another route would look."""
    if found.claims is not None:
        return True
    route_looked = found.route is not None and found.route.auth is Auth.OPTIONAL and found.verdict == "allow"
    if found.verdict == CREDENTIALS_MISSING.code or route_looked:
        return False
    names = {name.lower() for name, _ in request.headers}
    return bool(query) or not names.isdisjoint({b"authorization", b"cookie", b"sec-websocket-protocol"})


def _claims(claims: Claims, subjects: Mapping[str, str], redacted: list[str]) -> dict[str, JSON]:
    """Return the claims, with a hash in place of the subject and a word in place of what is personal."""
    of_subjects = {"sub", *claims_on(subjects.get(claims.issuer_name, "sub"))}
    others = {name: value for name, value in claims.payload.items() if name not in of_subjects}
    kept, missing = redaction.members(others)
    for name in of_subjects & claims.payload.keys():
        value = claims.payload[name]
        kept[name] = hashed(claims.subject) if isinstance(value, str) else _hashed_within(value)
        missing.append(name)
    redacted += (f"claims.{name}" for name in missing)
    kept.setdefault("iss", claims.issuer)
    return kept


def _hashed_within(value: JSON) -> JSON:
    """Return a claim that has the subject somewhere within, with a hash for each text."""
    if isinstance(value, str):
        return hashed(value)
    if isinstance(value, dict):
        return {name: _hashed_within(each) for name, each in value.items()}
    return [_hashed_within(each) for each in value] if isinstance(value, list) else value


def hashed(text: str) -> str:
    """Return a hash that is the same for the same text."""
    return "sha256-" + sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:24]


def _user(user: User | None, redacted: list[str]) -> dict[str, JSON] | None:
    if user is None:
        return None
    redacted += ["user.email", "user.display_name", "user.name"]
    attributes, missing = redaction.members(user.attributes)
    redacted += (f"user.attributes.{name}" for name in missing)
    if missing:
        redacted.append("user.attributes")
    return {
        "id": user.id,
        "status": user.status.value,
        "tenant": user.tenant,
        "roles": [*user.roles],
        "attributes": attributes,
        "tokens_valid_after": user.tokens_valid_after,
    }


def decode(line: bytes) -> Recorded:
    """Read a line. Raises `Unreadable`."""
    try:
        read: dict[str, Any] = orjson.loads(line)
        _check(read)
        verdict, claims, user = read["verdict"], read["claims"], read["user"]
        refusal = None
        if (
            claims is None
            and verdict != "allow"
            and CATALOGUE[verdict].group is Group.TOKEN
            and read["credential"]
        ):
            refusal = CATALOGUE[verdict]
        case = Case(
            read["method"],
            read["path"],
            read["host"],
            claims,
            _read_user(user),
            float(read["at"]),
            read["client"],
            (),
            read["scheme"],
            read["revoked"] if read["revoked"] in _KINDS else None,
            read["forwards"],
            refusal,
            read["issuer"],
        )
        return Recorded(
            case,
            verdict,
            read["enforced"],
            read["route"],
            frozenset(read["redacted"]),
            read["credential"],
        )
    except ValueError as error:
        raise Unreadable(f"is no record: {error}") from error


_TEXT: Final = (str,)
_FIELDS: Final[Mapping[str, tuple[type, ...]]] = {
    "at": (int, float), "verdict": _TEXT, "enforced": (bool,), "route": (str, NoneType),
    "issuer": (str, NoneType), "method": _TEXT, "host": _TEXT, "path": _TEXT, "client": _TEXT,
    "scheme": _TEXT, "forwards": (bool,), "credential": (bool,), "claims": (dict, NoneType),
    "user": (dict, NoneType), "revoked": (str, NoneType), "redacted": (list,),
}  # fmt: skip
_USER_FIELDS: Final[Mapping[str, tuple[type, ...]]] = {
    "id": _TEXT, "status": _TEXT, "tenant": (str, NoneType), "roles": (list,), "attributes": (dict,),
    "tokens_valid_after": (int, float, NoneType),
}  # fmt: skip
_LAST: Final = 253_402_300_799.0
"""The end of the year 9999, in Unix seconds."""


def _check(read: object) -> None:
    """Raise `Unreadable` for a line whose fields are not those of a record."""
    if not isinstance(read, dict):
        raise Unreadable("it is not an object")
    user = read.get("user")
    parts: list[tuple[Mapping[str, tuple[type, ...]], dict[str, object]]] = [(_FIELDS, read)]
    if isinstance(user, dict):
        parts.append((_USER_FIELDS, user))
    for fields, found in parts:
        for name, types in fields.items():
            if name not in found or not isinstance(found[name], types):
                raise Unreadable(f"{name!r} is missing, or of another type")
    texts = [*read["redacted"], *(user["roles"] if user else ())]
    if not all(isinstance(each, str) for each in texts):
        raise Unreadable("a list has something else than texts")
    if not 0 <= read["at"] <= _LAST:
        raise Unreadable("'at' is no time")
    if read["verdict"] != "allow" and read["verdict"] not in CATALOGUE:
        raise Unreadable(f"there is no reason {read['verdict']!r}")


def _read_user(user: dict[str, Any] | None) -> User | None:
    if user is None:
        return None
    return User(
        user["id"], UserStatus(user["status"]), user["tenant"], "redacted@example.org", redaction.REPLACED,
        tuple(user["roles"]), user["attributes"], user["tokens_valid_after"],
    )  # fmt: skip
