"""The grammar of CEL (https://github.com/google/cel-spec, "Syntax"), with the place of each part.

The CEL library evaluates expressions, but shows no tree. This one tells what an expression reads, and where
it is wrong. What this parser does not know is refused, even if the library would take it: message types,
optional values, names that begin with a dot.
"""

import re
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

LONGEST: Final = 4096
"""Characters of an expression."""
DEEPEST: Final = 40
"""Levels of brackets, calls and operators."""

_TOKEN: Final = re.compile(
    r"""
    (?P<space>\s+|//[^\n]*)
    |(?P<string>[bB]?[rR](?:\"\"\".*?\"\"\"|'''.*?'''|"[^"\n\r]*"|'[^'\n\r]*')
        |[bB]?(?:\"\"\"(?:[^\\]|\\.)*?\"\"\"|'''(?:[^\\]|\\.)*?'''
        |"(?:[^"\\\n\r]|\\.)*"|'(?:[^'\\\n\r]|\\.)*'))
    |(?P<number>0[xX][0-9a-fA-F]+[uU]?|[0-9]+\.[0-9]+(?:[eE][+-]?[0-9]+)?|\.[0-9]+(?:[eE][+-]?[0-9]+)?
        |[0-9]+[eE][+-]?[0-9]+|[0-9]+[uU]?)
    |(?P<name>[A-Za-z_][A-Za-z0-9_]*)
    |(?P<sign>&&|\|\||[<>=!]=|[-+*/%<>!?:.,()\[\]{}])
    """,
    re.VERBOSE | re.DOTALL,
)
_MACROS: Final = {"all": 2, "exists": 2, "exists_one": 2, "filter": 2, "map": 2}
"""By name: the number of arguments. Each takes a name first, which stands for one item after the other."""
_LEVELS: Final = (
    frozenset({"||"}),
    frozenset({"&&"}),
    frozenset({"<", "<=", ">=", ">", "==", "!=", "in"}),
    frozenset({"+", "-"}),
    frozenset({"*", "/", "%"}),
)


