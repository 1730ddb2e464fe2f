"""What is kept of a request for replay: a line of JSON with what its decision depended on.

Never the token: of its claims the values, without those that name or reach a person, which are `redacted`.
Never the query, in which secrets travel, and no headers. A rule that reads what was redacted cannot be
replayed.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
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
from gateway.replay.decider import Case

LONGEST: Final = 32 * 1024
"""Bytes of a line. A longer record is left out."""
_LONGEST_PATH: Final = 2000
_PERSONAL: Final = frozenset({
    "name", "given_name", "family_name", "middle_name", "nickname", "preferred_username", "upn",
    "unique_name", "profile", "picture", "website", "email", "phone_number", "address",
    "birthdate", "login", "username",
})  # fmt: skip
"""Claims about a person (OpenID Connect Core 1.0 §5.1), and what providers call them."""
_SECRET: Final = frozenset({"jti", "sid", "nonce", "at_hash", "c_hash", "s_hash", "session_state"})
_REPLACED: Final = "redacted"
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
    claims = None if found.claims is None else _claims(found.claims, subjects, redacted)
    record = {
        "at": round(sample.at, 3),
        "route": None if found.route is None else found.route.name,
        "issuer": None if denial is None else denial.issuer,
        "verdict": found.verdict,
        "enforced": found.enforced,
        "method": request.method,
        "host": target.host,
        "path": target.path,
        "client": request.client,
        "scheme": request.scheme,
        "forwards": sample.forwards,
        "credential": _has_credential(request, target.query, found),
        "claims": claims,
        "user": None if found.resolution is None else _user(found.resolution.user, redacted),
        "revoked": None if found.resolution is None else found.resolution.revoked,
        "redacted": redacted,
    }
    line = orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE | orjson.OPT_NON_STR_KEYS)
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
    kept: dict[str, JSON] = {}
    of_subjects = {"sub", *claims_on(subjects.get(claims.issuer_name, "sub"))}
    for name, value in claims.payload.items():
        # Providers put a namespace before names: `https://example.com/email`, `custom:email`.
        plain = name.replace(":", "/").rpartition("/")[2]
        if name in of_subjects:
            redacted.append(f"claims.{name}")
            value = hashed(claims.subject) if isinstance(value, str) else _hashed_within(value)
        elif plain in _PERSONAL or plain in _SECRET:
            redacted.append(f"claims.{name}")
            value = None if value is None else _REPLACED
        kept[name] = value
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
    return {
        "id": user.id,
        "status": user.status.value,
        "tenant": user.tenant,
        "roles": [*user.roles],
        "attributes": dict(user.attributes),
        "tokens_valid_after": user.tokens_valid_after,
    }


def decode(line: bytes) -> Recorded:
    """Read a line. Raises `Unreadable`."""
    try:
        read: dict[str, Any] = orjson.loads(line)
        verdict, claims, user = read["verdict"], read["claims"], read["user"]
        if verdict != "allow" and verdict not in CATALOGUE:
            raise Unreadable(f"there is no reason {verdict!r}")
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
            bool(read["forwards"]),
            refusal,
            read["issuer"],
        )
        return Recorded(
            case,
            verdict,
            bool(read["enforced"]),
            read["route"],
            frozenset(read["redacted"]),
            bool(read["credential"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise Unreadable(f"is no record: {error}") from error


def _read_user(user: dict[str, Any] | None) -> User | None:
    if user is None:
        return None
    return User(
        user["id"], UserStatus(user["status"]), user["tenant"], "redacted@example.org", _REPLACED,
        tuple(user["roles"]), user["attributes"], user["tokens_valid_after"],
    )  # fmt: skip
