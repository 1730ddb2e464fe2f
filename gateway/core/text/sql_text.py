"""SQL that an operator writes in the configuration: one expression, or one query, and no more.

Postgres parses the text itself (`gateway check --live`, `gateway migrate`). This module only makes sure that
the text stays within the place where it is put: its brackets and quotes are closed, and it has no statement
separator. Comments and dollar quotes (PostgreSQL manual, §4.1) are refused, because they are not needed.
"""

import re
from collections.abc import Iterator
from typing import Final

_TOKEN: Final = re.compile(
    r"""
    (?P<string> [eE]'(?:[^'\\]|\\.|'')*' | '(?:[^']|'')*' )
    | (?P<name> "(?:[^"]|"")+" )
    | (?P<comment> --|/\* )
    | (?P<parameter> \$[0-9]+ )
    | (?P<word> [^\W\d]\w* )
    | (?P<number> [0-9]\w* )
    | (?P<other> . )
    """,
    re.VERBOSE | re.DOTALL,
)
_CLOSING: Final = {"(": ")", "[": "]"}
_NAME: Final = r"""(?:[^\W\d][\w$]*|"(?:[^"]|"")+")"""
_TABLE: Final = re.compile(rf"{_NAME}(?:\.{_NAME})?")
_COLUMN: Final = re.compile(rf"({_NAME})(?:\s*::\s*text)?")


def check_expression(text: str) -> None:
    """Raise ValueError, with what is wrong, unless the text can be put in brackets as one expression."""
    _check(text, parameter=False)


def check_query(text: str) -> None:
    """Raise ValueError, with what is wrong, unless the text is one query, with `$1` for the user's id."""
    _check(text, parameter=True)
    if not re.match(r"\s*(select|with|values)\b", text, re.IGNORECASE):
        raise ValueError("must be a query that begins with SELECT")


_REFUSED: Final = {
    "'": "has a quote that is not closed",
    '"': "has a quote that is not closed",
    "$": "must not have dollar quotes: write 'text'",
    ";": "must not have a semicolon",
    "\0": "must not have a NUL",
}


def _check(text: str, *, parameter: bool) -> None:
    open_brackets: list[str] = []
    if not text.strip():
        raise ValueError("must not be empty")
    if "$gateway$" in text:
        raise ValueError("must not have the text $gateway$")
    for kind, part in _tokens(text):
        if kind == "comment":
            raise ValueError("must not have a comment")
        if kind == "parameter" and not (parameter and part == "$1"):
            allowed = "the only one is $1, the user's id" if parameter else "only queries have one, $1"
            raise ValueError(f"{part} is a parameter without a value: {allowed}")
        if kind == "other" and part in _REFUSED:
            raise ValueError(_REFUSED[part])
        if part in _CLOSING:
            open_brackets.append(_CLOSING[part])
        elif part in (")", "]") and (not open_brackets or open_brackets.pop() != part):
            raise ValueError(f"has a `{part}` too many")
    if open_brackets:
        raise ValueError(f"lacks a `{open_brackets[-1]}`")


def with_parameter(query: str, value: str) -> str:
    """Return a query with an expression in place of `$1`."""
    return "".join(value if kind == "parameter" else token for kind, token in _tokens(query))


def conjuncts(expression: str) -> list[str] | None:
    """Return the parts of an expression between its outermost ANDs; None if it has an OR or BETWEEN there."""
    text = expression.strip()
    parts, depth = [""], 0
    for kind, part in _tokens(text):
        word = part.lower() if kind == "word" and depth == 0 else ""
        if word in ("or", "between"):
            return None
        depth += (part in _CLOSING) - (part in _CLOSING.values()) if kind == "other" else 0
        if word == "and":
            parts.append("")
        else:
            parts[-1] += part
    found = [_unwrapped(part) for part in parts]
    if len(found) == 1 and found[0] != text:
        return conjuncts(found[0])
    return found


def _unwrapped(expression: str) -> str:
    """Return an expression without the brackets around all of it."""
    text = expression.strip()
    while text.startswith("(") and text.endswith(")") and _is_one_bracket(text):
        text = text[1:-1].strip()
    return text


def _is_one_bracket(text: str) -> bool:
    depth = 0
    tokens = list(_tokens(text))
    for number, (kind, part) in enumerate(tokens, start=1):
        depth += (part == "(") - (part == ")") if kind == "other" else 0
        if depth == 0:
            return number == len(tokens)
    return False


def is_table(text: str) -> bool:
    """Return whether the text is the name of a table as SQL has it, perhaps with its schema."""
    return _TABLE.fullmatch(text) is not None


def parts_of(table: str) -> tuple[str | None, str]:
    """Return schema and name of a table as they are in the catalogs: without quotes, or in lower case."""
    *schema, name = (_plain(part) for part in re.findall(_NAME, table))
    return (schema[0] if schema else None), name


def column_of(text: str) -> str | None:
    """Return the column that an expression consists of, perhaps with a cast to text; else None."""
    match = _COLUMN.fullmatch(text.strip())
    return None if match is None else _plain(match[1])


def _plain(name: str) -> str:
    return name[1:-1].replace('""', '"') if name.startswith('"') else name.lower()


def _tokens(text: str) -> Iterator[tuple[str, str]]:
    for match in _TOKEN.finditer(text):
        yield match.lastgroup or "", match[0]
