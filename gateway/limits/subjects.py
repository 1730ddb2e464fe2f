"""Whom a request counts for: what names the owner of a budget; None if a limit is not about the request."""

import hashlib
import ipaddress
from collections.abc import Callable
from functools import lru_cache
from typing import Final, TypeAlias

from gateway.core import policy
from gateway.core.admission import Admission
from gateway.core.conditions import Condition
from gateway.core.model import Request
from gateway.core.reasons import CONDITION_NOT_MET, Denial
from gateway.core.tokens.claim_paths import at_path
from gateway.limits.rules import Audience, Limit

Subject: TypeAlias = Callable[[Request, Admission], str | None]

CLAIMS: Final = "claims."
_LONGEST: Final = 64
"""Characters of a subject as it is remembered."""
_TRANSLATED: Final = ipaddress.IPv6Network("64:ff9b::/96")
"""IPv4 addresses behind a translator (RFC 6052 §2.1): all clients of IPv4 would have one /64."""


def subject_of(limit: Limit) -> Subject:
    """Return what names the owner of the budget that a request of a limit is counted in."""
    find = _claim(limit.per.removeprefix(CLAIMS)) if limit.per.startswith(CLAIMS) else _FINDERS[limit.per]
    if limit.counts != "all":
        find = _only(limit.counts, find)
    return find if limit.when is None else _where(limit.when, find)


def network_of(address: str) -> str:
    """Return the IPv4 address, or the /64 of an IPv6 address, which one client has to itself (RFC 6177)."""
    return _network_of(address) if ":" in address else address


@lru_cache(maxsize=4096)
def _network_of(address: str) -> str:
    try:
        found = ipaddress.IPv6Address(address)
    except ValueError:
        return address
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    if found in _TRANSLATED:
        return str(ipaddress.IPv4Address(int(found) & 0xFFFFFFFF))
    return str(ipaddress.IPv6Network((int(found) >> 64 << 64, 64)))


def named(subject: str) -> str:
    """Return a subject as workers remember it: what tokens may hold at any length has a bounded one here."""
    if len(subject) <= _LONGEST:
        return subject
    return f"sha256:{digest_of(subject)}"


def digest_of(subject: str) -> str:
    """Return what stands for a subject in stores: of one length, and without what it says of a person."""
    return hashlib.sha256(subject.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _only(audience: Audience, find: Subject) -> Subject:
    anonymous = audience == "anonymous"
    return lambda request, admission: (
        find(request, admission) if (admission.claims is None) is anonymous else None
    )


def _where(condition: Condition, find: Subject) -> Subject:
    def found(request: Request, admission: Admission) -> str | None:
        try:
            policy.check_once(
                condition, request, admission.forwarding.route, admission.claims, admission.user
            )
        except Denial as denial:
            if denial.reason is CONDITION_NOT_MET:
                return None
            # Without a value, as when a claim is missing: no request escapes a limit in this way.
        return find(request, admission)

    return found


def _user(_: Request, admission: Admission) -> str | None:
    decision = admission.decision
    if decision is None:
        return None
    user = decision.resolution.user
    if user is not None:
        return user.id
    # A route that forwards requests without a user: each identity has a budget of its own.
    claims = admission.claims
    return None if claims is None else named(f"{claims.realm}:{claims.subject}")


def _tenant(_: Request, admission: Admission) -> str | None:
    user, claims = admission.user, admission.claims
    tenant = user.tenant if user is not None else None
    if tenant is None and claims is not None:
        tenant = claims.tenant
    return None if tenant is None else named(tenant)


def _issuer(_: Request, admission: Admission) -> str | None:
    return None if admission.claims is None else admission.claims.issuer_name


def _client(request: Request, _: Admission) -> str | None:
    return network_of(request.client)


def _route(_: Request, admission: Admission) -> str | None:
    return admission.forwarding.route.name


def _claim(path: str) -> Subject:
    def find(_: Request, admission: Admission) -> str | None:
        claims = admission.claims
        value = None if claims is None else at_path(claims.payload, path)
        # A list or an object is no name.
        return None if value is None or isinstance(value, list | dict) else named(f"{value}")

    return find


_FINDERS: Final[dict[str, Subject]] = {
    "user": _user, "tenant": _tenant, "issuer": _issuer, "client": _client, "route": _route,
}  # fmt: skip
KID: Final = "kid"
"""Of failed authentications: the key that a token names."""
PER: Final = (*_FINDERS, KID)
