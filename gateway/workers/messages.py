"""What the supervisor and its workers say to each other: one JSON array a line, over a pair of sockets.

| from a worker | to a worker |
|---|---|
| `ready` [url, admin url]: it serves | `retire`: say at `/readyz` that no more requests are welcome |
| `failed` text: it cannot start | `drain` last: stop accepting, finish what is in flight, end |
| `counted` snapshots: its metrics, unasked | |
| `totals` snapshots, `readiness`: questions to all | `counted`, `readiness`: questions to this one |
| `denials` wanted, `refresh` issuer: likewise | `denials` wanted, `refresh` issuer: likewise |
| `answer` | `answer` |

`drain` is true when no successor takes over the worker's sockets. A question has a number, which its answer
repeats.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass
from typing import Any

from gateway.telemetry.denials import DenialFilter, DenialRecord
from gateway.telemetry.series import Snapshot


@dataclass(frozen=True, slots=True)
class Message:
    """One line."""

    kind: str
    body: Any = None  # JSON whose shape the kind tells
    number: int = 0


def encode(message: Message) -> bytes:
    """Return a message as a line; NaN, which gauges may be, stays what it is."""
    return json.dumps([message.kind, message.body, message.number], separators=(",", ":")).encode() + b"\n"


def decode(line: bytes) -> Message:
    return Message(*json.loads(line))


def pack(snapshots: Iterable[Snapshot]) -> list[list[object]]:
    """Return snapshots as JSON can carry them."""
    return [[s.name, s.kind, s.help, s.labels, s.points, s.together, s.bounds] for s in snapshots]


def unpack(rows: Sequence[Sequence[Any]]) -> list[Snapshot]:
    """Return the snapshots that `pack` made this of."""
    return [
        Snapshot(
            name,
            kind,
            text,
            tuple(labels),
            [(tuple(values), numbers) for values, numbers in points],
            together,
            tuple(bounds),
        )
        for name, kind, text, labels, points, together, bounds in rows
    ]


def pack_filter(wanted: DenialFilter) -> list[object]:
    return [*astuple(wanted)]


def unpack_filter(row: Sequence[Any]) -> DenialFilter:
    return DenialFilter(*row)


def pack_denials(denials: Iterable[DenialRecord]) -> list[list[object]]:
    return [[*astuple(denial)] for denial in denials]


def unpack_denials(answers: Iterable[Iterable[Sequence[Any]]]) -> list[DenialRecord]:
    """Return what several workers answered, all together."""
    return [DenialRecord(*row) for rows in answers for row in rows]
