"""Operations of a description, and what they ask of a token; paths of which one request may be both."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

METHODS: Final = ("get", "put", "post", "delete", "options", "head", "patch", "trace", "query")
Auth: TypeAlias = Literal["required", "optional", "none"]
_STRICTNESS: Final[tuple[Auth, ...]] = ("none", "optional", "required")
_MOST_CHOICES: Final = 200
_MOST_OVERLAPS: Final = 500


class NotOpenApi(Exception):
    """A description that cannot be read."""


@dataclass(frozen=True, slots=True)
class Security:
    """What an operation asks of a token."""

    auth: Auth = "required"
    alternatives: tuple[frozenset[str], ...] = ()
    """Sets of scopes, of which the token must have one; empty: none is needed."""

    def and_also(self, other: "Security") -> "Security":
        """Return what asks for both."""
        auth = max(self.auth, other.auth, key=_STRICTNESS.index)
        if not self.alternatives or not other.alternatives:
            return Security(auth, self.alternatives or other.alternatives)
        if len(self.alternatives) * len(other.alternatives) > _MOST_CHOICES:
            raise NotOpenApi(f"has more than {_MOST_CHOICES} sets of scopes to choose from for one route")
        both = (one | another for one in self.alternatives for another in other.alternatives)
        return Security(auth, tuple(smallest(both)))

    @property
    def scopes(self) -> frozenset[str]:
        """The scopes that are needed in any case, if there is one set."""
        return self.alternatives[0] if len(self.alternatives) == 1 else frozenset()

    @property
    def condition(self) -> str | None:
        """The choice between several sets, as a condition; None: there is no choice."""
        if len(self.alternatives) < 2:
            return None
        sets = [
            [f"{_quoted(scope)} in claims.scopes" for scope in sorted(each)] for each in self.alternatives
        ]
        parts = [" && ".join(each) if len(each) == 1 else f"({' && '.join(each)})" for each in sets]
        return " || ".join(parts)


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one path."""

    method: str
    """In capitals."""
    template: str
    """The path as the description has it, below the path of its server."""
    pattern: str
    """The path as a route matches it."""
    security: Security


def ordered(operations: Iterable[Operation]) -> list[Operation]:
    """Order operations so that names come before parameters: the first route that matches wins."""
    return sorted(operations, key=_specificity)


def overlaps(operations: Iterable[Operation]) -> Iterator[tuple[Operation, Operation, Operation]]:
    """Yield pairs of operations that one request may be, and the operation for those requests.

    Of `/a/{b}` and `/{c}/d`, none is more specific, and `/a/d` is both. It must meet what both ask for.
    Raises `NotOpenApi` if there are too many.
    """
    known: dict[tuple[str, int], list[Operation]] = {}
    for each in operations:
        known.setdefault((each.method, each.pattern.count("/")), []).append(each)
    found = 0
    for alike in known.values():
        patterns, parameters = {each.pattern for each in alike}, [_parameters(each) for each in alike]
        # What is yielded may overlap with others in turn.
        for place, one in enumerate(alike):
            own = parameters[place]
            for other, others in zip(alike[:place], parameters, strict=False):
                # Each must have a name where the other has a parameter, or one is more specific.
                if not (own & ~others and others & ~own) or one.security == other.security:
                    continue
                if (both := _both(one, other)) is None:
                    continue
                if both.pattern not in patterns:
                    found += 1
                    if found > _MOST_OVERLAPS:
                        raise NotOpenApi(f"has more than {_MOST_OVERLAPS} paths that overlap")
                    patterns.add(both.pattern)
                    alike.append(both)
                    parameters.append(_parameters(both))
                    yield other, one, both


def _parameters(operation: Operation) -> int:
    """Return the places of the parameters in a path, a bit for each."""
    return sum(1 << place for place, each in enumerate(operation.pattern.split("/")) if each == "*")


def _both(one: Operation, other: Operation) -> Operation | None:
    """Return the operation for the requests of both; None if there are none."""
    pairs = list(zip(one.pattern.split("/"), other.pattern.split("/"), strict=True))
    if any(a != b and "*" not in (a, b) for a, b in pairs):
        return None
    pattern = "/".join(b if a == "*" else a for a, b in pairs)
    return Operation(one.method, pattern, pattern, one.security.and_also(other.security))


def smallest(sets: Iterable[frozenset[str]]) -> Iterator[frozenset[str]]:
    """Return the sets without those that contain another: who has these, has the other."""
    distinct = list(dict.fromkeys(sets))
    if frozenset() in distinct:
        return iter(())
    return (each for each in distinct if not any(other < each for other in distinct))


def _specificity(operation: Operation) -> tuple[list[tuple[bool, str]], int]:
    segments = operation.pattern.split("/")[1:]
    return [(each == "*", each) for each in segments], METHODS.index(operation.method.lower())


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
