"""The hot path, readable top to bottom: `admit` a request, or raise a `Denial`.

What it needs from the world it declares here as Protocols; the backends implement them. It reads
no clock and opens no socket of its own.
"""

import asyncio
from collections.abc import Container
from dataclasses import dataclass
from typing import Final, Protocol

from gateway.core import bearer, credentials, policy, upgrades
from gateway.core.admission import Admission, Forwarding
from gateway.core.headers import STALE, Fields, HeaderPolicy
from gateway.core.model import (
    Auth,
    Claims,
    Credential,
    CredentialSources,
    Lease,
    Request,
    Resolution,
    Route,
)
from gateway.core.reasons import (
    CREDENTIALS_MISSING,
    TOKEN_REVOKED,
    TOKENS_REVOKED_BEFORE,
    USER_NOT_FOUND,
    Denial,
)
from gateway.core.routes import RouteTable, Target, read_target
from gateway.core.verified import VerifiedToken

RECURRING_HEADS: Final = 2048
"""Heads of requests that are remembered with what they say."""


class Verifier(Protocol):
    """Raw token → verified claims."""

    @property
    def remembered(self) -> Container[bytes]:
        """The SHA-256 of each token that is remembered."""

    def recall(self, credential: Credential) -> VerifiedToken | None:
        """Return a token that was verified before and is still good; None: `verify` it."""

    async def verify(self, credential: Credential) -> VerifiedToken:
        """Verify a token. Raises `Denial`."""


class Directory(Protocol):
    """Who is behind a token, and whether it has been revoked."""

    def recall(self, claims: Claims) -> Resolution | None:
        """Answer from this process's memory, if that is right at this moment; None: `resolve` them."""

    def lease(self, claims: Claims) -> Lease | None:
        """Return what tells whether an answer that was recalled just now is still right."""

    def stands(self, lease: Lease) -> bool:
        """Tell whether an answer is still right."""

    async def resolve(self, claims: Claims) -> Resolution:
        """Ask the identity tiers. Raises `Denial` when none that may be trusted can answer."""


