"""Asks issuers about opaque tokens (RFC 7662), and remembers what they said.

- One token is asked about once at a time, however many requests bring it.
- What an issuer said of an active token counts for `cache_ttl`, and never beyond the token's `exp`.
- That a token is inactive counts for a few seconds. Such tokens can be invented, so their number is bounded.
- A failed call says nothing about the token: its requests get a 503. Right after a call that got no answer at
  all, no other is made. Any other answer does not count against other tokens: clients choose what is asked.
"""

import asyncio
import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Literal, Protocol, TypeAlias

import aiohttp
import structlog

from gateway.core.caches import FIFO, LRU
from gateway.core.model import JSON, Credential, Issuer
from gateway.core.reasons import INTROSPECTION_UNAVAILABLE, Denial, Reason
from gateway.core.tokens.introspection import (
    INTROSPECTED,
    Introspected,
    NotUnderstood,
    OpaqueTokens,
    check_kind,
    payload_of,
)
from gateway.core.tokens.jws import KeySet
from gateway.issuer_keys.client_authentication import ClientAuthentication
from gateway.issuer_keys.fetch import Fetcher, FetchError
from gateway.issuer_keys.sources import DEFAULT_FRESHNESS, LoadedKeys

MAX_ACTIVE: Final = 10_000
"""Tokens of one issuer of which it is remembered that they are active."""
MAX_REFUSED: Final = 10_000
REFUSED_SECONDS: Final = 5.0
"""Tokens of one issuer that it called inactive, and how long that counts."""
MAX_CALLS: Final = 32
"""Calls to one issuer at a time."""
MAX_WAITING: Final = 1000
"""Tokens of one issuer that are asked about, or wait for a call, at a time."""
KEEP_ALIVE: Final = 15.0
"""Seconds for which a connection to an endpoint is kept open for the next call."""
REST: Final = 1.0
"""Seconds after a call without any answer during which no other is made."""
QUIET: Final = 30.0
"""Seconds after a failure that was logged during which no other is."""
_PROBE: Final = "gateway-probe"
"""What an endpoint is asked about to see whether it answers: no issuer has such a token."""

Result: TypeAlias = Literal["active", "inactive", "failure"]

log: structlog.stdlib.BoundLogger = structlog.get_logger()


class IntrospectionObserver(Protocol):
    """Counts calls for the metrics."""

    def introspected(self, issuer: str, result: Result, seconds: float) -> None:
        """Count a call (`gateway_introspections_total`), and its time."""
        ...


@dataclass(frozen=True, slots=True)
class Endpoint:
    """The introspection endpoint of one issuer. It is the source of a key set that verifies nothing."""

    url: str
    client: ClientAuthentication
    cache_ttl: float
    """Seconds."""

    async def ask(self, fetcher: Fetcher, token: str) -> JSON:
        """Return what the issuer says of a token. Raises `FetchError`."""
        try:
            return await self._ask(fetcher, token)
        except FetchError as error:
            if not _was_closed(error.__cause__):
                raise
            return await self._ask(fetcher, token)

    async def _ask(self, fetcher: Fetcher, token: str) -> JSON:
        proof = await self.client.proof()
        form = {"token": token, "token_type_hint": "access_token", **proof.form}
        return (await fetcher.post(self.url, form, proof.headers)).content

    async def load(self, fetcher: Fetcher) -> LoadedKeys:
        """Ask about a token that does not exist. Raises `FetchError` unless the answer is as it must be."""
        answer = await self.ask(fetcher, _PROBE)
        if not isinstance(answer, dict) or not isinstance(answer.get("active"), bool):
            raise FetchError(f"{self.url}: the answer has no `active` that is true or false")
        return LoadedKeys(KeySet([INTROSPECTED]), DEFAULT_FRESHNESS)


def _was_closed(cause: BaseException | None) -> bool:
    """Tell whether a kept connection was closed before it had an answer, so that a new one may get it."""
    closed = isinstance(cause, aiohttp.ServerDisconnectedError | aiohttp.ClientOSError)
    return closed and not isinstance(cause, aiohttp.ClientConnectorError)


def _is_silence(error: Exception) -> bool:
    """Tell whether a call had no answer at all."""
    return isinstance(error.__cause__, aiohttp.ClientError | TimeoutError)


class Introspector:
    """What issuers say of opaque tokens. `issuers` are given with the prefix of their tokens, empty for any.

    `clock` gives Unix seconds. The fetcher remains its owner's to close.
    """

    def __init__(
        self,
        issuers: Iterable[tuple[Issuer, str, Endpoint]],
        *,
        fetcher: Fetcher,
        observer: IntrospectionObserver,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        issuers = tuple(issuers)
        self._tokens = OpaqueTokens((issuer, prefix) for issuer, prefix, _ in issuers)
        self._issuers = {
            issuer.name: _Issuer(endpoint, fetcher, observer, clock, monotonic)
            for issuer, _, endpoint in issuers
        }
        self.names = frozenset(self._issuers)
        """The configured names of the issuers."""
        self.issuer_of = self._tokens.issuer_of
        """Returns the issuer to ask about a token; None if its own `iss` says whose it is."""

    async def introspect(self, issuer: Issuer, credential: Credential) -> Introspected:
        """Return the claims of an active token. Before it waits for anything, it sleeps for no time.

        Raises `Denial`: `token_inactive` and others of the token group for what the issuer said,
        `introspection_unavailable` when it said nothing that can be used. A caller that is cancelled leaves
        the call to the others.
        """
        check_kind(credential.raw, issuer)
        return await self._issuers[issuer.name].introspect(issuer, credential)

    def last_error(self, issuer_name: str) -> str | None:
        """Return why the latest call failed; None if it did not."""
        return self._issuers[issuer_name].last_error

    async def close(self) -> None:
        """Cancel the calls that are under way."""
        calls = [call for issuer in self._issuers.values() for call in issuer.calls.values()]
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)


