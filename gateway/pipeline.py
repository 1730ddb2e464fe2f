"""The hot path, readable top to bottom: `admit` a request, or raise a `Denial`.

What it needs from the world it declares here as Protocols; the backends implement them. It reads
no clock and opens no socket of its own.
"""

import asyncio
import hashlib
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final, NamedTuple, Protocol

from gateway.core import bearer, credentials, policy, tokens, upgrades
from gateway.core import claims as claim_rules
from gateway.core.headers import Fields, HeaderPolicy
from gateway.core.lru import LRU
from gateway.core.model import (
    JSON,
    Admission,
    Auth,
    Claims,
    CredentialSources,
    Issuer,
    Lease,
    Request,
    Resolution,
    Route,
)
from gateway.core.reasons import (
    ALGORITHM_NOT_ALLOWED,
    CREDENTIALS_MISSING,
    ISSUER_UNTRUSTED,
    KEY_UNKNOWN,
    KEYS_UNAVAILABLE,
    SIGNATURE_INVALID,
    TOKEN_REVOKED,
    TOKENS_REVOKED_BEFORE,
    USER_NOT_FOUND,
    Denial,
)
from gateway.core.routes import RouteTable, Target, read_target
from gateway.core.tokens import KeySet, TokenLease, UnverifiedToken, VerificationKey

RECURRING_HEADS: Final = 2048
"""Heads of requests that are remembered with what they say."""


_NOTHING: Final[Mapping[str, JSON]] = MappingProxyType({})


class Keys(Protocol):
    """The verification keys of all issuers."""

    def current(self, issuer_name: str) -> KeySet | None:
        """Return the keys to trust at this moment; None when there are none that may be trusted."""

    async def refresh(self, issuer_name: str) -> None:
        """Fetch the issuer's keys once more, if that is allowed again; returns when it is done."""


class Verifier(Protocol):
    """Raw token → verified claims."""

    def lease(self, claims: Claims) -> TokenLease | None:
        """Return what tells whether claims that were recalled just now are still good."""

    def stands(self, lease: TokenLease) -> bool:
        """Tell whether a token is still good: in time, and by the same keys."""

    def recall(self, raw: bytes) -> Claims | None:
        """Return the claims of a token that was verified before and is still good; None: `verify` it."""

    async def verify(self, raw: bytes) -> Claims:
        """Return the token's claims. Raises `Denial`."""


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


@dataclass(frozen=True, slots=True)
class _Remembered:
    claims: Claims
    key: VerificationKey
    expires_at: float | None
    """Unix seconds, leeway included; None when the issuer allows tokens without `exp`."""


