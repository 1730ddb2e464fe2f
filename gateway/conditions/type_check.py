"""The type check of an expression: one pass over its tree, which collects its mistakes and what it reads."""

from collections.abc import Iterator, Mapping
from typing import Final

from gateway.conditions import engine, patterns
from gateway.conditions.constants import is_written, is_zero, joined, never, never_in_time, never_there, twice
from gateway.conditions.effort import Effort
from gateway.conditions.faults import Fault, unknown_field, unknown_function, unknown_name, unreadable_header
from gateway.conditions.kinds import ORDERED, TOTAL, converted, differ, fits, hint_of
from gateway.conditions.syntax import (
    Binary,
    Call,
    Choice,
    Constant,
    Entries,
    Index,
    Items,
    Loop,
    Name,
    Node,
    Select,
    Unary,
    start_of,
)
from gateway.conditions.words import (
    BOOL,
    BYTES,
    DOUBLE,
    DYN,
    FUNCTIONS,
    INT,
    MAP,
    METHODS,
    NULL,
    NUMBER,
    NUMBERS,
    ROOTS,
    STRING,
    TIMESTAMP,
    UINT,
    Kind,
    list_of,
)

_EXAMPLES: Final[Mapping[str, str]] = {
    "timestamp": 'write timestamp("2026-01-31T00:00:00Z")',
    "duration": 'write duration("1h30m"); a day is 24h',
}
_HEADERS: Final = Kind("headers")
_MOST_TURNS: Final = 1000
"""Turns of loops over written lists, in one another."""
_FIXED: Final[Mapping[str, Kind]] = {
    "bool": BOOL, "int": INT, "uint": UINT, "double": DOUBLE, "string": STRING, "bytes": BYTES, "null": NULL,
}  # fmt: skip


