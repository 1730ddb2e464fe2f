"""Where an issuer's keys come from: one small class per kind, each with one way to load them."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Protocol
from urllib.parse import urlsplit

from gateway.core.model import JSON
from gateway.core.text import json_text
from gateway.core.tokens.jws import ALGORITHMS, KeySet
from gateway.core.tokens.key_material import KeyRejected, key_from_pem, key_from_secret, keyset_from_jwks
from gateway.issuer_keys.fetch import (
    MAX_BYTES,
    Document,
    Fetcher,
    FetchError,
    NotFound,
    UnknownIssuer,
    parsed,
)

DEFAULT_FRESHNESS: Final = 300.0
MIN_FRESHNESS: Final = 60.0
MAX_FRESHNESS: Final = 3600.0
_SINGLE: Final = frozenset({"issuer", "jwks_uri", "authorization_endpoint", "token_endpoint"})
"""Members of the metadata that count, so that two of one name would be read in two ways."""
FILE_FRESHNESS: Final = 10.0
"""Seconds after which a file is read again: it costs nothing, and an edit shows soon."""


@dataclass(frozen=True, slots=True)
class LoadedKeys:
    """The keys of an issuer as its source has them at this moment."""

    keys: KeySet
    fresh_for: float
    """Seconds after which to look again."""
    skipped: tuple[str, ...] = ()
    """Why keys of the source are not used, one sentence each."""
    left_out: int = 0
    """Keys of the source that were not looked at, because there are enough before them."""
    left_out_kids: frozenset[str] = frozenset()
    """The `kid` of these, as far as they are remembered."""
    unheard: tuple[str, ...] = ()
    """Of several sources, why the keys of some cannot be had."""


class KeySource(Protocol):
    """A place that has the keys of one issuer."""

    async def load(self, fetcher: Fetcher) -> LoadedKeys:
        """Return the keys, one at least; raises `FetchError` when they cannot be had, or none can be used."""
        ...


@dataclass(frozen=True, slots=True)
class Discovery:
    """The `jwks_uri` that the issuer's metadata names (OpenID Connect Discovery 1.0 §4, RFC 8414 §3)."""

    issuer: str

    async def load(self, fetcher: Fetcher) -> LoadedKeys:
        location, metadata = await self.metadata(fetcher)
        jwks_uri = metadata.get("jwks_uri")
        if not isinstance(jwks_uri, str):
            raise FetchError(f"{location}: the metadata names no `jwks_uri`")
        if location.startswith("https:") and not jwks_uri.lower().startswith("https:"):
            raise FetchError(f"{location}: its `jwks_uri` {_excerpt(jwks_uri)} is not https as the issuer is")
        return await JwksUri(jwks_uri, self.issuer).load(fetcher)

    async def metadata(self, fetcher: Fetcher) -> tuple[str, dict[str, JSON]]:
        """Return the URL and the content of the metadata, which is this issuer's. Raises `FetchError`."""
        document = await self._metadata(fetcher)
        location, metadata = document.url, document.content
        if not isinstance(metadata, dict):
            raise FetchError(f"{location}: the metadata is not a JSON object")
        twice = metadata.names & _SINGLE if isinstance(metadata, json_text.Repeated) else ()
        if twice:
            raise FetchError(f"{location}: the metadata names `{min(twice)}` more than once")
        named = metadata.get("issuer")
        # RFC 8414 §3.3: identical, or one issuer's metadata could speak for another.
        if named != self.issuer:
            raise UnknownIssuer(
                f"{location}: its `issuer` is {_excerpt(named)}, the configured one {self.issuer!r}; "
                "they must be equal, to the last slash"
            )
        return location, metadata

    async def _metadata(self, fetcher: Fetcher) -> Document:
        oidc, oauth = metadata_urls(self.issuer)
        try:
            return await fetcher.get(oidc)
        except NotFound as not_oidc:
            try:
                return await fetcher.get(oauth)
            except NotFound:
                raise UnknownIssuer(
                    f"no metadata at {oidc} nor at {oauth}: {_answer(not_oidc)}"
                ) from not_oidc


@dataclass(frozen=True, slots=True)
class JwksUri:
    """A JWK Set (RFC 7517 §5) at an http or https URL."""

    url: str
    issuer: str | None = None
    """Whose keys are wanted, where a key may name another issuer."""

    async def load(self, fetcher: Fetcher) -> LoadedKeys:
        document = await fetcher.get(self.url)
        return await _from_jwks(document.url, document.content, freshness(document), self.issuer)


@dataclass(frozen=True, slots=True)
class JwksFile:
    """A JWK Set in a file."""

    path: Path
    issuer: str | None = None
    """See `JwksUri`."""

    async def load(self, fetcher: Fetcher) -> LoadedKeys:  # noqa: ARG002 -- the signature of the Protocol
        content = await _read(self.path)
        document = await parsed(str(self.path), content)
        return await _from_jwks(str(self.path), document, FILE_FRESHNESS, self.issuer)


@dataclass(frozen=True, slots=True)
class PemFile:
    """A PEM public key or certificate in a file."""

    path: Path

    async def load(self, fetcher: Fetcher) -> LoadedKeys:  # noqa: ARG002 -- the signature of the Protocol
        content = await _read(self.path)
        try:
            return LoadedKeys(KeySet([key_from_pem(content)]), FILE_FRESHNESS)
        except KeyRejected as error:
            raise FetchError(f"{self.path}: {error}") from error


