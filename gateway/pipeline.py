"""The plain way of a request, readable top to bottom: `admit` it, or raise a `Denial`.

Nothing is remembered here: `gateway.memo` wraps this way, and gives the same verdicts and the same bytes.
What the way needs from the world it declares here as Protocols; the rooms below implement them. It reads no
clock and opens no socket of its own.
"""

import math
from typing import Protocol

from gateway.core import policy
from gateway.core.admission import Admission, AdmittedInShadow, Decision, Forwarding
from gateway.core.assertion import Signed
from gateway.core.headers import STALE, Fields, HeaderPolicy
from gateway.core.model import Auth, Claims, Credential, MissingUser, Request, Resolution, Route, User
from gateway.core.reasons import (
    CREDENTIALS_MISSING,
    METHOD_NOT_ALLOWED,
    TOKEN_REVOKED,
    TOKENS_REVOKED_BEFORE,
    USER_NOT_FOUND,
    Denial,
    Group,
)
from gateway.core.requests import bearer, cors, credentials, upgrades
from gateway.core.requests.methods import COMMON, COUNTED, count_down
from gateway.core.routes import RouteTable, Target, no_tunnel, read_target
from gateway.core.shadow import Shadow, Shadowed
from gateway.core.tokens.verified import VerifiedToken


class Verifier(Protocol):
    """Raw token → verified claims."""

    async def verify(self, credential: Credential) -> VerifiedToken:
        """Verify a token. Raises `Denial`. Before it waits for anything, it sleeps for no time."""


class Directory(Protocol):
    """Who is behind a token, and whether it has been revoked."""

    async def find(self, claims: Claims) -> Resolution:
        """Ask the identity tiers, memory first. Raises `Denial` when none that may be trusted can answer."""


class Provisioner(Protocol):
    """Creates users at their first request."""

    async def provision(self, route: Route, claims: Claims, request: Request) -> Resolution:
        """Create the user of a token, and return what the tiers know then. Raises `Denial`."""


class Asserter(Protocol):
    """Signs who a user is, for upstreams that trust no header alone."""

    def sign(self, audience: str, claims: Claims, user: User | None) -> Signed:
        """Return an assertion for an audience. Raises `Denial` if no key can sign it."""


