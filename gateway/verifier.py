"""Raw token → verified claims: everything that RFC 7519 §7.2 asks for.

Keys are chosen by the configured issuer alone; nothing that a token says leads to others.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Final, Protocol

from gateway.core.model import JSON, Claims, Credential, Issuer
from gateway.core.reasons import (
    ALGORITHM_NOT_ALLOWED,
    ISSUER_UNTRUSTED,
    KEY_UNKNOWN,
    KEYS_UNAVAILABLE,
    SIGNATURE_INVALID,
    Denial,
)
from gateway.core.tokens import claims as claim_rules
from gateway.core.tokens import jws as tokens
from gateway.core.tokens import token_types
from gateway.core.tokens.claim_paths import at_path
from gateway.core.tokens.introspection import INTROSPECTED, Introspected
from gateway.core.tokens.issuer_patterns import IssuerTable
from gateway.core.tokens.jws import KeySet, UnverifiedToken, VerificationKey
from gateway.core.tokens.verified import VerifiedToken

NO_SUCH_TENANT: Final = "the issuer has no such tenant"
_NOTHING: Final[Mapping[str, JSON]] = MappingProxyType({})


class Keys(Protocol):
    """The verification keys of all issuers, by their realms (`Issuer.realm`)."""

    def current(self, realm: str) -> KeySet | None:
        """Return the keys to trust now; None if there are none."""

    async def refresh(self, realm: str, kid: str | None, algorithm: str) -> bool:
        """Look for a key that is not in the set. Before it waits for anything, it sleeps for no time.

        Returns whether the set, as it is then, is what the issuer says: a key that is not in it does not
        exist, and a tenant without a set does not either. False: the issuer cannot be heard, so the key may
        exist.
        """


class Introspector(Protocol):
    """The issuers of opaque tokens, which are asked about each (RFC 7662)."""

    names: frozenset[str]
    """Their configured names."""

    def issuer_of(self, raw: bytes) -> Issuer | None:
        """Return the issuer to ask about a token; None if its own `iss` says whose it is."""

    async def introspect(self, issuer: Issuer, credential: Credential) -> Introspected:
        """Ask, or remember. Raises `Denial`. Before it waits for anything, it sleeps for no time."""


class TokenVerifier:
    """Raw token → verified claims. What was verified is `gateway.memo`'s to remember."""

    def __init__(
        self,
        issuers: Iterable[Issuer],
        keys: Keys,
        *,
        clock: Callable[[], float],
        claims_read: frozenset[str] | None = frozenset(),
        introspector: Introspector | None = None,
        path_found: Callable[[str, str], None] = lambda _, __: None,
        signed: Callable[[str, Mapping[str, JSON], bytes], None] = lambda _, __, ___: None,
    ) -> None:
        """`claims_read` names the claims that are kept of payloads; all others are read once, and dropped.

        If it is None, all are kept.

        Without `introspector`, no issuer has opaque tokens. `path_found` is called with the name of an issuer
        and a path of its `claims` when the first of its tokens has a claim there. `signed` is called with the
        name of an issuer, the payload and the signature of each token that it made, before its claims are
        checked.
        """
        issuers = tuple(issuers)
        self._path_found = path_found
        self._signed = signed
        self._unfound = {issuer.name: {path for _, path in issuer.claims.by_setting()} for issuer in issuers}
        """The paths at which no token of an issuer has had a claim yet."""
        self._looked_at: set[str] = set()
        """Issuers of which there was a token."""
        self._claims_read = claims_read
        self._introspector = introspector
        self._issuers = IssuerTable(issuers)
        self._types = token_types.known_to(issuers)
        self._keys = keys
        self._clock = clock

    async def verify(self, credential: Credential) -> VerifiedToken:
        """Verify a token. Raises `Denial`. It waits for `Keys.refresh` or `introspect` alone."""
        introspector = self._introspector
        if introspector is not None and (asked := introspector.issuer_of(credential.raw)) is not None:
            return await self._introspected(introspector, asked, credential)
        token = tokens.parse(credential.raw, self._types)
        issuer = self._issuers.find(claim_rules.issuer_of(token.payload))
        if issuer is None:
            raise Denial(ISSUER_UNTRUSTED)
        if introspector is not None and issuer.name in introspector.names:
            return await self._introspected(introspector, issuer, credential)
        token_types.check(token.typ, issuer)
        if token.algorithm not in issuer.algorithms:
            detail = "not among the issuer's `algorithms`"
            raise Denial(ALGORITHM_NOT_ALLOWED, detail, issuer=issuer.name, realm=issuer.realm)
        candidates = await self._candidates(issuer, token)
        if token.algorithm not in candidates[0].algorithms:
            raise Denial(
                ALGORITHM_NOT_ALLOWED, "it does not fit the key", issuer=issuer.name, realm=issuer.realm
            )
        key = next((key for key in candidates if key.verify(token)), None)
        if key is None:
            key = await self._another(issuer, token, candidates)
        self._signed(issuer.name, token.payload, token.signature)
        claims = self._claims(token.payload, issuer)
        return VerifiedToken(claims, key, math.inf if claims.good_until is None else claims.good_until)

    def _claims(self, payload: Mapping[str, JSON], issuer: Issuer) -> Claims:
        if self._claims_read is None:
            kept: Mapping[str, JSON] = payload
        else:
            kept = {name: payload[name] for name in self._claims_read if name in payload} or _NOTHING
        claims = claim_rules.verify(payload, issuer, self._clock(), kept)
        if self._unfound.get(issuer.name):
            self._find_paths(payload, issuer.name)
        return claims

    def _find_paths(self, payload: Mapping[str, JSON], name: str) -> None:
        unfound = self._unfound[name]
        self._looked_at.add(name)
        for path in [path for path in unfound if at_path(payload, path) is not None]:
            unfound.discard(path)
            self._path_found(name, path)

    def never_found(self, issuer_name: str) -> Sequence[str]:
        """Return the paths of an issuer's `claims` at which none of its tokens here had a claim.

        Empty, too, if there was no token.
        """
        return sorted(self._unfound.get(issuer_name, ())) if issuer_name in self._looked_at else ()

    async def _introspected(
        self, introspector: Introspector, issuer: Issuer, credential: Credential
    ) -> VerifiedToken:
        """Let the issuer vouch for the token; what it says is checked like the claims of any other."""
        said = await introspector.introspect(issuer, credential)
        return VerifiedToken(self._claims(said.payload, issuer), INTROSPECTED, said.until)

    async def _another(
        self, issuer: Issuer, token: UnverifiedToken, tried: Sequence[VerificationKey]
    ) -> VerificationKey:
        """Look for the key again, if those that were tried are guesses: they have no name, or the token none.

        Then keys may have been rotated, too. Raises `Denial`.
        """
        heard = True
        if token.kid is None or all(key.kid != token.kid for key in tried):
            heard = await self._keys.refresh(issuer.realm, token.kid, token.algorithm)
            found = self._known(issuer, token)
            fitting = (key for key in found if token.algorithm in key.algorithms and key not in tried)
            key = next((key for key in fitting if key.verify(token)), None)
            if key is not None:
                return key
        if not heard and token.kid is not None:
            raise Denial(KEYS_UNAVAILABLE, issuer=issuer.name)
        raise Denial(SIGNATURE_INVALID, issuer=issuer.name, realm=issuer.realm)

    async def _candidates(self, issuer: Issuer, token: UnverifiedToken) -> tuple[VerificationKey, ...]:
        """Select the keys by issuer and `kid`; an unknown `kid` may mean that keys were rotated."""
        if found := self._known(issuer, token):
            return found
        heard = await self._keys.refresh(issuer.realm, token.kid, token.algorithm)
        if found := self._known(issuer, token):
            return found
        without_keys = self._keys.current(issuer.realm) is None
        if heard and without_keys and issuer.tenant is not None:
            raise Denial(ISSUER_UNTRUSTED, NO_SUCH_TENANT, issuer=issuer.name)
        if without_keys or not heard:
            raise Denial(KEYS_UNAVAILABLE, issuer=issuer.name)
        raise Denial(KEY_UNKNOWN, issuer=issuer.name)

    def _known(self, issuer: Issuer, token: UnverifiedToken) -> tuple[VerificationKey, ...]:
        keys = self._keys.current(issuer.realm)
        return () if keys is None else keys.candidates(token.kid, token.algorithm)