@dataclass(frozen=True, slots=True)
class _Refusal:
    """What was said of a token that is not active, or not for us."""

    reason: Reason
    detail: str | None
    claim: str | None
    until: float

    def denial(self, issuer: Issuer) -> Denial:
        return Denial(self.reason, self.detail, issuer=issuer.name, claim=self.claim)


class _Issuer:
    def __init__(
        self,
        endpoint: Endpoint,
        fetcher: Fetcher,
        observer: IntrospectionObserver,
        clock: Callable[[], float],
        monotonic: Callable[[], float],
    ) -> None:
        self.calls: dict[bytes, asyncio.Task[Introspected | _Refusal]] = {}
        """Those under way, by the token's SHA-256."""
        self._endpoint = endpoint
        self._fetcher = fetcher
        self._observer = observer
        self._clock = clock
        self._monotonic = monotonic
        self._active: LRU[bytes, Introspected] = LRU(MAX_ACTIVE)
        self._refused: FIFO[bytes, _Refusal] = FIFO(MAX_REFUSED)
        self._turns = asyncio.Semaphore(MAX_CALLS)
        self._silent_at: float | None = None
        """When the latest call ended without any answer; None when it got one."""
        self._logged_at = -math.inf
        """When a failure was logged."""
        self.last_error: str | None = None
        """Why the latest call failed; None if it did not."""

    async def introspect(self, issuer: Issuer, credential: Credential) -> Introspected:
        answer = self._remembered(credential.digest)
        if answer is None:
            # From here on the request is a task; what comes before costs no turn of the event loop.
            await asyncio.sleep(0)
            call = self.calls.get(credential.digest) or self._begin(issuer, credential)
            try:
                answer = await asyncio.shield(call)
            except FetchError as error:
                silent = isinstance(error.__cause__, FetchError) and _is_silence(error.__cause__)
                what = "did not answer" if silent else "gave no answer that can be used"
                raise self._unavailable(issuer, f"the introspection endpoint {what}") from error
        if isinstance(answer, _Refusal):
            raise answer.denial(issuer)
        return answer

    def _remembered(self, digest: bytes) -> Introspected | _Refusal | None:
        now = self._clock()
        active = self._active.get(digest)
        if active is not None:
            if now < active.until:
                return active
            self._active.pop(digest)
        refusal = self._refused.get(digest)
        if refusal is not None:
            if now < refusal.until:
                return refusal
            del self._refused[digest]
        return None

    def _begin(self, issuer: Issuer, credential: Credential) -> "asyncio.Task[Introspected | _Refusal]":
        if self._silent_at is not None and self._monotonic() - self._silent_at < REST:
            raise self._unavailable(issuer, "the introspection endpoint did not answer just now")
        if len(self.calls) >= MAX_WAITING:
            raise self._unavailable(issuer, "too many tokens wait for the introspection endpoint")
        call = asyncio.create_task(self._call(issuer, credential))
        self.calls[credential.digest] = call
        call.add_done_callback(lambda done: self._ended(credential.digest, done))
        return call

    def _ended(self, digest: bytes, call: "asyncio.Task[Introspected | _Refusal]") -> None:
        del self.calls[digest]
        if not call.cancelled():
            # Marks an exception as seen, even when no request waits for it any more.
            call.exception()

    def _unavailable(self, issuer: Issuer, detail: str) -> Denial:
        return Denial(INTROSPECTION_UNAVAILABLE, detail, issuer=issuer.name)

    async def _call(self, issuer: Issuer, credential: Credential) -> Introspected | _Refusal:
        """Ask, and remember the answer before any other request can ask again."""
        async with self._turns:
            began, asked_at = self._monotonic(), self._clock()
            try:
                answer = await self._endpoint.ask(self._fetcher, credential.raw.decode("latin-1"))
                payload = payload_of(answer, issuer, credential)
            except Denial as denial:
                self._succeeded(issuer, "inactive", self._monotonic() - began)
                lasts = min(REFUSED_SECONDS, self._endpoint.cache_ttl)
                refusal = _Refusal(denial.reason, denial.detail, denial.claim, asked_at + lasts)
                self._refused.put(credential.digest, refusal)
                return refusal
            except (FetchError, NotUnderstood) as error:
                self._failed(issuer, error, self._monotonic() - began)
                raise FetchError(str(error)) from error
        self._succeeded(issuer, "active", self._monotonic() - began)
        introspected = Introspected(payload, self._until(payload, asked_at))
        self._active.put(credential.digest, introspected)
        return introspected

    def _until(self, payload: Mapping[str, JSON], asked_at: float) -> float:
        expires_at, until = payload.get("exp"), asked_at + self._endpoint.cache_ttl
        if isinstance(expires_at, int | float) and not isinstance(expires_at, bool):
            return min(until, expires_at)
        return until

    def _succeeded(self, issuer: Issuer, result: Result, seconds: float) -> None:
        self._observer.introspected(issuer.name, result, seconds)
        self._silent_at = self.last_error = None

    def _failed(self, issuer: Issuer, error: Exception, seconds: float) -> None:
        now = self._monotonic()
        self._observer.introspected(issuer.name, "failure", seconds)
        self.last_error = str(error)
        self._silent_at = now if _is_silence(error) else None
        # Anyone can send tokens that an endpoint does not like.
        if now - self._logged_at >= QUIET:
            self._logged_at = now
            log.warning("introspection_failed", issuer=issuer.name, error=self.last_error)