class Pipeline:
    """A request's way from the wire to its admission."""

    def __init__(
        self,
        routes: RouteTable,
        verifier: Verifier,
        directory: Directory,
        headers: HeaderPolicy,
        provisioner: Provisioner | None = None,
        asserter: Asserter | None = None,
        shadow: Shadow | None = None,
    ) -> None:
        """`shadow`: None if nothing is in shadow."""
        self._routes = routes
        self._verifier = verifier
        self._directory = directory
        self._headers = headers
        self._provisioner = provisioner
        self._asserter = asserter
        self._shadow = shadow
        checks = routes.conditional or shadow is not None
        self.admission = self._checked if checks else self._put_together
        """Puts together what was settled, after what must be checked for each request. Raises `Denial`."""

    async def admit(self, request: Request) -> Admission:
        """Settle a request: where it goes, who it is from, and that they may.

        Raises `Denial`, with the route once there is one.
        """
        forwarding = self.read(request)
        if forwarding.credential is None:
            return self.admission(request, forwarding)
        claims: Claims | None = None
        try:
            claims, route = (await self._verifier.verify(forwarding.credential)).claims, forwarding.route
            resolution = await self._directory.find(claims)
            if resolution.user is None and may_be_created(route, resolution):
                resolution = await self.create(route, claims, request)
            decision = self.decide(route, claims, resolution)
        except Denial as denial:
            attribute(denial, forwarding.route, claims)
            raise
        return self.admission(request, forwarding, claims, decision)

    async def reauthorize(self, request: Request, route: Route, claims: Claims) -> Resolution:
        """Settle once more that a token's user may make a request of a route, as if it were a new one.

        The token itself is not looked at. Raises `Denial`.
        """
        try:
            resolution = await self._directory.find(claims)
            if self.settle(route, claims, resolution) is None:
                self._check_request(request, route, claims, resolution)
        except Denial as denial:
            attribute(denial, None, claims)
            raise
        return resolution

    async def create(self, route: Route, claims: Claims, request: Request) -> Resolution:
        """Create the user of a token that no user is behind. Raises `Denial`."""
        if self._provisioner is None:
            raise Denial(USER_NOT_FOUND, "no users are created here")
        return await self._provisioner.provision(route, claims, request)

    # The steps, which depend on nothing but what they are given -----------------------------------------

    def read(self, request: Request) -> Forwarding:
        """Read a head: which route it takes, with which token, and what is forwarded of it.

        Raises `Denial`.
        """
        if request.method == "CONNECT":
            # Its target is no path, so it would be refused for that.
            raise no_tunnel()
        exhausted = False
        if request.method in COUNTED and self._routes.forwards:
            counted = count_down(request)
            request, exhausted = counted or request, counted is None
        fields = self._headers.read(request)
        target = read_target(request.target, fields.hosts, self._routes.liberties)
        if (asked := cors.read_preflight(request)) is not None:
            preflight = self._answer(request.method, asked, target, fields)
            if preflight is not None:
                return preflight
        route = self._routes.match(request.method, target.host, target.path)
        if target.liberties:
            self._routes.check(route, request.method, target)
        if exhausted:
            return self._last(route, request.method, fields)
        credential: Credential | None = None
        shadow: Shadowed | None = None
        try:
            if route.auth is Auth.NONE:
                pass
            elif route.credentials is None:
                credential = Credential.of(bearer.parse(fields.authorizations))
            else:
                presented = credentials.find(request, target.query, route.credentials)
                upgrade = upgrades.requested(request, route.upgrades) is not None
                credentials.check_origin(presented, route.credentials.allowed_origins, upgrade=upgrade)
                credential = Credential.of(presented.token)
                request, target = presented.request, target._replace(query=presented.query)
                fields = self._headers.read(request)
        except Denial as denial:
            if route.auth is not Auth.OPTIONAL or denial.reason is not CREDENTIALS_MISSING:
                attribute(denial, route, None)
                # Without its credentials, it passes if these are removed in any case.
                removed = route.credentials is None or denial.reason is CREDENTIALS_MISSING
                if not removed or not self._covers(denial, route):
                    raise
                shadow = Shadowed.of(denial)
        line = f"{request.method} {target.below(route.base_path, route.strip_prefix)} HTTP/1.1".encode(
            "ascii"
        )
        told = self._headers.forwarded(request, fields, route.strip_prefix)
        protocol = upgrades.requested(request, route.upgrades) if request.may_upgrade else None
        (host,) = fields.hosts
        return Forwarding(route, request.method, line, host, told, protocol, credential, fields, None, shadow)

    def _last(self, route: Route, method: str, fields: Fields) -> Forwarding:
        """Answer a request that must go no further (RFC 9110 §7.6.2). Raises `Denial` for TRACE."""
        allow = route.methods or COMMON
        if method != "OPTIONS":
            raise Denial(METHOD_NOT_ALLOWED, "Max-Forwards is 0", route=route, allow=allow)
        answer = f"Allow: {', '.join(sorted(allow))}\r\n".encode("ascii")
        return Forwarding(route, method, b"", b"", b"", None, None, fields, answer)

    def _answer(
        self, method: str, asked: cors.Preflight, target: Target, fields: Fields
    ) -> Forwarding | None:
        """Return the answer to a preflight; None if the route of the announced request has no `cors`.

        Raises `Denial` if the origin may not use the route.
        """
        route: Route | None
        try:
            route = self._routes.match(asked.method, target.host, target.path)
            if target.liberties:
                self._routes.check(route, asked.method, target)
            methods = route.methods
        except Denial as denial:
            route = self._without_method(denial, target)
            methods = COMMON if route is None else route.methods or COMMON
        if route is None or route.cors is None:
            return None
        try:
            answer = cors.preflight_fields(route.cors, methods, asked)
        except Denial as denial:
            attribute(denial, route, None)
            raise
        return Forwarding(route, method, b"", b"", b"", None, None, fields, answer)

    def _without_method(self, denial: Denial, target: Target) -> Route | None:
        """Return the route that does not take the announced method: the browser is told what it takes.

        None if there is none, if another route takes the OPTIONS request itself, or if a front forwards it.
        """
        if target.liberties or not self._routes.forwards:
            return None
        try:
            taking = self._routes.match("OPTIONS", target.host, target.path)
        except Denial:
            return denial.route
        return taking if taking is denial.route else None

    def decide(self, route: Route, claims: Claims, resolution: Resolution) -> Decision:
        """Settle that a token's user may use a route, and what the upstream is told. Raises `Denial`."""
        shadow = self.settle(route, claims, resolution)
        identity = self._headers.identity(claims, resolution.user, with_status=route.allow_inactive)
        if resolution.stale:
            identity += STALE
        until = math.inf
        if self._asserter is not None:
            signed = self._asserter.sign(route.audience, claims, resolution.user)
            identity, until = identity + signed.field, signed.until
        told = self._headers.told(identity) if self._headers.tells_fronts else b""
        each = None if shadow is not None else policy.request_check(route, claims, resolution.user)
        return Decision(route, resolution, identity, told, until, each, shadow)

    def settle(self, route: Route, claims: Claims, resolution: Resolution) -> Shadowed | None:
        """Settle that a token's user may use a route. Raises `Denial`.

        Return why the policy would refuse that, if it is in shadow. All else about the token and its user is
        in order then.
        """
        try:
            check(route, claims, resolution)
        except Denial as denial:
            attribute(denial, route, claims)
            if denial.reason.group is not Group.POLICY or not self._covers(denial, route):
                raise
            return Shadowed.of(denial)
        return None

    def _covers(self, denial: Denial, route: Route) -> bool:
        return self._shadow is not None and self._shadow.covers(denial.reason, route, denial.issuer)

    def unidentified(self, request: Request, denial: Denial) -> AdmittedInShadow | None:
        """Admit a denied request without its token and without an identity, if the denial is in shadow.

        None: it is enforced.
        """
        if denial.route is None or not self._covers(denial, denial.route):
            return None
        try:
            forwarding = self.read(request)
        except Denial:
            return None
        if forwarding.route is not denial.route or forwarding.preflight is not None:
            return None
        shadow = Shadowed.of(denial)
        return AdmittedInShadow(forwarding._replace(credential=None, shadow=shadow), b"", shadow=shadow)

    def _check_request(self, request: Request, route: Route, claims: Claims, resolution: Resolution) -> None:
        """Check the condition of an open exchange again, unless it is in shadow. Raises `Denial`."""
        each = policy.request_check(route, claims, resolution.user)
        if each is None:
            return
        try:
            each(request, route)
        except Denial as denial:
            denial.issuer = claims.issuer_name
            if not self._covers(denial, route):
                raise

    def _checked(
        self,
        request: Request,
        forwarding: Forwarding,
        claims: Claims | None = None,
        decision: Decision | None = None,
    ) -> Admission:
        """Check the condition of the route for this request, which may have no token. Raises `Denial`."""
        route, condition = forwarding.route, forwarding.route.require.condition
        shadow = forwarding.shadow if decision is None else decision.shadow
        if shadow is None and condition is not None and forwarding.preflight is None:
            try:
                if decision is None:
                    policy.check_once(condition, request, route, None, None)
                elif decision.request_check is not None:
                    decision.request_check(request, route)
            except Denial as denial:
                attribute(denial, route, claims)
                if decision is not None:
                    attribute_user(denial, decision.resolution)
                if not self._covers(denial, route):
                    raise
                shadow = Shadowed.of(denial)
        admission = self._put_together(request, forwarding, claims, decision)
        return admission if shadow is None else in_shadow(admission, shadow)

    def _put_together(
        self,
        request: Request,
        forwarding: Forwarding,
        claims: Claims | None = None,
        decision: Decision | None = None,
    ) -> Admission:
        fields = b"" if decision is None else decision.identity
        if forwarding.forwards_authorization:
            fields += self._headers.credentials(request, forwarding.client_fields)
        return Admission(forwarding, fields, claims, decision)


