"""Raw token → verified claims: memory first, then everything that RFC 7519 §7.2 asks for.

Keys are chosen by the configured issuer alone; nothing that a token says leads to others.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Final, Protocol

from gateway.core import claims as claim_rules
from gateway.core import tokens
from gateway.core.lru import LRU
from gateway.core.model import JSON, Credential, Issuer, shared_instant
from gateway.core.reasons import (
    ALGORITHM_NOT_ALLOWED,
    ISSUER_UNTRUSTED,
    KEY_UNKNOWN,
    KEYS_UNAVAILABLE,
    SIGNATURE_INVALID,
    Denial,
)
from gateway.core.tokens import KeySet, UnverifiedToken, VerificationKey
from gateway.core.verified import VerifiedToken

_NOTHING: Final[Mapping[str, JSON]] = MappingProxyType({})


class Keys(Protocol):
    """The verification keys of all issuers."""

    def current(self, issuer_name: str) -> KeySet | None:
        """Return the keys to trust at this moment; None when there are none that may be trusted."""

    async def refresh(self, issuer_name: str, kid: str | None, algorithm: str) -> bool:
        """Look for a key that is not in the set.

        Returns whether the set, as it is then, is what the issuer says: a key that is not in it does not
        exist. False: the issuer cannot be heard, so the key may exist.
        """


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
        recalled: defaultdict[str, int] | None = None,
    ) -> None:
        """`claims_read` names what is kept of payloads, of which most is read by nobody and takes memory.

        In `recalled` it counts by issuer how many tokens it remembered.
        """
        self._recalled = defaultdict(int) if recalled is None else recalled
        self._claims_read = claims_read
        self._issuers: Mapping[str, Issuer] = {issuer.issuer: issuer for issuer in issuers}
        self._keys = keys
        self._clock = clock
        self._remembered: LRU[bytes, VerifiedToken] = LRU(max_remembered)

    @property
    def remembered(self) -> Container[bytes]:
        """The SHA-256 of each token that has been verified, and is remembered whatever became of it since."""
        return self._remembered.keys()

    def recall(self, credential: Credential) -> VerifiedToken | None:
        """Return a token that was verified before and is still good; None: `verify` it."""
        token = self._remembered.get(credential.digest)
        if token is None:
            return None
        # Keys that became too old to trust take with them what they verified.
        issuer_name = token.claims.issuer_name
        if self._clock() < token.until and self._keys.current(issuer_name) is not None:
            self._recalled[issuer_name] += 1
            return token
        self._remembered.pop(credential.digest)
        return None

    async def verify(self, credential: Credential) -> VerifiedToken:
        """Verify a token, and remember it. Raises `Denial`."""
        token = tokens.parse(credential.raw)
        issuer = self._issuers.get(claim_rules.issuer_of(token.payload))
        if issuer is None:
            raise Denial(ISSUER_UNTRUSTED)
        if token.algorithm not in issuer.algorithms:
            raise Denial(ALGORITHM_NOT_ALLOWED, "not among the issuer's `algorithms`", issuer=issuer.name)
        candidates = await self._candidates(issuer, token)
        if token.algorithm not in candidates[0].algorithms:
            raise Denial(ALGORITHM_NOT_ALLOWED, "it does not fit the key", issuer=issuer.name)
        key = next((key for key in candidates if key.verify(token)), None)
        if key is None:
            raise Denial(SIGNATURE_INVALID, issuer=issuer.name)
        claims = claim_rules.verify(token.payload, issuer, self._clock())
        read = {name: value for name, value in token.payload.items() if name in self._claims_read}
        claims = replace(claims, payload=read or _NOTHING)
        until = math.inf if claims.good_until is None else shared_instant(claims.good_until)
        verified = VerifiedToken(claims, key, until)
        self._remembered.put(credential.digest, verified)
        return verified

    async def _candidates(self, issuer: Issuer, token: UnverifiedToken) -> tuple[VerificationKey, ...]:
        """Select the keys by issuer and `kid`; an unknown `kid` may mean that keys were rotated."""
        keys = self._keys.current(issuer.name)
        found = () if keys is None else keys.candidates(token.kid, token.algorithm)
        if found:
            return found
        heard = await self._keys.refresh(issuer.name, token.kid, token.algorithm)
        keys = self._keys.current(issuer.name)
        found = () if keys is None else keys.candidates(token.kid, token.algorithm)
        if found:
            return found
        if keys is None or not heard:
            raise Denial(KEYS_UNAVAILABLE, issuer=issuer.name)
        raise Denial(KEY_UNKNOWN, issuer=issuer.name)

    def forget_withdrawn(self, issuer_name: str, keys: KeySet | None) -> int:
        """Drop every remembered token of an issuer whose key is no longer in its set."""
        trusted = frozenset(keys.keys) if keys is not None else frozenset()
        return self._remembered.discard(
            lambda entry: entry.claims.issuer_name == issuer_name and entry.key not in trusted
        )

    def __len__(self) -> int:
        return len(self._remembered)
