"""Issuers of many tenants: patterns of `iss`, and the names of each tenant's keys and users.

A pattern has `{tenant}` once, as a whole segment of the path or as one label of the host. A tenant's `iss` is
the pattern with the tenant's name in that place. Its *realm* is `<name of the issuer>/<tenant>`. Without a
pattern, the realm is the name. Neither the names of issuers nor those of tenants have a slash or a colon, so
realms are unambiguous.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Final
from urllib.parse import urlsplit

from gateway.core.caches import LRU
from gateway.core.model import Issuer, Scalar

TENANT: Final = "{tenant}"
MAX_TENANTS: Final = 1000
"""Tenants of one pattern that are remembered at a time."""
_SEGMENT: Final = r"(?!\.{1,2}(?:/|\Z))[A-Za-z0-9._~-]{1,128}"
"""Unreserved characters (RFC 3986 §2.3), and no dot segment."""
_LABEL: Final = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
"""RFC 1123 §2.1, in the spelling of an `iss`."""
_REGISTRIES: Final = frozenset({"ac", "co", "com", "edu", "gov", "ne", "net", "or", "org"})
"""Under these names of many countries (`co.uk`, `com.au`), anyone can register a domain."""
_OTHERS: Final = re.compile(r"\{(?!tenant\})|(?<!\{tenant)\}|\*|\$")


def is_pattern(issuer: str) -> bool:
    return TENANT in issuer


def mistake_in(pattern: str) -> str | None:
    """Return why a text with `{tenant}` is no pattern; None if it is one."""
    if pattern.count(TENANT) != 1 or _OTHERS.search(pattern):
        return "must have {tenant} once, and no other placeholder"
    try:
        parts = urlsplit(pattern)
    except ValueError:
        parts = urlsplit("")
    if parts.scheme not in ("http", "https") or "@" in parts.netloc or parts.query or parts.fragment:
        return "must be an http or https URL without credentials and query, because of {tenant}"
    host, _, port = parts.netloc.partition(":")
    if TENANT in parts.path.split("/"):
        return None
    labels = host.split(".")
    if TENANT not in labels or TENANT in port:
        return "must have {tenant} as a whole segment of its path, or as one label of its host"
    below = labels[labels.index(TENANT) + 1 :]
    if len(below) < 2 and below != ["localhost"]:
        return "must have at least two labels after {tenant} in its host, or any domain could be an issuer"
    if len(below) == 2 and below[0] in _REGISTRIES and len(below[1]) == 2:
        return f"must have a domain after {{tenant}}, and {'.'.join(below)} is none: anyone can register one"
    return None


class IssuerPattern:
    """A pattern that `mistake_in` has no objection to."""

    def __init__(self, pattern: str) -> None:
        before, _, after = pattern.partition(TENANT)
        in_host = before.count("/") == 2
        self._regex = re.compile(
            re.escape(before) + f"({_LABEL if in_host else _SEGMENT})" + re.escape(after)
        )
        self._before, self._after = before, after

    def tenant_of(self, iss: str) -> str | None:
        """Return the tenant of an `iss`; None if the pattern does not match it as a whole."""
        match = self._regex.fullmatch(iss)
        return None if match is None else match[1]

    def iss_of(self, tenant: str) -> str | None:
        """Return the `iss` of a tenant; None for a text that is no tenant."""
        iss = f"{self._before}{tenant}{self._after}"
        return iss if self.tenant_of(iss) == tenant else None


class IssuerNames(Mapping[str, str]):
    """The configured issuers by name, each with its `iss` or pattern.

    The realms of patterns are found, too, each with its `iss`, but not listed.
    """

    def __init__(self, issuers: Mapping[str, str]) -> None:
        self._issuers = dict(issuers)
        self._names: dict[str, list[str]] = {}
        for name, iss in self._issuers.items():
            self._names.setdefault(iss, []).append(name)
        self._patterns = {name: IssuerPattern(iss) for name, iss in self._issuers.items() if is_pattern(iss)}

    def __getitem__(self, name: str) -> str:
        iss = self._issuers.get(name) or self._iss_of(name)
        if iss is None:
            raise KeyError(name)
        return iss

    def __iter__(self) -> Iterator[str]:
        return iter(self._issuers)

    def __len__(self) -> int:
        return len(self._issuers)

    def names_of(self, iss: str) -> list[str]:
        """Return the names and realms that an `iss` may have here: that of its tokens comes first."""
        names = self._names.get(iss, [])
        realms = (
            f"{name}/{tenant}"
            for name, pattern in self._patterns.items()
            if (tenant := pattern.tenant_of(iss)) is not None
        )
        return [*names, *realms]

    def name_of(self, iss: str) -> str | None:
        """Return the name or realm of an `iss`; None if no configured issuer has it."""
        return next(iter(self.names_of(iss)), None)

    @property
    def by_iss(self) -> Mapping[str, str]:
        """Each `iss` with its name or realm."""
        return _NamesByIss(self)

    def find(self, text: str) -> tuple[str, str] | None:
        """Return the name or realm of an issuer and its `iss` or pattern, given by either."""
        name = text if text in self else self.name_of(text)
        return None if name is None else (name, self[name])

    def _iss_of(self, realm: str) -> str | None:
        name, slash, tenant = realm.partition("/")
        pattern = self._patterns.get(name)
        return pattern.iss_of(tenant) if slash and pattern is not None else None


class _NamesByIss(Mapping[str, str]):
    def __init__(self, names: IssuerNames) -> None:
        self._names = names

    def __getitem__(self, iss: str) -> str:
        name = self._names.name_of(iss)
        if name is None:
            raise KeyError(iss)
        return name

    def __iter__(self) -> Iterator[str]:
        return iter(self._names.values())

    def __len__(self) -> int:
        return len(self._names)


class IssuerTable:
    """The configured issuers by `iss`; for a pattern, the issuer of each tenant."""

    def __init__(self, issuers: Iterable[Issuer]) -> None:
        self._exact: dict[str, Issuer] = {}
        self._patterns: list[tuple[IssuerPattern, Issuer]] = []
        self._tenants: LRU[str, Issuer] = LRU(MAX_TENANTS)
        for issuer in issuers:
            if is_pattern(issuer.issuer):
                self._patterns.append((IssuerPattern(issuer.issuer), issuer))
            else:
                self._exact[issuer.issuer] = issuer

    def find(self, iss: str) -> Issuer | None:
        """Return the issuer whose tokens have this `iss`, with its tenant if it has one."""
        issuer = self._exact.get(iss)
        if issuer is not None or not self._patterns:
            return issuer
        issuer = self._tenants.get(iss)
        if issuer is None:
            issuer = self._match(iss)
            if issuer is not None:
                self._tenants.put(iss, issuer)
        return issuer

    def _match(self, iss: str) -> Issuer | None:
        for pattern, issuer in self._patterns:
            tenant = pattern.tenant_of(iss)
            if tenant is not None and (issuer.tenants == "any" or tenant in (issuer.tenants or ())):
                expect = {path: named(values, tenant) for path, values in issuer.expect.items()}
                return replace(issuer, issuer=iss, tenant=tenant, expect=expect)
        return None


def named(values: tuple[Scalar, ...], tenant: str) -> tuple[Scalar, ...]:
    """Return the accepted values of a claim with the tenant's name in the place of `{tenant}`."""
    return tuple(each.replace(TENANT, tenant) if isinstance(each, str) else each for each in values)
