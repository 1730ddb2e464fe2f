"""The settings of `limits`, and the rules between them."""

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Annotated, Final, Literal, TypeAlias

from pydantic import AfterValidator, Field, WithJsonSchema

from gateway.core.tokens.claim_paths import DOTTED, POINTER
from gateway.limits.periods import zone
from gateway.limits.rules import Audience, Unit
from gateway.limits.subjects import CLAIMS, PER
from gateway.settings.findings import Finding
from gateway.settings.sections.section import Section
from gateway.settings.values import Cel, Name, Share, Text, mistake, parse_duration

_RATE: Final = re.compile(r"([1-9][0-9]{0,8})\s*/\s*(\S+)")
_QUOTA: Final = re.compile(r"([1-9][0-9]{0,14})\s*/\s*(day|month)")
_MOST: Final = 999_999_999
"""The most requests of a rate, a burst or a concurrency: Redis counts them exactly."""
_SHORTEST: Final = 0.001
_LONGEST: Final = 366 * 86_400.0
"""Seconds of the time of a rate."""
_KINDS: Final = ("rate", "quota", "concurrency")
_OF_USERS: Final = ("user", "tenant", "issuer")


def parse_rate(value: str) -> tuple[int, float]:
    """Return the number of requests and the seconds of `600/1m`."""
    match = _RATE.fullmatch(value)
    if match is None:
        raise mistake("must be a number and a duration", "write 600/1m, 10/1s or 1000/1h")
    number = match[2] if match[2][0].isdigit() else f"1{match[2]}"
    seconds = parse_duration(number)
    if not _SHORTEST <= seconds <= _LONGEST:
        raise mistake("must have a duration from 1ms to 8784h, a year", "write 600/1m, 10/1s or 1000/1h")
    return int(match[1]), seconds


def parse_quota(value: str) -> tuple[int, Unit]:
    """Return the number of requests and the unit of `10000/day`."""
    match = _QUOTA.fullmatch(value)
    if match is None:
        raise mistake("must be a number for each day or month", "write 10000/day or 100000/month")
    return int(match[1]), "day" if match[2] == "day" else "month"


def _rate(value: str) -> str:
    parse_rate(value)
    return value


def _quota(value: str) -> str:
    parse_quota(value)
    return value


def _per(value: str) -> str:
    path = value.removeprefix(CLAIMS)
    if path != value and (POINTER if path.startswith("/") else DOTTED).fullmatch(path):
        return value
    if value not in PER:
        raise mistake(
            "must say whose requests are counted together", f"write {', '.join(PER)} or claims.<path>"
        )
    return value


def _time_zone(value: str) -> str:
    try:
        zone(value)
    except ValueError:
        raise mistake(
            "must be a time zone that this machine knows",
            "write UTC or Europe/Berlin; a small image may need the package tzdata",
        ) from None
    return value


def _text(kind: str, pattern: str) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "x-kind": kind, "pattern": pattern})


Count: TypeAlias = Annotated[int, Field(ge=1, le=_MOST)]
Rate: TypeAlias = Annotated[str, AfterValidator(_rate), _text("number/duration", r"^[1-9][0-9]*\s*/")]
Quota: TypeAlias = Annotated[str, AfterValidator(_quota), _text("number/day or month", f"^{_QUOTA.pattern}$")]
Per: TypeAlias = Annotated[
    str, AfterValidator(_per), _text("user, tenant, issuer, client, route, kid or claims.*", "^[a-z]")
]
TimeZone: TypeAlias = Annotated[str, AfterValidator(_time_zone), _text("time zone", "^[A-Za-z]")]


class RequestLimit(Section):
    """How many requests each user, tenant, issuer, client, route or claim may make (docs/limits.md)."""

    name: Name = Field(examples=["per-user"])
    """A unique name: in metrics, in answers and in keys of Redis."""
    per: Per = Field(examples=["user"])
    """Whose requests are counted together: `user`, `tenant`, `issuer`, `client` (an IPv4 address or an IPv6
    /64), `route`, or `claims.` and a path. With `counts: failed`: `client`, `route` or `kid`."""
    rate: Rate | None = Field(None, examples=["600/1m"])
    """The number of requests in a time, on average."""
    burst: Count | None = None
    """The number of requests that may come at once. `null`: the number in `rate`."""
    quota: Quota | None = None
    """The number of requests in each day or month of the calendar."""
    time_zone: TimeZone = "UTC"
    """Where the days and months of a quota begin."""
    concurrency: Count | None = None
    """The number of requests at the same time. The questions of other proxies (`decision`) do not count."""
    routes: tuple[Text, ...] = ()
    """The names of the routes that it is for; empty: all."""
    counts: Audience = "all"
    """Which requests count: `authenticated` or `anonymous` ones, or `failed` authentications. A client over a
    limit of those gets 429 before its next token is verified, unless that token is remembered as valid."""
    when: Cel | None = None
    """A condition in CEL (docs/policy.md): only requests that meet it count. One that has no value counts."""
    mode: Literal["enforce", "shadow"] = "enforce"
    """`shadow` only counts what would be refused."""
    slack: Share = 0.1
    """The part of the limit that may be admitted in addition when Redis fails."""


def limit_findings(
    limits: list[tuple[int, Mapping[object, object]]], routes: Collection[str]
) -> Iterator[Finding]:
    """Yield the mistakes between the settings of raw limits. `routes` are the names of the routes."""
    for index, limit in limits:
        where = ("limits", index)
        kinds = [kind for kind in _KINDS if limit.get(kind) is not None]
        if len(kinds) != 1:
            yield Finding(
                where,
                "has " + (" and ".join(kinds) or "no limit") + ", and must have one kind",
                "write one of rate, quota and concurrency; several limits count together",
            )
        for key, kind in (("burst", "rate"), ("time_zone", "quota")):
            if limit.get(key) is not None and kind not in kinds:
                yield Finding((*where, key), f"belongs to a {kind}", f"give {kind}, or remove {key}")
        yield from _audience(where, limit)
        listed = limit.get("routes")
        for place, route in enumerate(listed if isinstance(listed, list | tuple) else ()):
            if isinstance(route, str) and route not in routes:
                known = f"known names: {', '.join(routes)}" if routes else None
                yield Finding((*where, "routes", place), f"there is no route {route!r}", known)


def _audience(where: tuple[str | int, ...], limit: Mapping[object, object]) -> Iterator[Finding]:
    per, counts = limit.get("per"), limit.get("counts", "all")
    if not isinstance(per, str):
        return
    if counts == "anonymous" and (per in _OF_USERS or per.startswith(CLAIMS)):
        yield Finding(
            (*where, "per"), "is of a token, and anonymous requests have none", "write client or route"
        )
    if counts == "failed" and per not in ("client", "route", "kid"):
        yield Finding(
            (*where, "per"), "is of a valid token, and these have failed", "write client, route or kid"
        )
    if counts == "failed" and limit.get("when") is not None:
        yield Finding((*where, "when"), "reads a valid token, and these have failed", "remove it")
    if counts == "failed" and limit.get("concurrency") is not None:
        yield Finding((*where, "counts"), "goes with a rate or a quota alone", "write rate: 30/1m")
    if per == "kid" and counts != "failed":
        yield Finding(
            (*where, "per"), "is for failed authentications", "write counts: failed, or another per"
        )
