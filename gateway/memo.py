"""Everything that is remembered about requests, tokens and decisions, wrapped around the plain way.

What is remembered is frozen, and depends on its key and on nothing else but what its validity watches:

- A **head** (`Forwarding`) depends on its bytes but for the bearer token, on the scheme and on the peer:
  `Pipeline.read` is a function of the request alone.
- A **token** (claims and key) depends on its bytes, on its issuer's keys, which `forget_withdrawn` watches,
  and on the time, which `recall` watches.
- A **refusal** of a token depends on its bytes, and on its issuer's keys if one was found: `refuse` compares
  the set. Only refusals that no time ends are remembered.
- A **decision** depends on (route, claims, resolution): `Pipeline.decide` is given no more, and neither are
  `policy.authorize(route, user, claims)` and `HeaderPolicy.identity(claims, user)`. The validity watches the
  resolution: it ends with any change of the user, the identity, the token or the issuer that is heard of.

What rests on more than that (the time, an address, a field of the request) must not be decided there, or must
not be remembered. A decision dies as a whole: another takes its place, and no part of it is ever reset.
"""

import asyncio
import math
from collections import defaultdict
from collections.abc import Callable, Container
from dataclasses import dataclass
from typing import Final, Protocol

from gateway.core.admission import Admission, Decision, Forwarding
from gateway.core.caches import FIFO, LRU
from gateway.core.model import Claims, Credential, Request, Resolution, Route, Validity, shared_instant
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
from gateway.core.tokens import KeySet, VerificationKey
from gateway.core.verified import VerifiedToken
from gateway.pipeline import Pipeline, Verifier, attribute, check

RECURRING_HEADS: Final = 2048
"""Heads of requests that are remembered with what they say."""
REFUSED_TOKENS: Final = 4096
"""Refused tokens that are remembered: a client that repeats one costs no cryptography."""


class Keys(Protocol):
    """The verification keys of all issuers."""

    def current(self, issuer_name: str) -> KeySet | None:
        """Return the keys to trust now; None if there are none."""


class Directory(Protocol):
    """Who is behind a token, in memory and in the stores."""

    def recall(self, claims: Claims) -> Resolution | None:
        """Answer from this process's memory, if that is right at this moment; None: `resolve` them."""

    def validity(self, claims: Claims) -> Validity | None:
        """Return how long an answer that was recalled just now is valid."""

    def is_valid(self, validity: Validity) -> bool:
        """Tell whether an answer is still valid."""

    async def resolve(self, claims: Claims) -> Resolution:
        """Ask the stores. Raises `Denial` when none that may be trusted can answer."""


_LASTING: Final = frozenset(
    {
        TOKEN_MALFORMED,
        TOKEN_TYPE_INVALID,
        CRITICAL_HEADER_UNSUPPORTED,
        ALGORITHM_NOT_ALLOWED,
        ISSUER_UNTRUSTED,
        SIGNATURE_INVALID,
    }
)
"""Why a token is refused that will never be good, whatever the time, while its issuer has the same keys."""


@dataclass(frozen=True, slots=True)
class _Refusal:
    reason: Reason
    detail: str | None
    issuer: str | None
    keys: int | None
    """The serial of the issuer's key set when the token was refused; None if there was none."""


@dataclass(eq=False, slots=True)
class Token:
    """A verified token, and the last decision on it, which counts while the validity does."""

    claims: Claims
    key: VerificationKey
    until: float
    """When it expires, in Unix seconds, leeway included."""
    decision: Decision | None = None
    validity: Validity | None = None
    """What memory said when the decision was made."""


