"""The rules between the settings of one issuer, which read the raw configuration like `settings.rules`."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final
from urllib.parse import urlsplit

from gateway.core.tokens.claims import CLIENTS
from gateway.core.tokens.issuer_patterns import TENANT, IssuerPattern, mistake_in
from gateway.settings.findings import Finding, Location
from gateway.settings.issuers.values import ASYMMETRIC_ALGORITHMS

# A MAC key is at least as long as the hash (RFC 7518 §3.2).
_SECRET_BYTES: Final = {"HS256": 32, "HS384": 48, "HS512": 64}
_SOURCES: Final = ("discovery", "jwks_uri", "jwks_file", "pem_file", "secret", "secret_file")
_PROOFS: Final = ("client_secret", "client_secret_file", "private_key_file")
_PLACEHOLDER: Final = re.compile(r"\$\{[^}]*\}|\{(?!tenant\})[^}]*\}|<[^>]*>|\*")
_METADATA: Final = re.compile(r"(https?://.+?/?)/\.well-known/.*")
# Not issuers: Entra's names for all tenants, for all of organisations and for private accounts.
_OF_ALL: Final = re.compile(
    r"(https://(?:login\.(?:partner\.)?microsoftonline\.[a-z]+|sts\.windows\.net)/)(?:common|organizations|consumers)(/.*)"
)
_BRACES: Final = re.compile(r"\$?\{[^}]*\}")
# PEM certificates by `kid`, which are no JWK set, and where the same keys are one.
_NO_JWKS: Final = (
    (
        re.compile(r"https://www\.googleapis\.com/robot/v1/metadata/x509/(.+)"),
        r"https://www.googleapis.com/service_accounts/v1/jwk/\1",
    ),
    (
        re.compile(r"https://www\.googleapis\.com/oauth2/v1/certs"),
        "https://www.googleapis.com/oauth2/v3/certs",
    ),
)

Source = tuple[Location, Mapping[object, object]]


def issuer_findings(where: Location, issuer: Mapping[object, object]) -> Iterator[Finding]:
    """Yield every mistake between the settings of an issuer."""
    yield from _audiences(where, issuer)
    yield from _compared(where, issuer)
    yield from _pattern(where, issuer)
    if issuer.get("introspection") is not None:
        yield from _introspection(where, issuer)
        return
    sources = _sources((*where, "keys"), issuer.get("keys", {"discovery": True}))
    for place, keys in sources:
        yield from _source(where, issuer, place, keys)
    yield from _algorithms(where, issuer, sources)


def _is_url(text: str) -> bool:
    try:
        url = urlsplit(text)
        return url.scheme in ("https", "http") and bool(url.hostname) and url.port != 0
    except ValueError:
        return False


def _sources(where: Location, keys: object) -> list[Source]:
    if isinstance(keys, Mapping):
        return [(where, keys)]
    entries = keys if isinstance(keys, list | tuple) else ()
    return [((*where, index), entry) for index, entry in enumerate(entries) if isinstance(entry, Mapping)]


def _source(
    where: Location, issuer: Mapping[object, object], place: Location, keys: Mapping[object, object]
) -> Iterator[Finding]:
    given = [source for source in _SOURCES if keys.get(source) not in (None, False)]
    if len(given) != 1:
        found = f"has {len(given)} key sources: {', '.join(given)}" if given else "has no key source"
        yield Finding(place, found, f"give exactly one of {', '.join(_SOURCES)}")
        return
    iss, url = issuer.get("issuer"), keys.get("jwks_uri")
    if given == ["discovery"] and isinstance(iss, str) and not _is_url(iss):
        yield Finding(
            (*where, "issuer"),
            "must be a URL for discovery",
            "write the issuer's URL, or give keys.jwks_uri or another key source",
        )
    if isinstance(url, str):
        yield from _jwks_uri((*place, "jwks_uri"), url, issuer)
    elif given != ["discovery"] and issuer.get("tenants") is not None:
        yield Finding(
            (*place, given[0]),
            "would verify the tokens of all tenants with the same keys",
            f"give discovery, or a jwks_uri with {TENANT}",
        )


def _jwks_uri(where: Location, url: str, issuer: Mapping[object, object]) -> Iterator[Finding]:
    for wrong, right in _NO_JWKS:
        if wrong.fullmatch(url):
            yield Finding(
                where, "has certificates, and not a JWK set", f"write jwks_uri: {wrong.sub(right, url)}"
            )
            return
    placeholder = _PLACEHOLDER.search(url)
    if placeholder is not None:
        yield Finding(where, f"has {placeholder[0]}, which nothing replaces", "write the URL as it is")
    elif issuer.get("tenants") is None and TENANT in url:
        yield Finding(where, f"has {TENANT}, but the issuer has no tenants", "write the URL as it is")
    elif issuer.get("tenants") is not None and TENANT not in url:
        yield Finding(
            where,
            "would verify the tokens of all tenants with the same keys",
            f"write {TENANT} in the place of the tenant, or give discovery",
        )
    elif TENANT in url and (mistake := mistake_in(url)) is not None:
        yield Finding(where, mistake, "write it as in `issuer`")


def _introspection(where: Location, issuer: Mapping[object, object]) -> Iterator[Finding]:
    for name in ("keys", "algorithms", "token_types", "tenants"):
        if issuer.get(name) is not None:
            yield Finding(
                (*where, name),
                "is for tokens that are JWTs, and this issuer has `introspection`",
                "remove one of both",
            )
    settings = issuer["introspection"]
    if not isinstance(settings, Mapping):
        return
    given = [name for name in _PROOFS if settings.get(name) is not None]
    if len(given) != 1:
        found = f"has {' and '.join(given)}" if given else "has no secret and no key"
        yield Finding((*where, "introspection"), found, f"give exactly one of {', '.join(_PROOFS)}")
    if settings.get("client_secret") == "":
        yield Finding(
            (*where, "introspection", "client_secret"), "is empty", "write the secret that the issuer shows"
        )
    if settings.get("key_id") is not None and "private_key_file" not in given:
        yield Finding(
            (*where, "introspection", "key_id"), "names no key", "give private_key_file, or remove key_id"
        )


def prefix_findings(issuers: Iterable[tuple[int, Mapping[object, object]]]) -> Iterator[Finding]:
    """Yield a mistake for each issuer of opaque tokens that has the prefix of an earlier one."""
    first: dict[str, int] = {}
    for index, issuer in issuers:
        settings = issuer.get("introspection")
        if not isinstance(settings, Mapping):
            continue
        prefix = settings.get("prefix", "")
        if isinstance(prefix, str) and first.setdefault(prefix, index) != index:
            told = f"{prefix!r} is also the prefix" if prefix else "has no prefix, and neither has that"
            yield Finding(
                ("issuers", index, "introspection", *(("prefix",) if "prefix" in settings else ())),
                f"{told} of issuers[{first[prefix]}]",
                "write how the opaque tokens of each issuer begin",
            )


def _audiences(where: Location, issuer: Mapping[object, object]) -> Iterator[Finding]:
    """Without audiences, another claim must say for whom tokens are: all clients have the same issuer."""
    expect = issuer.get("expect")
    named = expect if isinstance(expect, Mapping) else {}
    if "audiences" not in issuer or issuer["audiences"] is not None:
        return
    if not any(named.get(path) is not None for name in CLIENTS for path in (name, f"/{name}")):
        yield Finding(
            (*where, "audiences"),
            "may be null only together with an `expect` on azp, client_id, appid or cid",
            "write audiences: [orders-api], or the clients whose tokens are for you: expect: {azp: [web]}",
        )


def _compared(where: Location, issuer: Mapping[object, object]) -> Iterator[Finding]:
    """Yield each accepted value that looks like a pattern: values are compared as they are."""
    audiences = issuer.get("audiences")
    for index, audience in enumerate(audiences if isinstance(audiences, list | tuple) else ()):
        place = (*where, "audiences", index)
        if isinstance(audience, str) and audience != audience.strip():
            yield Finding(place, "has spaces around it", "remove them")
        elif audience == "*":
            yield Finding(
                place,
                "is the name of no API: audiences are compared as they are",
                "write your API's name, or audiences: null and the accepted clients: expect: {azp: [web]}",
            )
        elif isinstance(audience, str) and (found := _BRACES.search(audience)) is not None:
            yield Finding(place, f"has {found[0]}, which nothing replaces", "write the audience as it is")
    expect = issuer.get("expect")
    for path, accepted in expect.items() if isinstance(expect, Mapping) else ():
        place = (*where, "expect", str(path))
        for value in _values(accepted):
            if value == "*" and str(path).removeprefix("/") in CLIENTS:
                yield Finding(
                    place, "has `*`, which is no client", f"write the clients: {path}: [web, mobile]"
                )
            elif not isinstance(value, str) or (found := _BRACES.search(value)) is None:
                continue
            elif found[0] != TENANT or issuer.get("tenants") is None:
                yield Finding(
                    place,
                    f"has {found[0]}, which nothing replaces",
                    f"write the value as it is, or {TENANT} with `tenants`",
                )


def _values(value: object) -> Sequence[object]:
    """Return the entries of a list, or the one value."""
    return value if isinstance(value, list | tuple) else () if value is None else (value,)


# Patterns ------------------------------------------------------------------------------------------


def _pattern(where: Location, issuer: Mapping[object, object]) -> Iterator[Finding]:
    iss, tenants = issuer.get("issuer"), issuer.get("tenants")
    if not isinstance(iss, str):
        return
    place = (*where, "issuer")
    of_all = _OF_ALL.fullmatch(iss)
    if of_all is not None:
        right = f"issuer: {of_all[1]}{TENANT}{of_all[2]}"
        yield Finding(
            place, "is the `iss` of no token", f"write {right}, and tenants: [the tenants' ids], or any"
        )
    elif iss != iss.strip():
        yield Finding(place, "has spaces around it", "remove them")
    elif (metadata := _METADATA.fullmatch(iss)) is not None:
        yield Finding(
            place, "is the URL of metadata, and not the `iss` of tokens", f"write issuer: {metadata[1]}"
        )
    elif (placeholder := _PLACEHOLDER.search(iss)) is not None:
        yield _not_replaced(place, iss, placeholder[0])
    elif TENANT not in iss:
        if tenants is not None:
            yield Finding(
                (*where, "tenants"), f"needs {TENANT} in `issuer`", "remove it, or write the pattern"
            )
    elif (mistake := mistake_in(iss)) is not None:
        yield Finding(
            place, mistake, f"write https://idp.example.com/{TENANT} or https://{TENANT}.example.com"
        )
    elif tenants is None:
        yield Finding(
            place, f"has {TENANT}, but there are no tenants", "write tenants: [their names], or tenants: any"
        )
    else:
        pattern = IssuerPattern(iss)
        for index, tenant in enumerate(tenants if isinstance(tenants, list | tuple) else ()):
            if isinstance(tenant, str) and pattern.iss_of(tenant) is None:
                yield Finding(
                    (*where, "tenants", index),
                    f"cannot stand for {TENANT}",
                    "write one segment of a path or one label of a host, as in the tokens' `iss`",
                )


def _not_replaced(place: Location, iss: str, placeholder: str) -> Finding:
    if placeholder.startswith("$"):
        return Finding(
            place, f"has {placeholder}, which nothing replaces", "write the `iss` as it is in the tokens"
        )
    pattern = iss.replace(placeholder, TENANT)
    what = f"has {placeholder}, which stands for nothing"
    if mistake_in(pattern) is not None:
        return Finding(place, what, "write the `iss` as it is in the tokens")
    return Finding(place, what, f"write issuer: {pattern}, and tenants: [the tenants' names], or any")


# Algorithms ----------------------------------------------------------------------------------------


def _is_secret(keys: Mapping[object, object]) -> bool:
    return keys.get("secret") is not None or keys.get("secret_file") is not None


def _algorithms(where: Location, issuer: Mapping[object, object], sources: list[Source]) -> Iterator[Finding]:
    if not sources:
        return
    secrets = [_is_secret(keys) for _, keys in sources]
    named = _named(issuer)
    yield from _unfit((*where, "algorithms"), named, with_secret=any(secrets), with_public=not all(secrets))
    for (place, keys), is_secret in zip(sources, secrets, strict=True):
        own = _named(keys)
        yield from _unfit((*place, "algorithms"), own, with_secret=is_secret, with_public=not is_secret)
        among = own or named
        if named and (own or len(sources) > 1):
            fitting = (each for each in among if each in named and (each in _SECRET_BYTES) == is_secret)
            if next(fitting, None) is None:
                yield Finding(
                    place, "has keys for none of the issuer's `algorithms`", "name its algorithm there, too"
                )
        secret = keys.get("secret")
        if isinstance(secret, str):
            needed = max((_SECRET_BYTES[name] for name in _SECRET_BYTES if name in among), default=32)
            yield from _secret((*place, "secret"), secret, needed)


def _named(section: Mapping[object, object]) -> list[object]:
    algorithms = section.get("algorithms")
    return [*algorithms] if isinstance(algorithms, list | tuple) else []


def _unfit(
    where: Location, algorithms: list[object], *, with_secret: bool, with_public: bool
) -> Iterator[Finding]:
    for index, algorithm in enumerate(algorithms):
        if not with_public and algorithm in ASYMMETRIC_ALGORITHMS:
            yield Finding(
                (*where, index),
                f"{algorithm} needs a public key, and this issuer's key is a secret",
                "write HS256, or give another key source",
            )
        if not with_secret and isinstance(algorithm, str) and algorithm in _SECRET_BYTES:
            yield Finding(
                (*where, index), f"{algorithm} needs a shared secret", "remove it, or give keys.secret_file"
            )


def _secret(where: Location, secret: str, needed: int) -> Iterator[Finding]:
    if "-----BEGIN " in secret:
        yield Finding(where, "is a PEM key, not a shared secret", "give a public key as keys.pem_file")
    elif len(secret.encode("utf-8", "replace")) < needed:
        yield Finding(
            where,
            f"must have at least {needed} bytes (RFC 7518 §3.2)",
            "create one with: openssl rand -base64 64",
        )
