"""The OpenID provider: its metadata, the request for a code, and the ID token that the code is exchanged for.

OpenID Connect Core 1.0 §3.1 with PKCE (RFC 7636) and the issuer in the response (RFC 9207). The ID token is
verified by `gateway.verifier`, as tokens of requests are.
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlencode, urlsplit

from gateway.admin.sign_in.sessions import Role
from gateway.core.model import JSON, ClaimPaths, Claims, Credential, Issuer
from gateway.core.reasons import Denial
from gateway.core.tokens.claim_paths import claims_on
from gateway.core.tokens.claims import is_clean
from gateway.core.tokens.jws import KeySet
from gateway.issuer_keys.client_authentication import ClientSecret
from gateway.issuer_keys.fetch import Fetcher, FetchError, NotFound
from gateway.issuer_keys.sources import Discovery, JwksUri
from gateway.verifier import TokenVerifier

FRESH: Final = 300.0
"""Seconds for which metadata and keys are kept."""
REST: Final = 2.0
"""Seconds after a failure during which the provider is not asked for its metadata again."""
_NAME_CLAIMS: Final = ("name", "preferred_username", "email")
_LONGEST_NAME: Final = 100
_REALM: Final = "console"


class SignInRefused(Exception):
    """A sign-in that did not succeed. `code` is one of `pages.MESSAGES`; the text is for the log alone."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code


@dataclass(frozen=True, slots=True)
class Client:
    """The client that the console is at the provider (RFC 6749 §2)."""

    issuer: str
    client_id: str
    client_secret: str = field(repr=False)
    redirect_uri: str
    scopes: Sequence[str]
    algorithms: frozenset[str]
    """Of ID tokens."""
    roles_claim: str
    """The path of the claim with a person's roles at the provider."""
    roles: Mapping[Role, frozenset[str]]
    """Which of these make a viewer or an operator."""


@dataclass(frozen=True, slots=True)
class Metadata:
    """What the provider says of itself (OpenID Connect Discovery 1.0 §3)."""

    authorization_endpoint: str
    token_endpoint: str
    jwks_uri: str
    basic: bool
    """Whether the client's secret goes into Authorization; otherwise it goes into the form."""
    names_itself: bool
    """Whether responses have `iss` (RFC 9207 §3)."""
    lacks_pkce: bool
    """Whether the provider does not say that it knows `S256` (RFC 8414 §2). It is sent in any case."""


@dataclass(frozen=True, slots=True)
class Identified:
    """The person whom an ID token is about."""

    subject: str
    name: str | None
    role: Role


