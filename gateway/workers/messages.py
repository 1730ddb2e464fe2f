"""The messages between the supervisor and its workers: one JSON array per line, over a socket pair.

| from a worker | to a worker |
|---|---|
| `ready` urls: it serves | `retire`: report at `/readyz` that it takes no more requests |
| `failed` text: it cannot start | `drain` last: stop accepting, finish the requests in flight, end |
| `counted` snapshots: its metrics, periodically | `log_level` raised: log all, or as configured again |
| `totals` snapshots, `readiness`: questions to all | `counted`, `readiness`: questions to this one |
| `denials` wanted, `refresh` issuer: the same | `denials` wanted, `refresh` issuer: the same |
| `limits`, `pardon` limit and subject: the same | `limits`, `pardon` limit and subject: the same |
| `history` minutes: a question to the supervisor | |
| `answer` | `answer` |

`last` names the listeners whose sockets no successor takes over. A question has a number, and its answer has
the same number. The receiver logs a message of any other kind as an error.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass
from typing import Any, Final, Literal, TypeAlias, get_args

from gateway.core.requests.token_marks import TokenMarks
from gateway.telemetry.denials import DenialFilter, DenialRecord
from gateway.telemetry.series import Exemplar, Snapshot

Question: TypeAlias = Literal["totals", "readiness", "denials", "refresh", "history", "limits", "pardon"]
"""What a worker asks all others; the supervisor passes it on, or knows the answer."""
QUESTIONS: Final[frozenset[str]] = frozenset(get_args(Question))


@dataclass(frozen=True, slots=True)
class Message:
    """One line."""

    kind: str
    body: Any = None  # JSON; its shape depends on the kind
    number: int = 0


def encode(message: Message) -> bytes:
    """Return a message as a line. A NaN, which gauges may have, stays NaN."""
    return json.dumps([message.kind, message.body, message.number], separators=(",", ":")).encode() + b"\n"


def decode(line: bytes) -> Message:
    return Message(*json.loads(line))


def pack(snapshots: Iterable[Snapshot]) -> list[list[object]]:
    """Return snapshots as JSON values."""
    return [
        [s.name, s.kind, s.help, s.labels, s.points, s.together, s.bounds, s.exemplars] for s in snapshots
    ]


def unpack(rows: Sequence[Sequence[Any]]) -> list[Snapshot]:
    """Return the snapshots that `pack` was given."""
    return [
        Snapshot(
            name,
            kind,
            text,
            tuple(labels),
            [(tuple(values), numbers) for values, numbers in points],
            together,
            tuple(bounds),
            tuple(Exemplar(tuple(values), *rest) for values, *rest in exemplars),
        )
        for name, kind, text, labels, points, together, bounds, exemplars in rows
    ]


def pack_filter(wanted: DenialFilter) -> list[object]:
    return [*astuple(wanted)]


def unpack_filter(row: Sequence[Any]) -> DenialFilter:
    return DenialFilter(*row)


def pack_denials(denials: Iterable[DenialRecord]) -> list[list[object]]:
    return [[*astuple(denial)] for denial in denials]


def unpack_denials(answers: Iterable[Iterable[Sequence[Any]]]) -> list[DenialRecord]:
    """Return the answers of several workers in one list."""
    return [
        DenialRecord(*(*row[:-1], None if row[-1] is None else TokenMarks(*row[-1])))
        for rows in answers
        for row in rows
    ]
