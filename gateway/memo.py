"""Everything that is remembered about requests, tokens and decisions, wrapped around the plain way.

Every remembered value is frozen. It depends on its key, and on things whose changes are noticed:

- A **head** (`Forwarding`) depends on its bytes without the bearer token, on the scheme and on the peer:
  `Pipeline.read` is a function of the request alone.
- A **token** (claims and key) depends on its bytes, on its issuer's keys, which `forget_withdrawn` compares,
  and on the time, which `recall` checks.
- A **refusal** of a token depends on its bytes and, if its issuer was found, on the issuer's keys, which
  `refuse` compares. Only refusals that do not depend on the time are remembered.
- A **decision** depends on the route, the claims and the resolution: `Pipeline.decide`,
  `policy.authorize(route, user, claims)` and `HeaderPolicy.identity(claims, user)` get nothing else, except
  that the latter knows the route's `allow_inactive`. An assertion also depends on the route's audience and on
  the time: a decision with one ends at `Decision.until`. Its validity ends with every change of the user, the
  identity, the token or the issuer that this process receives. A decision without a user has no validity,
  so memory or the stores are asked for each request.

A condition of the route that reads token and user alone is part of the decision. One that also reads the
request, the client or the time is prepared with the decision (`Decision.request_check`: the condition, token
and user), and evaluated for each request by `Pipeline.admission`; its verdict is never remembered.

A rule that depends on anything else (the time, an address, a field of the request) must not be part of a
decision, or the decision must not be remembered. A decision is replaced as a whole. No part of it is reset.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Container
from dataclasses import dataclass, replace
from typing import Final, Protocol

from gateway.core import policy
from gateway.core.admission import Admission, Decision, Forwarding
from gateway.core.caches import FIFO, SecondChance, shared_instant
from gateway.core.model import Claims, Credential, Request, Resolution, Route, Validity
from gateway.core.reasons import (
    ALGORITHM_NOT_ALLOWED,
    CRITICAL_HEADER_UNSUPPORTED,
    ISSUER_UNTRUSTED,
    SIGNATURE_INVALID,
    TOKEN_MALFORMED,
    TOKEN_TYPE_INVALID,
    Denial,
    Reason,
)
from gateway.core.tokens.jws import KeySet, VerificationKey
from gateway.core.tokens.verified import VerifiedToken
from gateway.pipeline import Pipeline, Verifier, attribute, may_be_created

RECURRING_HEADS: Final = 2048
"""The largest number of remembered request heads."""
REFUSED_TOKENS: Final = 4096
"""The largest number of remembered refused tokens. A client that repeats one causes no cryptography."""


class Keys(Protocol):
    """The verification keys of all issuers."""

    def current(self, realm: str) -> KeySet | None:
        """Return the trusted keys; None if there are none."""


class Directory(Protocol):
    """Finds the user behind a token, in memory or in the stores."""

    def recall(self, claims: Claims) -> Resolution | None:
        """Answer from this process's memory; None if it has no valid answer: call `resolve`."""

    def validity(self, claims: Claims) -> Validity | None:
        """Return the validity of the answer that memory has now."""

    def is_valid(self, validity: Validity) -> bool:
        """Return whether an answer is still valid."""

    async def resolve(self, claims: Claims) -> Resolution:
        """Ask the stores. Raises `Denial` when no trusted store can answer."""


_PERMANENT: Final = frozenset(
    {
        TOKEN_MALFORMED,
        TOKEN_TYPE_INVALID,
        CRITICAL_HEADER_UNSUPPORTED,
        ALGORITHM_NOT_ALLOWED,
        ISSUER_UNTRUSTED,
        SIGNATURE_INVALID,
    }
)
"""Reasons that refuse a token at any time, as long as its issuer has the same keys."""


@dataclass(frozen=True, slots=True)
class _Refusal:
    reason: Reason
    detail: str | None
    issuer: str | None
    realm: str | None
    keys: int | None
    """The serial of the issuer's key set when the token was refused; None if there was none."""


@dataclass(eq=False, slots=True)
class Token:
    """A verified token, and the last decision on it, which counts while `validity` holds."""

    claims: Claims
    key: VerificationKey
    until: float
    """When it expires, in Unix seconds, leeway included."""
    decision: Decision | None = None
    validity: Validity | None = None
    """The validity of the answer from memory on which the decision is based."""
    used: bool = False
    """Whether it came again since `Tokens` looked for room."""


