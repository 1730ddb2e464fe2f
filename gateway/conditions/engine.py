"""The CEL library (https://pypi.org/project/common-expression-language/), as far as it is needed here.

It is loaded with the first expression: it takes a seventh of a second and 30 MiB. Its mistakes come as
several exceptions, and a defect of its Rust code as a `BaseException`; here all of them are
`EvaluationFailed`.
"""

import re
from collections.abc import Collection, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Final, TypeAlias

if TYPE_CHECKING:
    from cel import Context, Program

Value: TypeAlias = object
"""What the library takes and returns: JSON, `datetime`, `timedelta`, `bytes`."""

_WORDS: Final = (
    (KeyError, "the field {} is missing"),
    (IndexError, "the list is too short"),
    (ZeroDivisionError, "it divides by zero"),
    (TypeError, "the types do not fit"),
    (OverflowError, "a number is too large"),
)


class EvaluationFailed(Exception):
    """An expression that has no value, such as one that reads a field that is missing."""


def program(text: str) -> "Program":
    """Compile an expression. Raises `EvaluationFailed`."""
    import cel

    try:
        return cel.compile(text)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        raise EvaluationFailed(_first_line(error)) from error


def context(variables: Mapping[str, Value]) -> "Context":
    """Return variables in the form of the library: reading them there costs nothing per evaluation.

    Raises `EvaluationFailed`.
    """
    import cel

    found = cel.Context()
    for name, value in variables.items():
        put(found, name, value)
    return found


def put(variables: "Context", name: str, value: Value) -> None:
    """Set a variable. Raises `EvaluationFailed` for a value that the library does not take."""
    try:
        variables.add_variable(name, value)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        raise EvaluationFailed(f"`{name}` cannot be read: {_first_line(error)}") from error


def evaluate(compiled: "Program", variables: "Context") -> Value:
    """Return the value of an expression. Raises `EvaluationFailed`."""
    try:
        return compiled.execute(variables)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a defect of the library is no `Exception`
        for kind, words in _WORDS:
            if isinstance(error, kind):
                raise EvaluationFailed(words.format(str(error).strip("\"'"))) from error
        raise EvaluationFailed(_first_line(error)) from error


def place_of_refusal(text: str) -> int:
    """Return the position in a text, from 0, that the library refuses it for; 0 if it does not say."""
    try:
        program(text)
    except EvaluationFailed as error:
        told = re.search(r"<input>:(\d+):(\d+)", str(error.__cause__))
        if told is not None:
            before = text.split("\n")[: int(told[1]) - 1]
            return min(sum(len(line) + 1 for line in before) + int(told[2]) - 1, len(text))
    return 0


def refusal(
    text: str, names: frozenset[str] | None = None, items: Collection[str] = frozenset()
) -> str | None:
    """Return why the library cannot compile a text; None if it can, and finds the same names in it.

    `items` are the names of loops, which the library may find, too.
    """
    try:
        compiled = program(text)
    except EvaluationFailed as error:
        return str(error)
    if names is not None and frozenset(compiled.variables()).difference(items) != names:
        return "cannot be read in only one way"
    return None


@lru_cache(maxsize=1024)
def constant(text: str) -> Value:
    """Return the value of a text that is a constant; None if it is none."""
    try:
        return evaluate(program(text), context({}))
    except EvaluationFailed:
        return None


def failure(text: str) -> str | None:
    """Return why an expression without variables has no value; None if it has one."""
    try:
        evaluate(program(text), context({}))
    except EvaluationFailed as error:
        return str(error)
    return None


def _first_line(error: BaseException) -> str:
    """Return what the library says, without the expression and advice of its own."""
    text = str(error).partition("Check function arguments")[0]
    text = re.sub(
        r"^(Function '\w+' error|Failed to parse expression .*?<input>:\d+:\d+): ", "", text, flags=re.DOTALL
    )
    lines = [line.strip() for line in text.splitlines() if line.strip()] or [type(error).__name__]
    told = next((line for line in lines if line.startswith("error: ")), lines[0])
    return told.removeprefix("error: ").rpartition("Syntax error: ")[2][:200].rstrip(". ")
