"""Load from wrk: each connection sends its next request after the previous answer."""

import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TypeAlias

from bench.processes import HOST, Refused
from bench.programs import found

Workload: TypeAlias = Literal[
    "repeat", "unique", "browser", "post", "post-100k", "denied", "forged", "ask", "ask-unique"
]
"""
`repeat`: heads that differ only in their token. In all others, each request has a new path and query.
`unique`: only that. `browser`: 14 fields, with cookies and a new `traceparent`. `post`: 1 KiB of JSON.
`post-100k`: 100 KiB. `denied`: like `unique`, with tokens that must be refused. `forged`: the same, with a
new signature each time. `ask`: questions of nginx, whose heads differ only in their token. `ask-unique`: the
same, each about a new path and with a new request id.
"""
_SCRIPT: Final = Path(__file__).with_name("load.lua")


@dataclass(frozen=True, slots=True)
class Load:
    """The numbers from wrk."""

    requests: int
    """Answered requests, with any status."""
    seconds: float
    p50_ms: float
    p99_ms: float
    failures: Mapping[str, int]
    """By kind: `connect`, `read`, `write`, `timeout`, and `status` for answers of 400 and above."""

    @property
    def failed(self) -> int:
        return sum(self.failures.values())

    @property
    def failures_text(self) -> str:
        return ", ".join(f"{number} × {kind}" for kind, number in self.failures.items() if number) or "none"


class Wrk:
    """A load that was started. `seconds` is its length; it sends the tokens of the file in turn.

    `workload` selects the requests. `tls`: they are sent over TLS.
    """

    def __init__(
        self,
        port: int,
        tokens: Path,
        *,
        connections: int,
        seconds: int,
        workload: Workload = "repeat",
        tls: bool = False,
    ) -> None:
        scheme = "https" if tls else "http"
        command = [
            found("wrk"), "--threads", "1", "--connections", str(connections), "--duration", f"{seconds}s",
            "--timeout", "5s", "--script", _SCRIPT, f"{scheme}://{HOST}:{port}/", "--", tokens, workload,
        ]  # fmt: skip
        self._process = subprocess.Popen(  # noqa: S603 -- our own arguments, no shell
            list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def result(self) -> Load:
        """Wait for the end. Raises Refused when wrk reports no numbers."""
        said, _ = self._process.communicate()
        lines = said.strip().splitlines() or ["it said nothing"]
        if self._process.returncode != 0 or not lines[-1].startswith("{"):
            raise Refused(f"wrk failed: {' / '.join(lines[-3:])}")
        return Load(**json.loads(lines[-1]))