class Tokens:
    """At most `capacity` verified tokens, by the SHA-256 of their bytes; and the latest that were refused."""

    def __init__(
        self,
        keys: Keys,
        clock: Callable[[], float],
        capacity: int,
        recalled: defaultdict[str, int],
        refused: Callable[[Denial], None] = lambda _: None,
    ) -> None:
        """`clock` gives Unix seconds. In `recalled` it counts by issuer how many tokens it remembered.

        `refused` is called with each denial that it remembered.
        """
        self._keys = keys
        self._refusals: FIFO[bytes, _Refusal] = FIFO(REFUSED_TOKENS)
        self._refused = refused
        self._clock = clock
        self._recalled = recalled
        self._tokens: LRU[bytes, Token] = LRU(capacity)
        self.digests: Container[bytes] = self._tokens.keys()
        """The SHA-256 of each token that has been verified, and is remembered whatever became of it since."""

    def recall(self, credential: Credential) -> Token | None:
        """Return a token that was verified before and is still good."""
        token = self._tokens.get(credential.digest)
        if token is None:
            return None
        # Keys that became too old to trust take with them what they verified.
        issuer_name = token.claims.issuer_name
        if self._clock() < token.until and self._keys.current(issuer_name) is not None:
            self._recalled[issuer_name] += 1
            return token
        self._tokens.pop(credential.digest)
        return None

    def keep(self, credential: Credential, verified: VerifiedToken) -> Token:
        """Remember a token, unless its key was withdrawn while it was being verified."""
        until = verified.until if math.isinf(verified.until) else shared_instant(verified.until)
        token = Token(verified.claims, verified.key, until)
        keys = self._keys.current(verified.claims.issuer_name)
        if keys is not None and verified.key in keys.keys:
            self._tokens.put(credential.digest, token)
        return token

    def refuse(self, credential: Credential) -> None:
        """Raise the `Denial` of a token that was refused before, and would be again."""
        refusal = self._refusals.get(credential.digest)
        if refusal is None:
            return
        if refusal.issuer is not None and self._serial(refusal.issuer) != refusal.keys:
            del self._refusals[credential.digest]
            return
        denial = Denial(refusal.reason, refusal.detail, issuer=refusal.issuer)
        self._refused(denial)
        try:
            raise denial
        finally:
            # Or the frame and the exception would hold each other until the next collection of cycles.
            del denial

    def keep_refusal(self, credential: Credential, denial: Denial) -> None:
        """Remember why a token was refused just now, if it would be again."""
        if denial.reason in _LASTING:
            issuer = denial.issuer
            keys = None if issuer is None else self._serial(issuer)
            self._refusals.put(credential.digest, _Refusal(denial.reason, denial.detail, issuer, keys))

    def _serial(self, issuer_name: str) -> int | None:
        keys = self._keys.current(issuer_name)
        return None if keys is None else keys.serial

    def forget_withdrawn(self, issuer_name: str, keys: KeySet | None) -> int:
        """Drop every token of an issuer whose key is no longer in its set; returns how many."""
        trusted = frozenset(keys.keys) if keys is not None else frozenset()
        return self._tokens.discard(
            lambda token: token.claims.issuer_name == issuer_name and token.key not in trusted
        )

    def __len__(self) -> int:
        return len(self._tokens)


@dataclass(frozen=True, slots=True)
class _Read:
    """What a head said that came with this scheme and from this peer."""

    scheme: str
    peer: str
    forwarding: Forwarding


class Memo:
    """The plain way, with a memory: the same verdicts and the same bytes for less work."""

    def __init__(self, pipeline: Pipeline, verifier: Verifier, tokens: Tokens, directory: Directory) -> None:
        self._pipeline = pipeline
        self._verifier = verifier
        self._tokens = tokens
        self._directory = directory
        # One call less for each request.
        self._is_valid = directory.is_valid
        self._heads: FIFO[object, _Read] = FIFO(RECURRING_HEADS)
        self.heads: Container[object] = self._heads.keys()
        """Heads of which it is remembered what they say, whatever the bearer token: `Request.recurring`."""
        self.remembered = tokens.digests
        """The SHA-256 of each token that has been verified, and is remembered whatever became of it since."""
        self.reauthorize = pipeline.reauthorize
        """Authorizes a token for a route again; the identity tiers have their own memory."""

    async def admit(self, request: Request) -> Admission:
        """Settle a request as `Pipeline.admit` does. Raises `Denial`.

        Before it waits for anything, it sleeps for no time.
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
            if decision is None or validity is None or not self._is_valid(validity):
                decision = await self._decide(token, route)
            elif decision.route is not route:
                check(route, claims, decision.resolution)
                # The fields depend on no route.
                token.decision = decision = Decision(route, decision.resolution, decision.identity)
        except Denial as denial:
            attribute(denial, forwarding.route, claims)
            raise
        return self._pipeline.admission(request, forwarding, claims, decision)

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
        """Read a head, or remember what it says."""
        recurring = request.recurring
        if recurring is None:
            return self._pipeline.read(request)
        read = self._heads.get(recurring)
        if read is not None and read.peer == request.peer and read.scheme == request.scheme:
            return read.forwarding
        forwarding = self._pipeline.read(request)
        # A head that was read stands for those with other tokens; with several Authorization fields on a
        # route that asks for none, each is forwarded as it came.
        if len(forwarding.client_fields.authorizations) <= 1:
            self._heads.put(recurring, _Read(request.scheme, request.peer, forwarding))
        return forwarding

    # Decisions ---------------------------------------------------------------------------------------

    async def _decide(self, token: Token, route: Route) -> Decision:
        """Decide anew, and remember the decision if memory says the same as the answer it rests on."""
        claims = token.claims
        resolution = self._directory.recall(claims)
        if resolution is None:
            await _wait()
            resolution = await self._directory.resolve(claims)
        decision = self._pipeline.decide(route, claims, resolution)
        # Nothing is awaited between the answer and here: a change before the answer has ended the validity.
        validity = self._directory.validity(claims)
        if validity is not None and validity.answer.user is resolution.user:
            token.decision, token.validity = decision, validity
        return decision


async def _wait() -> None:
    """Mark the point from which a request waits for others, so that its caller makes a task of the rest.

    What comes before costs no turn of an event loop.
    """
    await asyncio.sleep(0)
