"""What an expression reads, what it is worth, and what is wrong with it: before it is ever evaluated.

An expression that may be evaluated takes a bounded time: it loops over what the token, the user or the
request has, which `expression` bounds, and never in a loop over such things. The pattern of a `matches`
stands in the expression, so that no client chooses it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from gateway.conditions import engine
from gateway.conditions.effort import Effort
from gateway.conditions.faults import Fault
from gateway.conditions.syntax import NotCel, parse
from gateway.conditions.type_check import TypeCheck
from gateway.conditions.words import DYN, Kind


@dataclass(frozen=True, slots=True)
class Analysis:
    """What is known of an expression without evaluating it."""

    text: str
    faults: tuple[Fault, ...]
    kind: Kind = DYN
    """What it is worth."""
    reads: tuple[tuple[str, ...], ...] = ()
    """Each path that it reads, such as `("user", "attributes", "plan")`, in its order."""
    guarded: frozenset[tuple[str, ...]] = frozenset()
    """The paths that it also asks for with has() or `in`, so that they may be missing."""
    places: Mapping[tuple[str, ...], int] = field(default_factory=dict)
    """Where each path is read first."""
    odd: tuple[int, Kind] | None = None
    """The first value that it may have and that is never true or false, with its place."""
    effort: Effort = field(default_factory=Effort)
    program: str = ""
    """What is compiled: its text, with patterns as the library reads them."""

    @property
    def roots(self) -> frozenset[str]:
        return frozenset(path[0] for path in self.reads)

    @property
    def per_request(self) -> bool:
        """Whether it depends on more than token and user, so that its verdict is not remembered."""
        return not self.roots.isdisjoint({"request", "client", "now"})

    def fields(self, *root: str) -> frozenset[str]:
        """Return the names that it reads below a path."""
        return frozenset(path[len(root)] for path in self.reads if path[: len(root)] == root != path)


@lru_cache(maxsize=256)
def analysed(text: str) -> Analysis:
    """Return what is known of an expression. Its mistakes are in the order of the text."""
    try:
        tree = parse(text)
    except NotCel as error:
        return Analysis(text, (Fault(error.at, error.message, error.hint),))
    check = TypeCheck(text)
    kind = check.kind(tree, {})
    faults = check.faults
    if not faults:
        refused = engine.refusal(text, frozenset(path[0] for path in check.reads), check.variables)
        faults = [] if refused is None else [Fault(engine.place_of_refusal(text), refused)]
    if not faults and not check.reads_at and (refused := engine.failure(text)) is not None:
        faults = [Fault(0, f"has no value: {refused}")]
    places: dict[tuple[str, ...], int] = {}
    for path, at in check.reads_at:
        places.setdefault(path, at)
    return Analysis(
        text, tuple(sorted(faults, key=lambda fault: fault.at)), kind, tuple(dict.fromkeys(check.reads)),
        frozenset(check.guarded), places, check.odd(tree), check.effort, check.program,
    )  # fmt: skip
