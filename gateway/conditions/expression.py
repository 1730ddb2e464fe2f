"""Expressions as they are evaluated: compiled once, with what they read of a token, a user and a request.

An expression gets only the fields that it reads. A field that is missing makes an expression fail, unless it
asks for it first: `has(claims.plan)`. Without a user, `user` has no fields; without a token, `claims` has
none.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from gateway.conditions import engine
from gateway.conditions.analysis import Analysis, analysed
from gateway.conditions.engine import EvaluationFailed
from gateway.core.conditions import Missing, Reading
from gateway.core.model import JSON, Claims, Request, Route, User
from gateway.core.reasons import CONDITION_FAILED, CONDITION_NOT_MET, Denial
from gateway.core.requests.asked import Asked, asked

if TYPE_CHECKING:
    from cel import Context, Program

MOST_CHARACTERS: Final = 64 * 1024
"""The most characters of texts that it reads."""
_REQUEST_FIELDS: Final = ("method", "path", "host", "query")


class NotUsable(ValueError):
    """An expression with mistakes, which `analysis` has found."""

    def __init__(self, analysis: Analysis) -> None:
        super().__init__("; ".join(fault.message for fault in analysis.faults))


@dataclass(frozen=True)
class Expression:
    """A compiled expression. Two of the same text are equal."""

    text: str
    clock: Callable[[], float] | None = field(default=None, compare=False)
    """Unix seconds, for `now`."""
    analysis: Analysis = field(init=False, compare=False, repr=False)
    claims_read: frozenset[str] = field(init=False, compare=False, repr=False)
    """The names of claims that it needs of a token's payload."""
    per_request: bool = field(init=False, compare=False, repr=False)
    reads_now: bool = field(init=False, compare=False, repr=False)
    reads_target: bool = field(init=False, compare=False, repr=False)
    _program: "Program" = field(init=False, compare=False, repr=False)
    _users: tuple[str, ...] = field(init=False, compare=False, repr=False)
    _claims: tuple[str, ...] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        analysis = analysed(self.text)
        if analysis.faults:
            raise NotUsable(analysis)
        given: Mapping[str, object] = {
            "analysis": analysis,
            "claims_read": analysis.fields("claims") - _KNOWN.keys(),
            "per_request": analysis.per_request,
            "reads_now": "now" in analysis.roots,
            "reads_target": not analysis.fields("request").isdisjoint({"path", "host", "query"}),
            "_program": engine.program(analysis.program),
            "_users": tuple(sorted(analysis.fields("user"))),
            "_claims": tuple(sorted(analysis.fields("claims"))),
        }
        for name, value in given.items():
            object.__setattr__(self, name, value)

    @property
    def reads(self) -> tuple[tuple[str, ...], ...]:
        """Each path that it reads."""
        return self.analysis.reads

    # Values ------------------------------------------------------------------------------------------

    def value(self, claims: Claims | None, user: User | None) -> object:
        """Return what it is worth, if it reads token and user alone. Raises `EvaluationFailed`."""
        return engine.evaluate(self._program, engine.context(self._known(claims, user)))

    def header(self, claims: Claims, user: User | None) -> JSON:
        """Return its value for a header; None if it has none, or one that no header can carry."""
        try:
            value = self.value(claims, user)
        except EvaluationFailed:
            return None
        if isinstance(value, datetime):
            return value.isoformat().replace("+00:00", "Z")
        return value if isinstance(value, str | int | float | list) else None

    def check(self, claims: Claims | None, user: User | None) -> None:
        """Raise a `Denial` unless it holds. It reads token and user alone."""
        try:
            self.judge(engine.context(self._known(claims, user)))
        except EvaluationFailed as error:
            raise self.failed(error) from error

    def prepare(self, claims: Claims | None, user: User | None) -> "Prepared":
        """Return what evaluates it for each request of this token and user."""
        try:
            known = engine.context(self._known(claims, user))
        except EvaluationFailed as error:
            return Prepared(self, None, str(error))
        return Prepared(self, known)

    def judge(self, variables: "Context") -> None:
        """Raise a `Denial` unless it is true, or `EvaluationFailed` if it has no value."""
        value = engine.evaluate(self._program, variables)
        if value is not True:
            if value is False:
                raise Denial(CONDITION_NOT_MET, f"`{self.text}` is false")
            raise EvaluationFailed("its value is not true or false")

    def failed(self, error: EvaluationFailed) -> Denial:
        """Return the denial of a request for which it has no value."""
        return Denial(CONDITION_FAILED, f"`{self.text}` has no value: {error}")

    # What it reads -------------------------------------------------------------------------------------

    def _known(self, claims: Claims | None, user: User | None) -> dict[str, object]:
        """Return `user` and `claims`, with the fields that it reads."""
        known: dict[str, object] = {}
        budget = _Budget(self.analysis.effort.most_items)
        if self._users:
            known["user"] = {} if user is None else self._user(user, budget)
        if self._claims:
            known["claims"] = {} if claims is None else self._of_token(claims, budget)
        return known

    def _user(self, user: User, budget: "_Budget") -> dict[str, object]:
        fields: dict[str, object] = {}
        for name in self._users:
            value: object = getattr(user, _USER_FIELDS.get(name, name))
            if name == "attributes":
                wanted = self.analysis.fields("user", "attributes")
                whole = ("user", "attributes") in self.analysis.reads
                value = {key: each for key, each in user.attributes.items() if whole or key in wanted}
            if value is not None:
                fields[name] = budget.spend(value)
        return fields

    def _of_token(self, claims: Claims, budget: "_Budget") -> dict[str, object]:
        fields: dict[str, object] = {}
        for name in self._claims:
            if name in _KNOWN:
                value: object = getattr(claims, _KNOWN[name])
                if value is not None:
                    fields[name] = budget.spend(value)
            elif name in claims.payload:
                fields[name] = budget.spend(claims.payload[name])
        return fields

    def of_request(self, asked: Asked) -> dict[str, object]:
        """Return `request` and `client`, with the fields that it reads."""
        wanted = self.analysis.fields("request")
        known: dict[str, object] = {}
        if wanted:
            fields: dict[str, object] = {
                name: getattr(asked, name) for name in _REQUEST_FIELDS if name in wanted
            }
            if "headers" in wanted:
                names = self.analysis.fields("request", "headers")
                fields["headers"] = asked.named(names)
            known["request"] = fields
        if "client" in self.analysis.roots:
            known["client"] = {"ip": asked.client}
        return known

    def now(self) -> datetime:
        if self.clock is None:
            raise EvaluationFailed("there is no clock")
        return datetime.fromtimestamp(self.clock(), UTC)

    # For explanations ----------------------------------------------------------------------------------

    def readings(self, claims: Claims | None, user: User | None, asked: Asked | None) -> tuple[Reading, ...]:
        """Return each path that it reads, with its value, in its order."""
        return tuple(
            Reading(".".join(path), path[0], self._reading(path, claims, user, asked))
            for path in self.analysis.reads
        )

    def _reading(
        self, path: tuple[str, ...], claims: Claims | None, user: User | None, asked: Asked | None
    ) -> "JSON | Missing":
        root = path[0]
        if root == "now":
            return self.now().isoformat(timespec="seconds")
        try:
            known = self._known(claims, user) | ({} if asked is None else self.of_request(asked))
        except EvaluationFailed as error:
            return str(error)
        value: object = known
        for name in path:
            value = value.get(name, Missing.MISSING) if isinstance(value, Mapping) else Missing.MISSING
            if value is Missing.MISSING:
                return Missing.MISSING
        return value  # type: ignore[return-value]  # what was put in: JSON