class TypeCheck:
    """One pass over a tree. `kind` begins it; then the other attributes tell what was found."""

    def __init__(self, text: str) -> None:
        self._text = text
        self.faults: list[Fault] = []
        self.reads_at: list[tuple[tuple[str, ...], int]] = []
        """Each path that is read, with its place."""
        self.guarded: set[tuple[str, ...]] = set()
        """The paths that are asked for with has() or `in`."""
        self.variables: set[str] = set()
        """The names that loops give."""
        self._loops = 0
        """Loops around this place, over what is not written in the expression."""
        self._turns = 1
        """How often this place is evaluated, by the loops around it over what is written."""
        self.effort = Effort()
        self._copied = False
        """Whether what is read here becomes part of each item that a loop makes."""
        self._kinds: dict[int, Kind] = {}
        """What each part is worth, by its `id`."""
        self._patterns: list[tuple[int, str, str]] = []
        """Of patterns that are rewritten: the place, what is written there, and what is compiled."""

    @property
    def reads(self) -> Iterator[tuple[str, ...]]:
        return (path for path, _ in self.reads_at)

    def _fault(self, at: int, message: str, hint: str | None = None) -> Kind:
        return self._found(Fault(at, message, hint))

    def _found(self, fault: Fault | None) -> Kind:
        if fault is not None:
            self.faults.append(fault)
        return DYN

    @property
    def program(self) -> str:
        """The text, with patterns as the library reads them."""
        text = self._text
        for at, written, compiled in sorted(self._patterns, reverse=True):
            text = text[:at] + compiled + text[at + len(written) :]
        return text

    def _worth(self, node: Node) -> Iterator[Kind]:
        """Yield each kind that a part may be worth."""
        if isinstance(node, Choice):
            yield from (*self._worth(node.yes), *self._worth(node.no))
        else:
            yield self._kinds[id(node)]

    def odd(self, tree: Node, wanted: Kind = BOOL) -> tuple[int, Kind] | None:
        """Return the first value that a part may have and that is never of a kind, with its place."""
        if isinstance(tree, Choice):
            return self.odd(tree.yes, wanted) or self.odd(tree.no, wanted)
        kind = self._kinds.get(id(tree), DYN)
        return None if kind in {wanted, DYN} else (start_of(tree), kind)

    def kind(self, node: Node, scope: Mapping[str, Kind]) -> Kind:
        """Return what a part is worth, and collect what is wrong with it."""
        found = self._kinds[id(node)] = self._kind(node, scope)
        return found

    def _kind(self, node: Node, scope: Mapping[str, Kind]) -> Kind:
        match node:
            case Constant():
                return self._constant(node)
            case Name() | Select() | Index():
                return self._read(node, scope)
            case Call():
                return self._call(node, scope)
            case Loop():
                return self._loop(node, scope)
            case Unary():
                return self._unary(node, scope)
            case Binary():
                return self._binary(node, scope)
            case Choice():
                self._wants(node.condition, BOOL, scope, "before `?`")
                yes, no = self.kind(node.yes, scope), self.kind(node.no, scope)
                return yes if yes == no else DYN
            case Items():
                kinds = {self.kind(item, scope) for item in node.items}
                return list_of(kinds.pop() if len(kinds) == 1 else DYN)
            case Entries():
                for item in node.items:
                    self.kind(item, scope)
                for key in twice(node):
                    self._fault(key.at, f"the key {key.text} is given twice")
                return MAP

    # Constants ---------------------------------------------------------------------------------------

    def _constant(self, node: Constant, sign: str = "") -> Kind:
        if node.kind not in {"bool", "null"}:
            refused = engine.refusal(sign + node.text)
            if refused is not None:
                return self._fault(node.at, f"{sign}{node.text[:40]} cannot be read: {refused}")
        return _FIXED[node.kind]

    # Fields ------------------------------------------------------------------------------------------

    def _path(self, node: Node, scope: Mapping[str, Kind]) -> tuple[str, ...] | None:
        """Return the path that a part reads from a root; None if it reads something else."""
        match node:
            case Name(name=name):
                return (name,) if name in ROOTS and name not in scope else None
            case Select(operand=operand, name=name):
                above = self._path(operand, scope)
                return None if above is None else (*above, name)
            case Index(operand=operand, key=Constant(kind="string") as key):
                above = self._path(operand, scope)
                member = engine.constant(key.text)
                return None if above is None or not isinstance(member, str) else (*above, member)
            case _:
                return None

    def _read(self, node: Name | Select | Index, scope: Mapping[str, Kind]) -> Kind:
        path = self._path(node, scope)
        if path is not None:
            return self._of_root(path, node)
        if isinstance(node, Name):
            if node.name in scope:
                return scope[node.name]
            return self._found(unknown_name(node))
        operand = self.kind(node.operand, scope)
        if (why := never_there(node)) is not None:
            return self._fault(node.at, why)
        if isinstance(node, Select):
            if operand not in {DYN, MAP}:
                return self._fault(node.at, f"{operand} has no fields, so there is no `{node.name}`")
            return BOOL if node.test else DYN
        key = self.kind(node.key, scope)
        if operand.name == "list":
            if key not in {INT, UINT, DYN}:
                return self._fault(node.at, f"the place in a list is a whole number, and not {key}")
            return operand.item or DYN
        if operand not in {DYN, MAP}:
            return self._fault(node.at, f"{operand} has no items")
        return DYN

    def _of_root(self, path: tuple[str, ...], node: Name | Select | Index) -> Kind:
        """Return the kind of a path, and note that it is read."""
        at, test = node.at, isinstance(node, Select) and node.test
        root, *rest = path
        fields = ROOTS[root]
        if fields is None:
            self.reads_at.append(((root,), at))
            return (
                TIMESTAMP if not rest else self._fault(at, "an instant has no fields", "write now.getHours()")
            )
        if not rest:
            example = {"claims": "claims.scopes", "client": "client.ip"}.get(
                root, f"{root}.{next(iter(fields))}"
            )
            return self._fault(at, f"`{root}` must be read by name", f"write {example}")
        name, deeper = rest[0], rest[1:]
        if root != "claims" and name not in fields:
            return self._found(unknown_field(root, name, at))
        kind, kept = fields.get(name, DYN), path[:2]
        if kind == _HEADERS and not deeper:
            return self._fault(at, "headers must be read by name", 'write request.headers["x-name"]')
        if kind in {_HEADERS, MAP} and deeper:
            if kind == _HEADERS and (fault := unreadable_header(deeper[0], at)) is not None:
                return self._found(fault)
            kind, kept = STRING if kind == _HEADERS else DYN, path[:3]
        if len(path) > len(kept) and kind != DYN:
            return self._fault(at, f"`{'.'.join(kept)}` is {kind}, and has no `{path[len(kept)]}`")
        self.reads_at.append((kept, at))
        if self._loops and (kind in {DYN, MAP} or kind.item or (self._copied and kind == STRING)):
            self.effort.grows(3 if self._copied else 2)
        if test:
            self.guarded.add(path)
            return BOOL
        return kind if path == kept else DYN

    # Operators ---------------------------------------------------------------------------------------

    def _wants(self, node: Node, wanted: Kind, scope: Mapping[str, Kind], where: str) -> None:
        self.kind(node, scope)
        if (found := self.odd(node, wanted)) is not None:
            at, kind = found
            self._fault(at, f"{kind} stands {where}, where {wanted} must be")

    def _unary(self, node: Unary, scope: Mapping[str, Kind]) -> Kind:
        if node.operator == "!":
            self._wants(node.operand, BOOL, scope, "behind `!`")
            return BOOL
        operand = node.operand
        if isinstance(operand, Constant) and operand.kind == "int":
            # The least number has no positive one (CEL, "Numeric Values").
            return self._constant(operand, "-")
        kind = self.kind(operand, scope)
        if kind not in {INT, DOUBLE, NUMBER, DYN}:
            return self._fault(node.at, f"`-` needs a number, and not {kind}")
        return kind

    def _binary(self, node: Binary, scope: Mapping[str, Kind]) -> Kind:
        operator = node.operator
        if operator in {"&&", "||"}:
            self._wants(node.left, BOOL, scope, f"before `{operator}`")
            self._wants(node.right, BOOL, scope, f"behind `{operator}`")
            return BOOL
        if operator == "in":
            return self._in(node, scope)
        left, right = self._operands(node, scope)
        if operator in {"==", "!="}:
            self._compared(node, left, right, scope)
            return BOOL
        if operator in {"<", "<=", ">", ">="}:
            alike = left == right or {left, right} <= NUMBERS
            unordered = {left, right} - ORDERED - {DYN}
            if DYN not in {left, right} and (unordered or not alike):
                self._fault(node.at, f"{left} and {right} have no order", converted(left, right))
            elif unordered:
                self._fault(node.at, f"{unordered.pop()} has no order")
            return BOOL
        if operator in {"/", "%"} and is_zero(node.right):
            return self._fault(start_of(node.right), "divides by zero")
        if NUMBER in {left, right} and {left, right} <= {*NUMBERS, DYN}:
            return NUMBER
        if DYN in {left, right}:
            return DYN if left == right else (left if right == DYN else right)
        if operator == "+" and left.name == right.name == "list":
            return left if left == right else list_of(DYN)
        total = TOTAL.get((left, operator, right))
        if total is None:
            return self._fault(
                node.at, f"`{operator}` does not fit {left} and {right}", converted(left, right)
            )
        return total

    def _operands(self, node: Binary, scope: Mapping[str, Kind]) -> tuple[Kind, Kind]:
        """Return what both sides are worth. `+` makes texts and lists of them, for each turn of a loop."""
        copied = self._copied
        if node.operator == "+" and self._loops and not (is_written(node.left) or is_written(node.right)):
            self._copied = True
        kinds = self.kind(node.left, scope), self.kind(node.right, scope)
        self._copied = copied
        return kinds

    def _compared(self, node: Binary, left: Kind, right: Kind, scope: Mapping[str, Kind]) -> None:
        both = [(one, other) for one in self._worth(node.left) for other in self._worth(node.right)]
        if all(differ(*pair) for pair in both):
            left, right = both[0]
            self._fault(
                node.at, f"{left} is never equal to {right}: they cannot be compared", converted(left, right)
            )
            return
        for listed, against in ((node.left, right), (node.right, left)):
            for item in listed.items if isinstance(listed, Items) and against.item is not None else ():
                if differ(kind := self._kinds[id(item)], against.item or DYN):
                    self._fault(start_of(item), f"{kind} is never among items that are {against.item}")
        for one, other in ((node.left, node.right), (node.right, node.left)):
            if isinstance(one, Constant):
                self._known_value(other, one, scope)

    def _in(self, node: Binary, scope: Mapping[str, Kind]) -> Kind:
        path = self._path(node.right, scope)
        if path in {("claims",), ("user",), ("request", "headers")}:
            if isinstance(node.left, Constant) and node.left.kind == "string":
                asked = Select(node.right, str(engine.constant(node.left.text)), node.left.at, test=True)
                return self._read(asked, scope)
            return self._fault(start_of(node.left), f"the name before `in {'.'.join(path)}` must be a text")
        left, right = self.kind(node.left, scope), self.kind(node.right, scope)
        if right.name not in {"list", "map", "dyn"}:
            hint = "write text.contains(part)" if right == STRING else None
            self._fault(node.at, f"`in` needs a list or a mapping, and not {right}", hint)
        elif right.item is not None and differ(left, right.item):
            self._fault(node.at, f"{left} is never among items that are {right.item}")
        elif isinstance(node.right, Items | Entries):
            step = 1 if isinstance(node.right, Items) else 2
            there = [self._kinds[id(item)] for item in node.right.items[::step]]
            if there and all(differ(left, kind) for kind in there):
                self._fault(node.at, f"{left} is never equal to one of these")
        if isinstance(node.right, Items):
            for item in node.right.items:
                if isinstance(item, Constant):
                    self._known_value(node.left, item, scope)
        return BOOL

    def _known_value(self, node: Node, constant: Constant, scope: Mapping[str, Kind]) -> None:
        """Find values that a field, or a part of an instant, never has."""
        value, path, why = engine.constant(constant.text), self._path(node, scope), None
        if path is not None and isinstance(value, str):
            why = never(path, value)
        elif isinstance(node, Call) and isinstance(value, int):
            why = never_in_time(node.function, value)
        if why is not None:
            self._fault(constant.at, *why)

    # Functions ---------------------------------------------------------------------------------------

    def _call(self, node: Call, scope: Mapping[str, Kind]) -> Kind:
        table = FUNCTIONS if node.target is None else METHODS
        function = table.get(node.function)
        arguments = node.arguments if node.target is None else (node.target, *node.arguments)
        kinds = [self.kind(argument, scope) for argument in arguments]
        if function is None:
            return self._found(unknown_function(node))
        if len(arguments) != len(function.takes):
            takes = len(function.takes) - (node.target is not None)
            number = f"{takes} argument{'' if takes == 1 else 's'}" if takes else "no argument"
            return self._fault(node.at, f"{node.function}() takes {number}")
        for argument, kind, fitting in zip(arguments, kinds, function.takes, strict=True):
            if not fits(kind, fitting):
                self._fault(start_of(argument), f"{node.function}() does not take {kind}", hint_of(function))
        if node.function == "matches":
            self._pattern(node.arguments[0])
        elif all(map(is_written, arguments)):
            written = self._text[node.start : node.end]
            if (refused := engine.failure(written)) is not None:
                told = refused.partition("Parsing Error")[0] or "it is none"
                hint = _EXAMPLES.get(node.function)
                self._fault(start_of(arguments[0]), f"{node.function}() cannot read this: {told}", hint)
        return function.returns

    def _pattern(self, pattern: Node) -> None:
        fault = patterns.fault_of(pattern)
        self._found(fault)
        if fault is None and isinstance(pattern, Constant):
            compiled = patterns.compiled(pattern)
            if compiled != pattern.text:
                self._patterns.append((pattern.at, pattern.text, compiled))

    def _loop(self, node: Loop, scope: Mapping[str, Kind]) -> Kind:
        items = self.kind(node.items, scope)
        if node.variable in ROOTS:
            return self._fault(node.at, f"`{node.variable}` has a meaning", "name the item otherwise")
        if items.name not in {"list", "map", "dyn"}:
            return self._fault(node.at, f"{node.function}() needs a list or a mapping, and not {items}")
        written = isinstance(node.items, Items)
        if not written and self._loops:
            self._fault(
                node.at,
                "is a loop in a loop, which could take very long",
                "write one of the lists out, or compare with `in`",
            )
        turns = len(node.items.items) if isinstance(node.items, Items) else 1
        if self._turns * turns > _MOST_TURNS:
            self._fault(node.at, "loops too often, together with those around it", "write shorter lists")
        if not written and node.function in {"filter", "map"}:
            self.effort.grows(2)
        self.effort.joined = max(self.effort.joined, joined(node.items))
        copied, self._copied = self._copied, node.function == "map"
        self._loops += not written
        self.effort.loops += not written
        self._turns *= max(1, turns)
        self.variables.add(node.variable)
        item = (items.item or DYN) if items.name == "list" else DYN
        inner = {**scope, node.variable: item}
        if node.function == "map":
            made = list_of(self.kind(node.body, inner))
        else:
            self._wants(node.body, BOOL, inner, f"in {node.function}()")
            made = items if node.function == "filter" else BOOL
        self._loops -= not written
        self._turns //= max(1, turns)
        self._copied = copied
        return made
