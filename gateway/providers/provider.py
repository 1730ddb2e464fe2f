"""What is known of one provider: its parameters, its preset, and the marks of its tokens.

A preset fills in settings of an issuer. It is plain data in the words of the configuration, and is checked as
if it stood in the file.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, TypeAlias

from gateway.core.model import JSON

IssuerSettings: TypeAlias = dict[str, JSON]
"""Settings of one entry of `issuers`, as in the file."""
Given: TypeAlias = Mapping[str, JSON]
"""Parameters, each a text or a list of texts, and the settings `issuer`, `audiences` and `tenants`."""


class Kind(StrEnum):
    """What a token is for. The value is what programs read."""

    ACCESS = "access"
    ID = "id"
    REFRESH = "refresh"
    SESSION = "session"
    WORKLOAD = "workload"
    LOGOUT = "logout"
    EVENT = "event"
    CUSTOM = "custom"
    API_KEY = "api_key"
    ENCRYPTED = "encrypted"
    OPAQUE = "opaque"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Parameter:
    """A word that a preset takes beside it."""

    name: str
    meaning: str
    example: str
    """One value that fits."""
    what: str = "text without spaces"
    """What one value is, after `must be`."""
    pattern: str = r"\S+"
    """A regular expression that one value matches as a whole."""
    many: bool = False
    """Whether it is a list. One value may then be written under `singular`."""
    singular: str | None = None
    default: str | None = None

    def fits(self, value: object) -> bool:
        """Tell whether one value may be given."""
        return isinstance(value, str) and re.fullmatch(self.pattern, value) is not None


@dataclass(frozen=True, slots=True)
class Unverified:
    """A JWT that is taken apart. Nothing in it has been verified."""

    header: Mapping[str, JSON]
    payload: Mapping[str, JSON]

    def text(self, name: str) -> str | None:
        """Return a claim that is a text and not empty."""
        value = self.payload.get(name)
        return value if isinstance(value, str) and value else None

    @property
    def audiences(self) -> list[str]:
        """The values of `aud` that are texts."""
        value = self.payload.get("aud")
        return [each for each in (value if isinstance(value, list) else [value]) if isinstance(each, str)]


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with a preset or its parameters."""

    where: tuple[str | int, ...]
    """The place below the issuer's entry; empty for the entry itself."""
    message: str
    hint: str | None


@dataclass(frozen=True, slots=True)
class Recognition:
    """A token that carries a provider's marks."""

    parameters: IssuerSettings
    """The parameters and settings beside `preset` with which tokens such as this one are accepted."""
    kind: Kind | None = None
    """None: nothing of this provider's own says; the marks of all providers do."""
    notes: tuple[str, ...] = ()
    """What to know of this token."""


@dataclass(frozen=True, slots=True)
class Example:
    """One way to use a preset."""

    title: str
    parameters: IssuerSettings


@dataclass(frozen=True, slots=True)
class Provider:
    """A provider, and its preset."""

    name: str
    """What stands after `preset:`."""
    title: str
    parameters: tuple[Parameter, ...]
    needs: tuple[tuple[str, ...], ...]
    """Of each of these, one at least must be written: parameters, or settings of the issuer."""
    settings: Callable[[Given], IssuerSettings]
    """Parameters that fit, all that are needed among them → the settings that the preset fills in."""
    recognise: Callable[[Unverified], Recognition | None]
    examples: tuple[Example, ...]
    quirks: tuple[str, ...]
    """What surprises with this provider's tokens: one sentence or two each."""
    console: tuple[str, ...]
    """Where in the provider's console to find or set what the preset needs."""
    client: str | None = None
    """The claim that names the client, if the preset expects one there."""
    mistakes: Callable[[Given], Iterable[Fault]] = lambda _: ()
    """What is wrong with parameters that fit, each by itself."""
    slash: bool | None = False
    """Whether each `iss` ends with a slash; None: some do."""
    open_to: str | None = None
    """Who gets tokens of its issuer, if all of its customers share that one."""
    prefixes: Mapping[str, tuple[Kind, str]] = field(default_factory=dict)
    """How tokens that are no JWT begin: what they are, and what to say of them."""

    @property
    def words(self) -> frozenset[str]:
        """Every word that the preset takes."""
        both = ((each.name, each.singular) for each in self.parameters)
        return frozenset(word for pair in both for word in pair if word is not None)


HOST: Final = r"[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?(?::[0-9]{1,5})?"
"""A host name as it stands in an `iss`, with or without a port."""
A_HOST: Final = "a host name, in lower case"


def clients(claim: str) -> Parameter:
    """Return the parameter for the clients whose tokens are accepted, by the claim that names them."""
    return Parameter(
        "client_ids",
        f"The clients whose tokens are accepted: `{claim}` must be one of them.",
        "web",
        "a client's ID, without spaces and wildcards",
        r"[^\s*{}]+",
        many=True,
        singular="client_id",
    )


def one_or_many(values: JSON) -> JSON:
    """Return the only entry of a list alone: it reads better."""
    return values[0] if isinstance(values, list) and len(values) == 1 else values


def expected(**values: JSON) -> IssuerSettings:
    """Return an `expect` of the claims that have a value."""
    return {name: one_or_many(value) for name, value in values.items() if value is not None}