class Prepared:
    """A condition with its token and user, which is evaluated for each request.

    The same request, with the same head from the same client, is not read again.
    """

    __slots__ = ("_client", "_condition", "_context", "_error", "_recurring")

    def __init__(self, condition: Expression, context: "Context | None", error: str = "") -> None:
        self._condition = condition
        self._context = context
        self._error = error
        self._recurring: object | None = None
        self._client = ""

    def __call__(self, request: Request, route: Route) -> None:
        """Raise a `Denial` unless it holds for a request."""
        condition, context = self._condition, self._context
        try:
            if context is None:
                raise EvaluationFailed(self._error)
            recurring = request.recurring
            if recurring is None or recurring is not self._recurring or request.client != self._client:
                self._recurring = None
                read = asked(request, route, target=condition.reads_target)
                for name, value in condition.of_request(read).items():
                    engine.put(context, name, value)
                self._recurring, self._client = recurring, request.client
            if condition.reads_now:
                engine.put(context, "now", condition.now())
            condition.judge(context)
        except EvaluationFailed as error:
            raise condition.failed(error) from error


class _Budget:
    """What an evaluation may still read."""

    __slots__ = ("_characters", "_items", "_most")

    def __init__(self, most: int) -> None:
        self._items = self._most = most
        self._characters = MOST_CHARACTERS

    def spend(self, value: object) -> object:
        """Return a value, with lists where the library needs them. Raises `EvaluationFailed`."""
        if isinstance(value, str):
            self._characters -= len(value)
        elif isinstance(value, list | tuple):
            self._items -= len(value)
            self._check()
            value = [self.spend(item) for item in value]
        elif isinstance(value, Mapping):
            self._items -= len(value)
            self._check()
            value = {str(key): self.spend(item) for key, item in value.items()}
        self._check()
        return value

    def _check(self) -> None:
        if self._items < 0 or self._characters < 0:
            raise EvaluationFailed(f"it reads more than {self._most} items or {MOST_CHARACTERS} characters")


_USER_FIELDS: Final = {"name": "display_name"}
_KNOWN: Final = {
    "iss": "issuer", "sub": "subject", "jti": "jti", "tenant": "tenant", "aud": "audiences",
    "scopes": "scopes", "roles": "roles",
}  # fmt: skip
"""Claims that `Claims` has as fields."""