class Tokens:
    """At most `capacity` verified tokens, by the SHA-256 of their bytes, and the latest refused tokens."""

    def __init__(
        self,
        keys: Keys,
        clock: Callable[[], float],
        capacity: int,
        recalled: defaultdict[str, int],
        refused: Callable[[Denial], None] = lambda _: None,
    ) -> None:
        """`clock` gives Unix seconds. `recalled` counts the recalled tokens by issuer.

        `refused` is called with each recalled denial.
        """
        self._keys = keys
        self._refusals: FIFO[bytes, _Refusal] = FIFO(REFUSED_TOKENS)
        self._refused = refused
        self._clock = clock
        self._recalled = recalled
        self._tokens: SecondChance[bytes, Token] = SecondChance(capacity)
        self.digests: Container[bytes] = self._tokens
        """The SHA-256 of each remembered token, even if it is no longer valid."""

    def recall(self, credential: Credential) -> Token | None:
        """Return a token that was verified before and is still valid."""
        token = self._tokens.get(credential.digest)
        if token is None:
            return None
        # When keys become too old to trust, the tokens that they verified become invalid too.
        claims = token.claims
        if self._clock() < token.until and self._keys.current(claims.realm) is not None:
            self._recalled[claims.issuer_name] += 1
            token.used = True
            return token
        del self._tokens[credential.digest]
        return None

    def keep(self, credential: Credential, verified: VerifiedToken) -> Token:
        """Remember a token, unless its key was withdrawn while it was being verified."""
        token = Token(verified.claims, verified.key, shared_instant(verified.until))
        keys = self._keys.current(verified.claims.realm)
        if keys is not None and verified.key in keys.keys:
            self._tokens.put(credential.digest, token)
        return token

    def refuse(self, credential: Credential) -> None:
        """Raise the `Denial` of a token that was refused before and would be refused again."""
        refusal = self._refusals.get(credential.digest)
        if refusal is None:
            return
        if refusal.realm is not None and self._serial(refusal.realm) != refusal.keys:
            del self._refusals[credential.digest]
            return
        denial = Denial(refusal.reason, refusal.detail, issuer=refusal.issuer, realm=refusal.realm)
        self._refused(denial)
        try:
            raise denial
        finally:
            # Otherwise the frame and the exception would keep each other alive until a garbage collection.
            del denial

    def keep_refusal(self, credential: Credential, denial: Denial) -> None:
        """Remember the refusal of a token, if the token would be refused again."""
        # A tenant that its issuer does not have may come to be.
        no_tenant = denial.reason is ISSUER_UNTRUSTED and denial.issuer is not None
        if denial.reason in _PERMANENT and not no_tenant:
            issuer, realm = denial.issuer, denial.realm
            keys = None if realm is None else self._serial(realm)
            self._refusals.put(credential.digest, _Refusal(denial.reason, denial.detail, issuer, realm, keys))

    def _serial(self, realm: str) -> int | None:
        keys = self._keys.current(realm)
        return None if keys is None else keys.serial

    def forget_withdrawn(self, realm: str, keys: KeySet | None) -> int:
        """Forget the tokens of an issuer whose key is not in its new set; return how many."""
        trusted = frozenset(keys.keys) if keys is not None else frozenset()
        return self._tokens.discard(lambda token: token.claims.realm == realm and token.key not in trusted)

    def __len__(self) -> int:
        return len(self._tokens)


@dataclass(frozen=True, slots=True)
class _Read:
    """The meaning of a head that came with this scheme and from this peer."""

    scheme: str
    peer: str
    forwarding: Forwarding