@dataclass(frozen=True, slots=True)
class SecretFile:
    """A secret shared with the issuer, in a file; one line end after it is not part of it."""

    path: Path

    async def load(self, fetcher: Fetcher) -> LoadedKeys:  # noqa: ARG002 -- the signature of the Protocol
        content = await _read(self.path)
        try:
            key = key_from_secret(content.removesuffix(b"\n").removesuffix(b"\r"))
        except KeyRejected as error:
            raise FetchError(f"{self.path}: {error}") from error
        return LoadedKeys(KeySet([key]), FILE_FRESHNESS)


@dataclass(frozen=True, slots=True)
class Secret:
    """A secret shared with the issuer, out of the configuration."""

    value: bytes = field(repr=False)

    async def load(self, fetcher: Fetcher) -> LoadedKeys:  # noqa: ARG002 -- the signature of the Protocol
        try:
            return LoadedKeys(KeySet([key_from_secret(self.value)]), MAX_FRESHNESS)
        except KeyRejected as error:
            raise FetchError(f"the configured secret: {error}") from error


@dataclass(frozen=True, slots=True)
class Restricted:
    """The keys of a source for some algorithms only."""

    source: KeySource
    algorithms: frozenset[str]

    async def load(self, fetcher: Fetcher) -> LoadedKeys:
        loaded = await self.source.load(fetcher)
        narrowed = [each for key in loaded.keys.keys if (each := key.narrowed(self.algorithms)) is not None]
        if not narrowed:
            raise FetchError(f"none of its keys is for {', '.join(sorted(self.algorithms))}")
        return replace(loaded, keys=KeySet(narrowed))


@dataclass(frozen=True, slots=True)
class Several:
    """Several sources of one issuer. None has to wait for another, and one that fails is missed alone."""

    sources: tuple[Restricted, ...]

    async def load(self, fetcher: Fetcher) -> LoadedKeys:
        outcomes = await asyncio.gather(
            *(source.load(fetcher) for source in self.sources), return_exceptions=True
        )
        loaded = [outcome for outcome in outcomes if isinstance(outcome, LoadedKeys)]
        failed = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
        for error in failed:
            if not isinstance(error, FetchError) or not loaded:
                raise error
        return LoadedKeys(
            KeySet.joined(each.keys for each in loaded),
            min(each.fresh_for for each in loaded),
            tuple(why for each in loaded for why in each.skipped),
            sum(each.left_out for each in loaded),
            frozenset().union(*(each.left_out_kids for each in loaded)),
            tuple(map(str, failed)),
        )


@dataclass(frozen=True, slots=True)
class PerTenant:
    """The sources of the tenants of a pattern: each has its own keys."""

    source_of: Callable[[str], KeySource]
    """Returns the source of a tenant."""
    tenants: tuple[str, ...] | None
    """All tenants; None: any that the issuer has."""

    async def load(self, fetcher: Fetcher) -> LoadedKeys:
        """Return the keys of all listed tenants, as a test: no token is verified with this set."""
        sources = tuple(Restricted(self.source_of(tenant), ALGORITHMS) for tenant in self.tenants or ())
        if not sources:
            return LoadedKeys(KeySet(()), MAX_FRESHNESS)
        return await Several(sources).load(fetcher)


def metadata_urls(issuer: str) -> tuple[str, str]:
    """Return where an issuer's metadata may be.

    OpenID Connect Discovery 1.0 §4.1 appends the well-known path to the issuer's, RFC 8414 §3.1
    puts it in front; both drop the issuer's final slash first.
    """
    parts = urlsplit(issuer)
    path = parts.path.rstrip("/")
    oidc = parts._replace(path=f"{path}/.well-known/openid-configuration")
    oauth = parts._replace(path=f"/.well-known/oauth-authorization-server{path}")
    return oidc.geturl(), oauth.geturl()


def freshness(document: Document) -> float:
    """Return the seconds after which to fetch a document again: as its server wishes, within reason."""
    if document.max_age is None:
        return DEFAULT_FRESHNESS
    return min(max(document.max_age, MIN_FRESHNESS), MAX_FRESHNESS)


async def _from_jwks(location: str, document: JSON, fresh_for: float, issuer: str | None) -> LoadedKeys:
    try:
        # Building a hundred keys takes tens of milliseconds, which the other issuers' requests have not.
        read = await asyncio.to_thread(keyset_from_jwks, document, issuer)
    except KeyRejected as error:
        raise FetchError(f"{location}: {error}") from error
    if read.keys.keys:
        return LoadedKeys(read.keys, fresh_for, read.skipped, read.left_out, read.left_out_kids)
    # An issuer that has no key signs nothing: this is a mistake or an accident at its place.
    if not read.skipped:
        raise FetchError(f"{location}: its list `keys` is empty")
    raise FetchError(f"{location}: none of its keys can be used: {'; '.join(read.skipped[:3])}")


async def _read(path: Path) -> bytes:
    try:
        content = await asyncio.to_thread(_read_limited, path)
    except OSError as error:
        raise FetchError(f"{path}: {error.strerror or error}") from error
    if len(content) > MAX_BYTES:
        raise FetchError(f"{path}: larger than {MAX_BYTES // 1024} KiB")
    return content


def _read_limited(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(MAX_BYTES + 1)


def _answer(error: NotFound) -> str:
    return f"both answered {str(error).rpartition(' ')[2]}"


def _excerpt(value: JSON) -> str:
    return ascii(value[:200]) if isinstance(value, str) else "not a string"
