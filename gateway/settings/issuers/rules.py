"""The rules between the settings of one issuer, which read the raw configuration like `settings.rules`."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from gateway.settings.findings import Finding, Location
from gateway.settings.issuers.values import ASYMMETRIC_ALGORITHMS

# A MAC key is at least as long as the hash (RFC 7518 §3.2).
_SECRET_BYTES: Final = {"HS256": 32, "HS384": 48, "HS512": 64}
_SOURCES: Final = ("discovery", "jwks_uri", "jwks_file", "pem_file", "secret", "secret_file")
_PROOFS: Final = ("client_secret", "client_secret_file", "private_key_file")
_NAME_THE_CLIENT: Final = ("azp", "client_id", "appid", "cid")


def issuer_findings(where: Location, issuer: Mapping[object, object]) -> Iterator[Finding]:
    """Yield every mistake between the settings of an issuer."""
    yield from _audiences(where, issuer)
    if issuer.get("introspection") is not None:
        yield from _introspection(where, issuer)
        return
    keys = issuer.get("keys", {"discovery": True})
    if not isinstance(keys, Mapping):
        return
    sources = [source for source in _SOURCES if keys.get(source) not in (None, False)]
    if len(sources) != 1:
        found = f"has {len(sources)} key sources: {', '.join(sources)}" if sources else "has no key source"
        yield Finding((*where, "keys"), found, f"give exactly one of {', '.join(_SOURCES)}")
    url = issuer.get("issuer")
    if sources == ["discovery"] and isinstance(url, str) and not url.startswith(("https://", "http://")):
        yield Finding(
            (*where, "issuer"),
            "must be a URL for discovery",
            "write the issuer's URL, or give keys.jwks_uri or another key source",
        )
    yield from _algorithms(where, issuer, keys)


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
    if not any(named.get(path) is not None for name in _NAME_THE_CLIENT for path in (name, f"/{name}")):
        yield Finding(
            (*where, "audiences"),
            "may be null only together with an `expect` on azp, client_id, appid or cid",
            "write audiences: [orders-api], or the clients whose tokens are for you: expect: {azp: [web]}",
        )


def _algorithms(
    where: Location, issuer: Mapping[object, object], keys: Mapping[str, object]
) -> Iterator[Finding]:
    algorithms = issuer.get("algorithms")
    named = algorithms if isinstance(algorithms, list | tuple) else ()
    with_secret = keys.get("secret") is not None or keys.get("secret_file") is not None
    for index, algorithm in enumerate(named):
        if with_secret and algorithm in ASYMMETRIC_ALGORITHMS:
            yield Finding(
                (*where, "algorithms", index),
                f"{algorithm} needs a public key, and this issuer's key is a secret",
                "write HS256, or give another key source",
            )
        if not with_secret and isinstance(algorithm, str) and algorithm in _SECRET_BYTES:
            yield Finding(
                (*where, "algorithms", index),
                f"{algorithm} needs a shared secret",
                "remove it, or give keys.secret_file",
            )
    secret = keys.get("secret")
    if isinstance(secret, str):
        needed = max((_SECRET_BYTES[name] for name in _SECRET_BYTES if name in named), default=32)
        yield from _secret((*where, "keys", "secret"), secret, needed)


def _secret(where: Location, secret: str, needed: int) -> Iterator[Finding]:
    if "-----BEGIN " in secret:
        yield Finding(where, "is a PEM key, not a shared secret", "give a public key as keys.pem_file")
    elif len(secret.encode("utf-8", "replace")) < needed:
        yield Finding(
            where,
            f"must have at least {needed} bytes (RFC 7518 §3.2)",
            "create one with: openssl rand -base64 64",
        )
