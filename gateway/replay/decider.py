"""The decision on a request whose token is verified, and whose user is known."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from gateway.core import policy
from gateway.core.model import (
    JSON,
    Auth,
    Claims,
    Header,
    Issuer,
    Request,
    Resolution,
    RevocationKind,
    Route,
    Tier,
    User,
)
from gateway.core.provisioning import new_user
from gateway.core.reasons import CREDENTIALS_MISSING, ISSUER_UNTRUSTED, Denial, Reason
from gateway.core.routes import RouteTable, read_target
from gateway.core.tokens import claims as claim_rules
from gateway.core.tokens.issuer_patterns import IssuerTable
from gateway.pipeline import check, may_be_created


@dataclass(frozen=True, slots=True)
class Case:
    """A request, with what was found out about it."""

    method: str
    target: str
    host: str
    payload: Mapping[str, JSON] | None
    """The claims of a verified token; None without one."""
    user: User | None
    at: float
    """When it came, in Unix seconds."""
    client: str = ""
    headers: tuple[Header, ...] = ()
    """Without Host and credentials."""
    scheme: Literal["http", "https"] = "https"
    revoked: RevocationKind | None = None
    forwards: bool = True
    """False: another proxy asks."""
    refusal: Reason | None = None
    """Why its token was refused before its claims were known."""
    issuer: str | None = None
    """The name of the issuer of that token, if it was known."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """A verdict."""

    denial: Denial | None
    """None: the request is admitted."""
    route: Route | None

    @property
    def verdict(self) -> str:
        """`allow`, or the code of the reason."""
        return "allow" if self.denial is None else self.denial.reason.code


class RequestClock:
    """A clock that shows the time of the request that is decided."""

    def __init__(self) -> None:
        self.at = 0.0
        """Unix seconds."""

    def __call__(self) -> float:
        return self.at


class Decider:
    """One configuration. `moment` is the clock of the conditions of its routes."""

    def __init__(self, routes: Iterable[Route], issuers: Iterable[Issuer], moment: RequestClock) -> None:
        routes = tuple(routes)
        self._moment = moment
        self._front = RouteTable(routes, forwards=True)
        self._asked = RouteTable(routes)
        self._issuers = IssuerTable(tuple(issuers))

    def decide(self, case: Case) -> Outcome:
        """Return the verdict that a live request would get."""
        self._moment.at = case.at
        route: Route | None = None
        try:
            route = self.route(case)
            self._decide(case, route)
        except Denial as denial:
            return Outcome(denial, route or denial.route)
        return Outcome(None, route)

    def route(self, case: Case) -> Route:
        """Return the route of a request. Raises `Denial`."""
        table = self._front if case.forwards else self._asked
        target = read_target(case.target, [case.host.encode()], table.liberties)
        route = table.match(case.method, target.host, target.path)
        if target.liberties:
            table.check(route, case.method, target)
        return route

    def _decide(self, case: Case, route: Route) -> None:
        if route.auth is Auth.NONE or (
            route.auth is Auth.OPTIONAL and case.payload is None and case.refusal is None
        ):
            condition = route.require.condition
            if condition is not None:
                policy.check_once(condition, _request(case), route, None, None)
            return
        if case.refusal is not None:
            raise Denial(case.refusal, issuer=case.issuer)
        if case.payload is None:
            raise Denial(CREDENTIALS_MISSING)
        claims = self._claims(case, case.payload)
        try:
            self._authorize(case, route, claims)
        except Denial as denial:
            denial.issuer = claims.issuer_name
            raise

    def _authorize(self, case: Case, route: Route, claims: Claims) -> None:
        resolution = Resolution(case.user, Tier.POSTGRES, case.revoked, Tier.POSTGRES)
        if case.user is None and may_be_created(route, resolution):
            issuer = self._issuers.find(claims.issuer)
            created = new_user(claims, None if issuer is None else issuer.provisioning)
            resolution = Resolution(created.as_user(), Tier.POSTGRES, None, Tier.POSTGRES)
        check(route, claims, resolution)
        each = policy.request_check(route, claims, resolution.user)
        if each is not None:
            each(_request(case), route)

    def _claims(self, case: Case, payload: Mapping[str, JSON]) -> Claims:
        issuer = self._issuers.find(claim_rules.issuer_of(payload))
        if issuer is None:
            raise Denial(ISSUER_UNTRUSTED)
        return claim_rules.verify(payload, issuer, case.at)


def _request(case: Case) -> Request:
    headers = ((b"Host", case.host.encode()), *case.headers)
    return Request(case.method, case.target, headers, case.client, case.scheme, "replay")