class Memo:
    """`Pipeline` with a memory: the same verdicts and the same bytes with less work."""

    def __init__(
        self,
        pipeline: Pipeline,
        verifier: Verifier,
        tokens: Tokens,
        directory: Directory,
        now: Callable[[], float] | None = None,
    ) -> None:
        """`now` gives Unix seconds; None: no decision ends by time alone."""
        self._now = now
        self._pipeline = pipeline
        self._verifier = verifier
        self._tokens = tokens
        self._directory = directory
        # Bound here to save a call per request.
        self._is_valid = directory.is_valid
        self._heads: FIFO[object, _Read] = FIFO(RECURRING_HEADS)
        self.heads: Container[object] = self._heads.keys()
        """`Request.recurring` of each remembered head, independent of the bearer token."""
        self.remembered = tokens.digests
        """The SHA-256 of each remembered token, even if it is no longer valid."""
        self.reauthorize = pipeline.reauthorize
        """Authorizes a token for a route again. The identity tiers have a memory of their own."""

    async def admit(self, request: Request) -> Admission:
        """Decide on a request as `Pipeline.admit` does. Raises `Denial`.

        Before it waits for anything else, it awaits `asyncio.sleep(0)`.
        """
        forwarding = self._read(request)
        if forwarding.credential is None:
            return self._pipeline.admission(request, forwarding)
        claims: Claims | None = None
        try:
            credential, route = request.credential or forwarding.credential, forwarding.route
            token = self._tokens.recall(credential)
            if token is None:
                token = await self._verify(credential)
            claims, decision, validity = token.claims, token.decision, token.validity
            if (
                decision is None
                or validity is None
                or not self._is_valid(validity)
                or (self._now is not None and self._now() >= decision.until)
            ):
                decision = await self._decide(token, route, request)
            elif decision.route is not route:
                if self._has_same_identity(decision.route, route):
                    shadow = self._pipeline.settle(route, claims, decision.resolution)
                    # The identity fields depend on nothing else of the route.
                    each = None
                    if shadow is None:
                        each = policy.request_check(route, claims, decision.resolution.user)
                    decision = Decision(
                        route, decision.resolution, decision.identity, decision.told, decision.until, each,
                        shadow,
                    )  # fmt: skip
                else:
                    decision = self._pipeline.decide(route, claims, decision.resolution)
                token.decision = decision
        except Denial as denial:
            attribute(denial, forwarding.route, claims)
            raise
        return self._pipeline.admission(request, forwarding, claims, decision)

    def _has_same_identity(self, one: Route, other: Route) -> bool:
        """Return whether upstreams are told the same of a user on both routes."""
        return one.allow_inactive is other.allow_inactive and (
            self._now is None or one.audience == other.audience
        )

    async def _verify(self, credential: Credential) -> Token:
        self._tokens.refuse(credential)
        try:
            verified = await self._verifier.verify(credential)
        except Denial as denial:
            self._tokens.keep_refusal(credential, denial)
            raise
        return self._tokens.keep(credential, verified)

    # Heads -------------------------------------------------------------------------------------------

    def _read(self, request: Request) -> Forwarding:
        """Return the meaning of a head, from memory if it is known."""
        recurring = request.recurring
        if recurring is None:
            return self._pipeline.read(request)
        read = self._heads.get(recurring)
        if read is not None and read.peer == request.peer and read.scheme == request.scheme:
            return read.forwarding
        forwarding = self._pipeline.read(request)
        # A remembered head also stands for the same head with other tokens. With several Authorization fields
        # that would be wrong: on a route without authentication, they are forwarded unchanged. With bad ones
        # in shadow, too: the next token may be a good one.
        if len(forwarding.client_fields.authorizations) <= 1 and forwarding.shadow is None:
            self._heads.put(recurring, _Read(request.scheme, request.peer, forwarding))
        return forwarding

    # Decisions ---------------------------------------------------------------------------------------

    async def _decide(self, token: Token, route: Route, request: Request) -> Decision:
        """Make a new decision. Remember it if memory has the same answer as the one that it is based on."""
        claims = token.claims
        resolution = self._directory.recall(claims)
        if resolution is None:
            await _wait()
            resolution = await self._directory.resolve(claims)
        if resolution.user is None and may_be_created(route, resolution):
            await _wait()
            resolution = await self._pipeline.create(route, claims, request)
        decision = self._pipeline.decide(route, claims, resolution)
        # No await since the answer. If a change came before the answer, memory has no valid answer now.
        validity = self._directory.validity(claims)
        if validity is not None and validity.answer.user is resolution.user:
            # The next requests have the user from memory.
            if resolution is not validity.answer:
                token.decision = replace(decision, resolution=validity.answer)
            else:
                token.decision = decision
            token.validity = validity
        return decision


async def _wait() -> None:
    """Mark the first point where a request waits: its caller runs the rest in a task.

    The work before this point needs no turn of the event loop.
    """
    await asyncio.sleep(0)
