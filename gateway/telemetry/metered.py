"""The parts of the pipeline with counters and timers. Their answers stay the same."""

from time import perf_counter
from typing import Protocol

from gateway.core.model import Claims, Credential, Resolution, Validity
from gateway.core.reasons import Denial
from gateway.core.tokens.verified import VerifiedToken
from gateway.telemetry.metrics import Metrics


class Directory(Protocol):
    """The interface that `MeteredDirectory` wraps."""

    def recall(self, claims: Claims) -> Resolution | None: ...

    def validity(self, claims: Claims) -> Validity | None: ...

    def is_valid(self, validity: Validity) -> bool: ...

    async def resolve(self, claims: Claims) -> Resolution: ...


class Verifier(Protocol):
    """The interface that `MeteredVerifier` wraps."""

    async def verify(self, credential: Credential) -> VerifiedToken: ...


class MeteredVerifier:
    """A verifier with counters."""

    def __init__(self, verifier: Verifier, metrics: Metrics) -> None:
        self._verifier = verifier
        self._metrics = metrics

    async def verify(self, credential: Credential) -> VerifiedToken:
        try:
            token = await self._verifier.verify(credential)
        except Denial as denial:
            self._metrics.verification_failed(denial)
            raise
        self._metrics.verified(token)
        return token


class MeteredDirectory:
    """A directory with timers and counters."""

    def __init__(self, directory: Directory, metrics: Metrics) -> None:
        self._directory = directory
        self._metrics = metrics
        # The wrapped directory counts this, too.
        self.is_valid = directory.is_valid

    def recall(self, claims: Claims) -> Resolution | None:
        resolution = self._directory.recall(claims)
        if resolution is not None:
            self._metrics.user_recalled(claims.issuer_name, resolution)
        return resolution

    def validity(self, claims: Claims) -> Validity | None:
        return self._directory.validity(claims)

    async def find(self, claims: Claims) -> Resolution:
        return self.recall(claims) or await self.resolve(claims)

    async def resolve(self, claims: Claims) -> Resolution:
        started = perf_counter()
        try:
            resolution = await self._directory.resolve(claims)
        except Denial as denial:
            self._metrics.lookup_failed(claims.issuer_name, denial)
            raise
        self._metrics.looked_up(claims.issuer_name, resolution, perf_counter() - started)
        return resolution