class NotCel(Exception):
    """Text that is not an expression. `at` is the position of the mistake, from 0."""

    def __init__(self, message: str, at: int, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.at = at
        self.hint = hint


@dataclass(frozen=True, slots=True)
class Constant:
    """A constant."""

    kind: Literal["string", "bytes", "int", "uint", "double", "bool", "null"]
    text: str
    """As it is written."""
    at: int


@dataclass(frozen=True, slots=True)
class Name:
    """A variable."""

    name: str
    at: int


@dataclass(frozen=True, slots=True)
class Select:
    """`operand.name`; with `test`, `has(operand.name)`."""

    operand: "Node"
    name: str
    at: int
    """Of the name."""
    test: bool = False


@dataclass(frozen=True, slots=True)
class Index:
    """`operand[key]`."""

    operand: "Node"
    key: "Node"
    at: int


@dataclass(frozen=True, slots=True)
class Call:
    """`function(…)`, or `target.function(…)`."""

    function: str
    target: "Node | None"
    arguments: tuple["Node", ...]
    at: int
    start: int
    """Where the whole call begins."""
    end: int


@dataclass(frozen=True, slots=True)
class Loop:
    """A macro over a list or a map, such as `list.exists(x, x > 1)`."""

    function: str
    items: "Node"
    variable: str
    body: "Node"
    at: int


@dataclass(frozen=True, slots=True)
class Unary:
    operator: str
    operand: "Node"
    at: int


@dataclass(frozen=True, slots=True)
class Binary:
    operator: str
    left: "Node"
    right: "Node"
    at: int
    """Of the operator."""


@dataclass(frozen=True, slots=True)
class Choice:
    """`condition ? yes : no`."""

    condition: "Node"
    yes: "Node"
    no: "Node"
    at: int


@dataclass(frozen=True, slots=True)
class Items:
    """`[…]`."""

    items: tuple["Node", ...]
    at: int


@dataclass(frozen=True, slots=True)
class Entries:
    """`{…}`: keys and values, in turn."""

    items: tuple["Node", ...]
    at: int


Node: TypeAlias = Constant | Name | Select | Index | Call | Loop | Unary | Binary | Choice | Items | Entries


def start_of(node: Node) -> int:
    """Return where a part of an expression begins."""
    match node:
        case Select(operand=inner) | Index(operand=inner) | Loop(items=inner) | Binary(left=inner):
            return start_of(inner)
        case Choice(condition=inner):
            return start_of(inner)
        case Call(start=start):
            return start
        case _:
            return node.at


def parse(text: str) -> Node:
    """Return the tree of an expression. Raises `NotCel`."""
    if len(text) > LONGEST:
        raise NotCel(f"is longer than {LONGEST} characters", LONGEST)
    parser = _Parser(text)
    node = parser.choice()
    parser.end()
    return node


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    at: int


class _Parser:
    def __init__(self, text: str) -> None:
        self._tokens = _tokens(text)
        self._next = 0
        self._depth = 0

    # Tokens ------------------------------------------------------------------------------------------

    @property
    def _token(self) -> _Token:
        return self._tokens[self._next]

    def _take(self) -> _Token:
        token = self._tokens[self._next]
        self._next += 1
        return token

    def _accept(self, sign: str) -> bool:
        if self._token.text == sign and self._token.kind in {"sign", "name"}:
            self._next += 1
            return True
        return False

    def _expect(self, sign: str) -> None:
        if not self._accept(sign):
            raise self._unexpected(f"`{sign}`")

    def _unexpected(self, wanted: str) -> NotCel:
        token = self._token
        found = "the expression ends" if token.kind == "end" else f"there is `{token.text[:40]}`"
        hints = {"=": "write == to compare", "&": "write &&", "|": "write ||"}
        hint = hints.get(token.text)
        before = self._tokens[self._next - 1] if self._next else token
        if not {token.text, before.text}.isdisjoint({"and", "or", "not"}):
            hint = "CEL writes &&, || and !"
        return NotCel(f"{found} where {wanted} must be", token.at, hint)

    def end(self) -> None:
        if self._token.kind != "end":
            raise self._unexpected("an operator or the end")

    # Expressions, from the weakest operator to the strongest -------------------------------------------

    def choice(self) -> Node:
        self._deeper()
        condition = self._binary(0)
        node = condition
        if self._token.text == "?" and self._token.kind == "sign":
            at = self._take().at
            yes = self._binary(0)
            self._expect(":")
            node = Choice(condition, yes, self.choice(), at)
        self._depth -= 1
        return node

    def _deeper(self) -> None:
        self._depth += 1
        if self._depth > DEEPEST:
            raise NotCel(f"is nested more than {DEEPEST} levels deep", self._token.at)

    def _binary(self, level: int) -> Node:
        if level == len(_LEVELS):
            return self._unary()
        node = self._binary(level + 1)
        links = 0
        while self._token.kind in {"sign", "name"} and self._token.text in _LEVELS[level]:
            links += 1
            if links > 8 * DEEPEST:
                raise NotCel("has too many operators in a row", self._token.at)
            operator = self._take()
            node = Binary(operator.text, node, self._binary(level + 1), operator.at)
        return node

    def _unary(self) -> Node:
        token = self._token
        if token.kind == "sign" and token.text in {"!", "-"}:
            self._take()
            self._deeper()
            node: Node = Unary(token.text, self._unary(), token.at)
            self._depth -= 1
            return node
        return self._member()

    def _member(self) -> Node:
        start = self._token.at
        node = self._primary()
        while True:
            if self._accept("."):
                name = self._take()
                if name.kind != "name":
                    self._next -= 1
                    raise self._unexpected("the name of a field")
                if name.text in _RESERVED:
                    raise NotCel(f"`{name.text}` is a word of CEL", name.at, f'write ["{name.text}"]')
                node = (
                    self._call(name, node, start)
                    if self._token.text == "(" and self._token.kind == "sign"
                    else Select(node, name.text, name.at)
                )
            elif self._token.text == "[" and self._token.kind == "sign":
                at = self._take().at
                key = self.choice()
                self._expect("]")
                node = Index(node, key, at)
            else:
                return node

    def _call(self, name: _Token, target: Node | None, start: int) -> Node:
        arguments = self._list("(", ")", trailing=False)
        end = self._tokens[self._next - 1].at + 1
        if name.text == "has" and target is None:
            if len(arguments) != 1 or not isinstance(arguments[0], Select):
                raise NotCel("has() takes a field", name.at, "write has(claims.plan)")
            field = arguments[0]
            return Select(field.operand, field.name, field.at, test=True)
        if name.text in _MACROS and target is not None:
            if len(arguments) != _MACROS[name.text] or not isinstance(arguments[0], Name):
                raise NotCel(
                    f"{name.text}() takes a name and an expression",
                    name.at,
                    f'write {name.text}(item, item == "…")',
                )
            return Loop(name.text, target, arguments[0].name, arguments[1], name.at)
        return Call(name.text, target, arguments, name.at, start, end)

    def _primary(self) -> Node:
        token = self._take()
        if token.kind == "string":
            prefix = token.text[: token.text.find(token.text[-1])].lower()
            return Constant("bytes" if "b" in prefix else "string", token.text, token.at)
        if token.kind == "number":
            return _number(token)
        if token.kind == "name":
            if token.text in {"true", "false"}:
                return Constant("bool", token.text, token.at)
            if token.text == "null":
                return Constant("null", token.text, token.at)
            if token.text in _RESERVED:
                raise NotCel(f"`{token.text}` is a word of CEL", token.at)
            if self._token.text == "(" and self._token.kind == "sign":
                return self._call(token, None, token.at)
            return Name(token.text, token.at)
        if token.kind == "sign" and token.text == "(":
            node = self.choice()
            self._expect(")")
            return node
        self._next -= 1
        if token.kind == "sign" and token.text == "[":
            return Items(self._list("[", "]"), token.at)
        if token.kind == "sign" and token.text == "{":
            return Entries(self._entries(), token.at)
        raise self._unexpected("a value")

    def _list(self, opening: str, closing: str, *, trailing: bool = True) -> tuple[Node, ...]:
        """Read what commas separate. `trailing`: the last one may have a comma behind it."""
        self._expect(opening)
        items: list[Node] = []
        while not ((trailing or not items) and self._accept(closing)):
            items.append(self.choice())
            if not self._accept(","):
                self._expect(closing)
                break
        return tuple(items)

    def _entries(self) -> tuple[Node, ...]:
        self._expect("{")
        items: list[Node] = []
        while not self._accept("}"):
            items.append(self.choice())
            self._expect(":")
            items.append(self.choice())
            if not self._accept(","):
                self._expect("}")
                break
        return tuple(items)


_RESERVED: Final = frozenset({
    "as", "break", "const", "continue", "else", "false", "for", "function", "if", "import", "in", "let",
    "loop",
    "null", "package", "namespace", "return", "true", "var", "void",
    "while",
})  # fmt: skip


def _number(token: _Token) -> Constant:
    text = token.text.lower()
    if text.startswith("0x") or text.rstrip("u").isdigit():
        return Constant("uint" if text.endswith("u") else "int", token.text, token.at)
    return Constant("double", token.text, token.at)


def _tokens(text: str) -> list[_Token]:
    found: list[_Token] = []
    at = 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise _strange(text, at)
        kind = str(match.lastgroup)
        if kind != "space":
            found.append(_Token(kind, match[0], at))
        at = match.end()
    found.append(_Token("end", "", len(text)))
    return found


def _strange(text: str, at: int) -> NotCel:
    character = text[at]
    if character in "\"'":
        return NotCel("the text that begins here does not end", at, f"write {character} at its end")
    hints = {"=": "write == to compare", "&": "write &&", "|": "write ||", "`": 'write quotes: "…"'}
    return NotCel(f"`{character}` has no meaning in CEL", at, hints.get(character))