def may_be_created(route: Route, resolution: Resolution) -> bool:
    """Tell whether the user who is missing may be created for a request of this route."""
    return route.missing_user is MissingUser.PROVISION and resolution.revoked is None


def check(route: Route, claims: Claims, resolution: Resolution) -> None:
    """Raise a `Denial` unless the token's user may use the route, or may be missing on it and is."""
    try:
        if resolution.revoked == "jti":
            raise Denial(TOKEN_REVOKED)
        if resolution.revoked is not None:
            raise Denial(TOKENS_REVOKED_BEFORE, f"by a revocation of the {resolution.revoked}'s tokens")
        if resolution.user is None:
            policy.authorize_without_user(route, claims)
        else:
            policy.authorize(route, resolution.user, claims)
    except Denial as denial:
        attribute_user(denial, resolution)
        raise


def attribute(denial: Denial, route: Route | None, claims: Claims | None) -> None:
    """Note on a denial what it is about: the route, and the token's issuer and subject once verified."""
    denial.route = route
    if claims is not None:
        denial.claims, denial.issuer, denial.subject = claims, claims.issuer_name, claims.subject


def attribute_user(denial: Denial, resolution: Resolution) -> None:
    """Note on a denial whom it is about, and where that was found."""
    denial.resolution, denial.tier = resolution, resolution.tier
    denial.user_id = None if resolution.user is None else resolution.user.id


def in_shadow(admission: Admission, shadow: Shadowed) -> AdmittedInShadow:
    """Return the admission of a request that would be refused."""
    forwarding, fields = admission.forwarding, admission.fields
    return AdmittedInShadow(forwarding, fields, admission.claims, admission.decision, shadow=shadow)
