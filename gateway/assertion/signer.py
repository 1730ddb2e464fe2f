"""Makes assertions: a `gateway.pipeline.Asserter`."""

import secrets
from collections.abc import Callable
from typing import Protocol

from gateway.core.assertion import Signed, SigningKey, payload
from gateway.core.model import Claims, User
from gateway.core.reasons import ASSERTION_UNAVAILABLE, Denial


class Keys(Protocol):
    """Knows which key signs: `gateway.assertion.keys.AssertionKeys`."""

    def signing(self) -> SigningKey | None:
        """Return the key that signs now; None if there is none."""


class AssertionSigner:
    """Signs who a user is."""

    def __init__(
        self, keys: Keys, *, header: str, issuer: str, ttl: float, clock: Callable[[], float]
    ) -> None:
        """`ttl` is in seconds, and `clock` gives Unix seconds."""
        self._keys = keys
        self._header = header.encode("ascii")
        self._issuer = issuer
        self._ttl = ttl
        self._clock = clock

    def sign(self, audience: str, claims: Claims, user: User | None) -> Signed:
        """Return an assertion for an audience. Raises `Denial` `assertion_unavailable`."""
        key = self._keys.signing()
        if key is None:
            raise Denial(ASSERTION_UNAVAILABLE)
        now = self._clock()
        said = payload(
            claims, user, issuer=self._issuer, audience=audience, issued_at=now, ttl=self._ttl,
            jti=secrets.token_hex(16),
        )  # fmt: skip
        return Signed(b"%b: %b\r\n" % (self._header, key.token(said)), now + self._ttl / 2)
