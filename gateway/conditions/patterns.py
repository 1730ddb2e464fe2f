r"""The patterns of `matches`, as RE2 reads them (https://github.com/google/re2/wiki/Syntax), and their size.

The library reads `\d`, `\w`, `\s` and `\b` by Unicode. RE2, and so CEL, reads them by ASCII: `^\d+$` has no
digits of other scripts. A pattern is compiled in each evaluation, and a class of Unicode takes hundreds of
microseconds. So these are rewritten, and a pattern that is too large is refused.
"""

import json
import re
from collections.abc import Mapping
from typing import Final

from gateway.conditions import engine
from gateway.conditions.faults import Fault
from gateway.conditions.syntax import Constant, Node, start_of

LONGEST: Final = 200
"""Characters of a pattern."""
HEAVIEST: Final = 2000
"""The largest `weight`: about a millisecond."""
_WORD: Final = "0-9A-Za-z_"
_SPACE: Final = r"\t\n\f\r\x20"
_PERL: Final[Mapping[str, str]] = {
    r"\d": "[0-9]", r"\D": "[^0-9]", r"\w": f"[{_WORD}]", r"\W": f"[^{_WORD}]",
    r"\s": f"[{_SPACE}]", r"\S": f"[^{_SPACE}]", r"\b": r"(?-u:\b)", r"\B": r"(?-u:\B)",
}  # fmt: skip
_WITHIN: Final[Mapping[str, str]] = {**_PERL, r"\d": "0-9", r"\w": _WORD, r"\s": _SPACE}
"""Within a class, where another class may stand."""
_ESCAPE: Final = re.compile(r"\\(?:[pP]\{[^}]*\}|[pP].|.)", re.DOTALL)
_PART: Final = re.compile(
    r"""
    (?P<escape>\\(?:[pP]\{[^}]*\}|[pP].|.))
    |(?P<class>\[\^?\]?(?:\\.|\[[^\]]*\]|[^\]\\])*\])
    |(?P<flags>\(\?[a-zA-Z-]+\))
    |(?P<open>\((?:\?(?:P?<[^>]*>|[a-zA-Z-]*:))?)
    |(?P<close>\))
    |(?P<times>\{(?P<least>[0-9]+)(?P<more>,(?P<most>[0-9]*))?\})
    |(?P<sign>[*+?|^$])
    |(?P<other>.)
    """,
    re.VERBOSE | re.DOTALL,
)


def fault_of(pattern: Node) -> Fault | None:
    """Return what is wrong with a pattern; None if nothing is."""
    at = start_of(pattern)
    if not isinstance(pattern, Constant) or pattern.kind != "string":
        return Fault(at, "the pattern of matches() must be written here, as a text")
    if len(pattern.text) > LONGEST:
        return Fault(at, f"the pattern is longer than {LONGEST} characters")
    if (refused := engine.failure(f'"".matches({pattern.text})')) is not None:
        return Fault(at, f"the pattern cannot be read: {refused}")
    if weight(as_re2(str(engine.constant(pattern.text)))) > HEAVIEST:
        message = "the pattern is too large with its repetitions written out: each request would take long"
        return Fault(at, message, r"repeat less; write letters of ASCII, [A-Za-z], in place of \p{L}")
    return None


def compiled(pattern: Constant) -> str:
    """Return what is compiled in place of a pattern without faults, as it stands in an expression."""
    value = str(engine.constant(pattern.text))
    means = as_re2(value)
    return pattern.text if means == value else json.dumps(means, ensure_ascii=False)


def as_re2(pattern: str) -> str:
    """Return a pattern that means here what it means in RE2."""
    return _PART.sub(_rewritten, pattern)


def weight(pattern: str) -> int:
    """Return about how large a pattern becomes when its repetitions are written out, in characters."""
    totals, last = [0], 0
    for part in _PART.finditer(pattern):
        kind = part.lastgroup
        if kind == "times":
            least = int(part["least"][:9])
            times = max(1, int(part["most"][:9]) if part["most"] else least + bool(part["more"]))
            totals[-1] += last * (times - 1)
            last *= times
        elif kind == "open":
            totals.append(0)
        elif kind == "close" and len(totals) > 1:
            last = totals.pop()
            totals[-1] += last
        elif kind not in {"flags", "sign"}:
            last = _cost(part[0])
            totals[-1] += last
    # Letters in either case are several characters each.
    return sum(totals) * (4 if re.search(r"\(\?[a-zA-Z]*i", pattern) else 1)


def _cost(part: str) -> int:
    if r"\p" in part or r"\P" in part:
        return 1000
    return 10 if part == "." or part.startswith("[^") else 1 + (not part.isascii())


def _rewritten(part: re.Match[str]) -> str:
    if part.lastgroup == "escape":
        return _PERL.get(part[0], part[0])
    if part.lastgroup == "class":
        return _ESCAPE.sub(lambda escape: _WITHIN.get(escape[0], escape[0]), part[0])
    return part[0]