class TokenVerifier:
    """Raw token → verified claims; memory first, keyed by the SHA-256 of the token's bytes."""

    def __init__(
        self,
        issuers: Iterable[Issuer],
        keys: Keys,
        *,
        clock: Callable[[], float],
        max_remembered: int,
        claims_read: frozenset[str] = frozenset(),
    ) -> None:
        """`claims_read` names what is kept of payloads, of which most is read by nobody and takes memory."""
        self._claims_read = claims_read
        self._issuers: Mapping[str, Issuer] = {issuer.issuer: issuer for issuer in issuers}
        self._keys = keys
        self._clock = clock
        self._remembered: LRU[bytes, _Remembered] = LRU(max_remembered)

    def recall(self, raw: bytes) -> Claims | None:
        """Return the claims of a token that was verified before and is still good; None: `verify` it."""
        digest = hashlib.sha256(raw).digest()
        remembered = self._remembered.get(digest)
        if remembered is None:
            return None
        alive = remembered.expires_at is None or self._clock() < remembered.expires_at
        # Keys that became too old to trust take with them what they verified.
        if alive and self._keys.current(remembered.claims.issuer_name) is not None:
            return remembered.claims
        self._remembered.pop(digest)
        return None

    def lease(self, claims: Claims) -> TokenLease | None:
        """Return what tells whether claims that were recalled just now are still good."""
        keys, until = self._keys.current(claims.issuer_name), claims.good_until
        if keys is None:
            return None
        return TokenLease(claims.issuer_name, keys, math.inf if until is None else until)

    def stands(self, lease: TokenLease) -> bool:
        """Tell whether a token is still good: in time, and by the same keys."""
        return self._clock() < lease.until and self._keys.current(lease.issuer_name) is lease.keys

    async def verify(self, raw: bytes) -> Claims:
        """Return the token's claims, and remember them. Raises `Denial`."""
        token = tokens.parse(raw)
        issuer = self._issuers.get(claim_rules.issuer_of(token.payload))
        if issuer is None:
            raise Denial(ISSUER_UNTRUSTED)
        if token.algorithm not in issuer.algorithms:
            raise Denial(ALGORITHM_NOT_ALLOWED, "not among the issuer's `algorithms`", issuer=issuer.name)
        key = await self._key(issuer, token)
        if token.algorithm not in key.algorithms:
            raise Denial(ALGORITHM_NOT_ALLOWED, "it does not fit the key", issuer=issuer.name)
        if not key.verify(token):
            raise Denial(SIGNATURE_INVALID, issuer=issuer.name)
        claims = claim_rules.verify(token.payload, issuer, self._clock())
        read = {name: value for name, value in token.payload.items() if name in self._claims_read}
        claims = replace(claims, payload=read or _NOTHING)

        self._remembered.put(hashlib.sha256(raw).digest(), _Remembered(claims, key, claims.good_until))
        return claims

    async def _key(self, issuer: Issuer, token: UnverifiedToken) -> VerificationKey:
        """Select the one key by issuer and `kid`; an unknown `kid` may mean that keys were rotated."""
        keys = self._keys.current(issuer.name)
        key = keys.select(token.kid, token.algorithm) if keys is not None else None
        if key is None:
            await self._keys.refresh(issuer.name)
            keys = self._keys.current(issuer.name)
            if keys is None:
                raise Denial(KEYS_UNAVAILABLE, issuer=issuer.name)
            key = keys.select(token.kid, token.algorithm)
        if key is None:
            raise Denial(KEY_UNKNOWN, issuer=issuer.name)
        return key

    def forget_withdrawn(self, issuer_name: str, keys: KeySet | None) -> int:
        """Drop every remembered token of an issuer whose key is no longer in its set."""
        trusted = frozenset(keys.keys) if keys is not None else frozenset()
        return self._remembered.discard(
            lambda entry: entry.claims.issuer_name == issuer_name and entry.key not in trusted
        )

    def __len__(self) -> int:
        return len(self._remembered)


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
        settled = self._settled(request)
        if settled is not None:
            return settled
        reading = self._reading(request)
        route = reading.route
        try:
            if reading.token is None:
                admission = self._admission(request, reading)
                self._settle(request, admission)
                return admission
            remembered = True
            claims = self._verifier.recall(reading.token)
            if claims is None:
                remembered = False
                await _wait()
                claims = await self._verifier.verify(reading.token)
            resolution = self._directory.recall(claims)
            if resolution is None:
                remembered = False
                await _wait()
                resolution = await self._resolve(claims)
            _check(route, claims, resolution)
            admission = self._admission(request, reading, claims, resolution)
            if remembered:
                self._settle(request, admission)
            return admission
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

    def _settled(self, request: Request) -> Admission | None:
        """Return what was settled for the same head before, while everything that it rested on stands."""
        kept = None if request.recurring is None else request.recurring.kept
        if not isinstance(kept, _Kept) or kept.admission is None:
            return None
        if kept.peer != request.peer or kept.scheme != request.scheme:
            return None
        token, answer = kept.token, kept.answer
        if token is None or answer is None:
            # Nobody was asked for.
            return kept.admission
        if self._verifier.stands(token) and self._directory.stands(answer):
            return kept.admission
        return None

    def _settle(self, request: Request, admission: Admission) -> None:
        """Keep an admission with its head. What it rests on has been recalled at this very moment."""
        kept = None if request.recurring is None else request.recurring.kept
        if not isinstance(kept, _Kept):
            return
        token = answer = None
        if admission.claims is not None:
            token, answer = self._verifier.lease(admission.claims), self._directory.lease(admission.claims)
            if token is None or answer is None:
                return
        kept.peer, kept.scheme, kept.admission = request.peer, request.scheme, admission
        kept.token, kept.answer = token, answer

    def _reading(self, request: Request) -> "_Reading":
        """Read a head, or remember what it says: nothing of that depends on anything but its bytes."""
        recurring = request.recurring
        if recurring is not None and isinstance(recurring.kept, _Kept):
            return recurring.kept.reading
        reading = self._read(request)
        if recurring is not None:
            recurring.kept = _Kept(reading)
        return reading

    def _read(self, request: Request) -> "_Reading":
        fields = self._headers.read(request)
        target = read_target(request.target, fields.hosts)
        route = self._routes.match(request.method, target.host, target.path)
        token: bytes | None = None
        try:
            if route.auth is not Auth.NONE and route.credentials is None:
                token = bearer.parse(fields.authorizations)
            elif route.auth is not Auth.NONE and route.credentials is not None:
                token, request, target = _presented(request, target, route, route.credentials)
                fields = self._headers.read(request)
        except Denial as denial:
            if route.auth is not Auth.OPTIONAL or denial.reason is not CREDENTIALS_MISSING:
                denial.route = route
                raise
        upgrade = upgrades.requested(request, route.upgrades) if request.may_upgrade else None
        return _Reading(route, target.without(route.strip_prefix), fields, token, upgrade)

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
        claims: Claims | None = None,
        resolution: Resolution | None = None,
    ) -> Admission:
        user, tier, stale = None, None, False
        if resolution is not None:
            user, tier, stale = resolution.user, resolution.tier, resolution.stale
        route, target, fields, _, upgrade = reading
        prefix = route.strip_prefix
        host, lines = self._headers.admit(request, fields, claims, user, stale=stale, prefix=prefix)
        return Admission(route, request.method, target, host, lines, claims, user, tier, stale, upgrade)


class _Reading(NamedTuple):
    """What a request's head says, whoever sends it and whenever."""

    route: Route
    target: str
    """As it is forwarded."""
    fields: Fields
    token: bytes | None
    """None: nobody asks for one, or it may be missing and is."""
    upgrade: bytes | None


@dataclass(slots=True)
class _Kept:
    """What is known of a head that may come again."""

    reading: _Reading
    peer: str = ""
    scheme: str = ""
    admission: Admission | None = None
    """What was settled for it last by memory alone, from that peer."""
    token: TokenLease | None = None
    """None: nobody was asked for; otherwise the admission counts while both of these do."""
    answer: Lease | None = None


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