class Provider:
    """One provider. The fetcher remains its owner's to close."""

    def __init__(
        self,
        client: Client,
        fetcher: Fetcher,
        *,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._fetcher = fetcher
        self._monotonic = monotonic
        self._secret = ClientSecret(client.client_id, client.client_secret)
        self._reading = asyncio.Lock()
        self._metadata: Metadata | None = None
        self._keys: KeySet | None = None
        self._fresh_until = 0.0
        self._failed_at: float | None = None
        issuer = Issuer(
            _REALM,
            client.issuer,
            frozenset({client.client_id}),
            client.algorithms,
            require=frozenset({"exp", "iat", "sub", "nonce"}),
            claims=ClaimPaths(tenant=None, scopes=(), roles=(client.roles_claim,)),
            id_tokens="allow",
            allow_unbound=True,
        )
        read = frozenset({"nonce", "azp", *_NAME_CLAIMS, *claims_on(client.roles_claim)})
        self._verifier = TokenVerifier([issuer], self, clock=clock, claims_read=read)

    # Keys ------------------------------------------------------------------------------------------

    def current(self, realm: str) -> KeySet | None:  # noqa: ARG002 -- there is one realm
        """Return the keys to trust now; None if they are to be loaded."""
        return self._keys if self._monotonic() < self._fresh_until else None

    async def refresh(self, realm: str, kid: str | None, algorithm: str) -> bool:  # noqa: ARG002 -- there is one realm
        """Load the keys again: an unknown `kid` may mean that they were rotated."""
        try:
            metadata = await self.metadata()
            self._keys = (await JwksUri(metadata.jwks_uri).load(self._fetcher)).keys
        except (FetchError, SignInRefused):
            return False
        return True

    # The flow --------------------------------------------------------------------------------------

    async def metadata(self) -> Metadata:
        """Return the metadata, of the last minutes at most. Raises `SignInRefused`."""
        async with self._reading:
            now = self._monotonic()
            if self._metadata is not None and now < self._fresh_until:
                return self._metadata
            if self._failed_at is not None and now - self._failed_at < REST:
                raise SignInRefused(
                    "provider_unavailable", "the provider's metadata could not be read just now"
                )
            try:
                self._metadata = await self._read()
            except FetchError as error:
                self._failed_at = self._monotonic()
                raise SignInRefused("provider_unavailable", str(error)) from error
            self._failed_at, self._keys = None, None
            self._fresh_until = self._monotonic() + FRESH
            return self._metadata

    async def _read(self) -> Metadata:
        location, found = await Discovery(self._client.issuer).metadata(self._fetcher)
        endpoints = [found.get(name) for name in ("authorization_endpoint", "token_endpoint", "jwks_uri")]
        for endpoint in endpoints:
            if not isinstance(endpoint, str) or "#" in endpoint or not urlsplit(endpoint).hostname:
                raise FetchError(f"{location}: the metadata lacks an endpoint, or it is no URL")
            if not endpoint.startswith("https:" if location.startswith("https:") else ("https:", "http:")):
                raise FetchError(f"{location}: an endpoint is not https as the issuer is")
        authorization, token, jwks = (str(each) for each in endpoints)
        methods = found.get("token_endpoint_auth_methods_supported")
        challenges = found.get("code_challenge_methods_supported")
        return Metadata(
            authorization,
            token,
            jwks,
            # RFC 8414 §2: the default is client_secret_basic.
            basic=not isinstance(methods, list) or "client_secret_basic" in methods,
            names_itself=found.get("authorization_response_iss_parameter_supported") is True,
            lacks_pkce=not isinstance(challenges, list) or "S256" not in challenges,
        )

    async def authorization(self, *, state: str, nonce: str, code_challenge: str) -> str:
        """Return the URL at which a person signs in. Raises `SignInRefused`."""
        metadata = await self.metadata()
        parameters = urlencode(
            {
                "response_type": "code",
                "client_id": self._client.client_id,
                "redirect_uri": self._client.redirect_uri,
                "scope": " ".join(self._client.scopes),
                "state": state,
                "nonce": nonce,
                "code_challenge": code_challenge,
                "code_challenge_method": "S256",
            }
        )
        joint = "&" if urlsplit(metadata.authorization_endpoint).query else "?"
        return f"{metadata.authorization_endpoint}{joint}{parameters}"

    async def identify(self, code: str, *, iss: str | None, nonce: str, code_verifier: str) -> Identified:
        """Exchange a code for an ID token; return whom it is about. Raises `SignInRefused`.

        `iss` is that of the response: another one means that two providers were mixed up (RFC 9207 §2.4).
        """
        metadata = await self.metadata()
        if iss != self._client.issuer and (iss is not None or metadata.names_itself):
            raise SignInRefused("response_invalid", "the response is not of the configured issuer")
        raw = await self._exchange(metadata, code, code_verifier)
        try:
            verified = await self._verifier.verify(Credential.of(raw.encode("utf-8", "replace")))
        except Denial as denial:
            detail = f"the ID token is refused: {denial.reason.code}: {denial.detail or denial.reason.title}"
            raise SignInRefused("token_refused", detail) from denial
        claims = verified.claims
        self._check(claims, nonce)
        return Identified(claims.subject, _name(claims.payload), self._role(claims))

    async def _exchange(self, metadata: Metadata, code: str, code_verifier: str) -> str:
        """Return the raw ID token."""
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": self._client.redirect_uri,
            "code_verifier": code_verifier,
        }
        headers = (await self._secret.proof()).headers if metadata.basic else {}
        if not metadata.basic:
            form |= {"client_id": self._client.client_id, "client_secret": self._client.client_secret}
        try:
            answer = (await self._fetcher.post(metadata.token_endpoint, form, headers)).content
        except NotFound as error:
            # RFC 6749 §5.2: 400 for a code that is unknown, used or not this client's.
            raise SignInRefused("code_refused", str(error)) from error
        except FetchError as error:
            raise SignInRefused("provider_unavailable", str(error)) from error
        raw = answer.get("id_token") if isinstance(answer, dict) else None
        if not isinstance(raw, str):
            raise SignInRefused("token_refused", "the answer of the token endpoint has no id_token")
        return raw

    def _check(self, claims: Claims, nonce: str) -> None:
        """Check what the verifier does not know of (OpenID Connect Core 1.0 §3.1.3.7)."""
        if claims.payload.get("nonce") != nonce:
            raise SignInRefused("token_refused", "the nonce is not that of this sign-in")
        party = claims.payload.get("azp")
        several = len(claims.audiences) > 1
        if (party is not None or several) and party != self._client.client_id:
            raise SignInRefused("token_refused", "`azp` is not this client")

    def _role(self, claims: Claims) -> Role:
        """Return the highest role that the person has. Raises `SignInRefused` if there is none."""
        for role in (Role.OPERATOR, Role.VIEWER):
            if not self._client.roles[role].isdisjoint(claims.roles):
                return role
        detail = f"no role in `{self._client.roles_claim}` is one of admin.oidc.roles"
        raise SignInRefused("role_missing", detail)


def _name(payload: Mapping[str, JSON]) -> str | None:
    """Return what a person is called. It is for people to read, and decides nothing."""
    for claim in _NAME_CLAIMS:
        value = payload.get(claim)
        if isinstance(value, str) and is_clean(value):
            return value[:_LONGEST_NAME]
    return None