class Pipeline:
    """A request's way from the wire to its admission."""

    def __init__(
        self, routes: RouteTable, verifier: Verifier, directory: Directory, headers: HeaderPolicy
    ) -> None:
        self._routes = routes
        self._verifier = verifier
        self._directory = directory
        self._headers = headers

    async def admit(self, request: Request) -> Admission:
        """Settle a request: where it goes, who it is from, and that they may.

        Raises `Denial`, with the route once there is one.
        """
        reading = self._reading(request)
        route = reading.route
        try:
            if reading.credential is None:
                return self._admission(request, reading)
            credential = request.credential or reading.credential
            token = self._verifier.recall(credential)
            if token is None:
                await _wait()
                token = await self._verifier.verify(credential)
            resolution = self._recall(token)
            if resolution is None:
                await _wait()
                resolution = await self._resolve(token.claims)
                _check(route, token.claims, resolution)
                resolution = self._learnt(token, route, resolution)
            elif token.route is not route:
                _check(route, token.claims, resolution)
                # It need not be looked at again while memory says the same.
                token.route = route
            return self._admission(request, reading, token, resolution)
        except Denial as denial:
            denial.route = route
            raise

    async def recheck(self, route: Route, claims: Claims) -> Resolution:
        """Settle once more that a token's user may use a route, as for a new request.

        The token itself is not looked at. Raises `Denial`.
        """
        resolution = self._directory.recall(claims)
        if resolution is None:
            resolution = await self._resolve(claims)
        _check(route, claims, resolution)
        return resolution

    @property
    def remembered(self) -> Container[bytes]:
        """The SHA-256 of each token that has been verified, and is remembered whatever became of it since."""
        return self._verifier.remembered

    def _recall(self, token: VerifiedToken) -> Resolution | None:
        """Return what memory says of a token's user; what rested on another answer ends."""
        lease = token.lease
        if lease is not None and self._directory.stands(lease):
            return lease.answer
        token.lease, token.route, token.identity = None, None, b""
        answer = self._directory.recall(token.claims)
        if answer is not None:
            token.lease = self._directory.lease(token.claims)
        return answer

    def _learnt(self, token: VerifiedToken, route: Route, resolution: Resolution) -> Resolution:
        """Let what the stores said count from here on, if memory says the same; returns what to go by."""
        lease = self._directory.lease(token.claims)
        if lease is None or lease.answer.user is not resolution.user:
            return resolution
        token.lease, token.route, token.identity = lease, route, b""
        return lease.answer

    def _reading(self, request: Request) -> "_Reading":
        """Read a head, or remember what it says, which its bytes and the scheme it came with decide."""
        recurring = request.recurring
        if recurring is None:
            return self._read(request)
        kept = recurring.kept
        if isinstance(kept, _Reading) and kept.scheme == request.scheme:
            return kept
        reading = self._read(request)
        # Of several that nobody asked for, each is forwarded as it came.
        if len(reading.fields.authorizations) <= 1:
            recurring.kept = reading
        return reading

    def _read(self, request: Request) -> "_Reading":
        fields = self._headers.read(request)
        target = read_target(request.target, fields.hosts)
        route = self._routes.match(request.method, target.host, target.path)
        credential: Credential | None = None
        try:
            if route.auth is not Auth.NONE and route.credentials is None:
                credential = Credential.of(bearer.parse(fields.authorizations))
            elif route.auth is not Auth.NONE and route.credentials is not None:
                token, request, target = _presented(request, target, route, route.credentials)
                credential = Credential.of(token)
                fields = self._headers.read(request)
        except Denial as denial:
            if route.auth is not Auth.OPTIONAL or denial.reason is not CREDENTIALS_MISSING:
                denial.route = route
                raise
        upgrade = upgrades.requested(request, route.upgrades) if request.may_upgrade else None
        return _Reading(
            route, target.without(route.strip_prefix), fields, credential, upgrade, request.scheme
        )

    async def _resolve(self, claims: Claims) -> Resolution:
        try:
            return await self._directory.resolve(claims)
        except Denial as denial:
            denial.issuer, denial.subject = claims.issuer_name, claims.subject
            raise

    def _admission(
        self,
        request: Request,
        reading: "_Reading",
        token: VerifiedToken | None = None,
        resolution: Resolution | None = None,
    ) -> Admission:
        fields, stale = b"", False
        if token is not None and resolution is not None:
            lease = token.lease
            if lease is None or lease.answer is not resolution:
                fields, stale = self._headers.identity(token.claims, resolution.user), resolution.stale
            else:
                # Rendered once while memory says the same.
                fields = token.identity = token.identity or self._headers.identity(
                    token.claims, resolution.user
                )
        if stale:
            fields += STALE
        if self._headers.forwards_credentials:
            fields += self._headers.credentials(request, reading.fields)
        forwarding = reading.forwarding
        if forwarding is None or reading.peer != request.peer:
            forwarding = self._forwarding(request, reading)
        return Admission(forwarding, fields, token, resolution, stale)

    def _forwarding(self, request: Request, reading: "_Reading") -> Forwarding:
        """Settle how a request with this head and from there is forwarded, whoever sends it."""
        route, fields = reading.route, reading.fields
        line = f"{request.method} {reading.target} HTTP/1.1".encode("ascii")
        host = fields.hosts[0] if fields.hosts else b""
        told = self._headers.forwarded(request, fields, route.strip_prefix)
        forwarding = Forwarding(route, request.method, line, host, told, reading.upgrade)
        reading.forwarding, reading.peer = forwarding, request.peer
        return forwarding


@dataclass(slots=True)
class _Reading:
    """What a request's head says, whoever sends it and whenever."""

    route: Route
    target: str
    """As it is forwarded."""
    fields: Fields
    credential: Credential | None
    """None: nobody asks for one, or it may be missing and is."""
    upgrade: bytes | None
    scheme: str
    """What the request came with; it decides which pages are of the same origin."""
    peer: str = ""
    """Where the last one came from that was forwarded."""
    forwarding: Forwarding | None = None
    """How that was."""


def _check(route: Route, claims: Claims, resolution: Resolution) -> None:
    """Raise a `Denial` unless the token's user is there, and may use the route."""
    try:
        if resolution.revoked == "jti":
            raise Denial(TOKEN_REVOKED)
        if resolution.revoked is not None:
            raise Denial(TOKENS_REVOKED_BEFORE, f"by a revocation of the {resolution.revoked}'s tokens")
        if resolution.user is None:
            raise Denial(USER_NOT_FOUND)
        policy.authorize(route, resolution.user, claims)
    except Denial as denial:
        denial.issuer, denial.subject = claims.issuer_name, claims.subject
        denial.tier = denial.tier or resolution.tier
        raise


async def _wait() -> None:
    """Mark the point from which a request waits for others: whoever took it so far by hand makes a task.

    What comes before costs no turn of an event loop.
    """
    await asyncio.sleep(0)


def _presented(
    request: Request, target: Target, route: Route, sources: CredentialSources
) -> tuple[bytes, Request, Target]:
    """Find the token where the route lets it be; returns it, and the request without it there."""
    presented = credentials.find(request, target.query, sources)
    upgrade = upgrades.requested(request, route.upgrades) is not None
    credentials.check_origin(presented, sources.allowed_origins, upgrade=upgrade)
    return presented.token, presented.request, target._replace(query=presented.query)
