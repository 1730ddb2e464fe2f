"""TLS in front: requests with bodies, and handshakes with and without a session ticket."""

import random
import ssl
from collections.abc import Mapping
from http.client import HTTPResponse
from socket import create_connection
from statistics import median
from typing import Final, TypeAlias

from rich.console import Console

from bench.contenders import GATEWAY, contenders
from bench.load import Workload
from bench.processes import HOST, Refused, unverified
from bench.report import Report
from bench.runs import Contender, Run, cpu_ratio
from bench.stage import Stage

_BODIES: Final[tuple[Workload, ...]] = ("post", "post-100k")
HANDSHAKES: Final = 300
"""Connections of each kind per round, one after the other."""
_FULL: Final = "handshake"
_RESUMED: Final = "handshake, resumed"

_Runs: TypeAlias = dict[tuple[str, str], list[float]]
"""CPU µs per request, by workload and contender."""


def measure(stage: Stage, console: Console, *, rounds: int, seconds: int, connections: int) -> Report:
    """Measure all proxies over TLS. Raises Refused."""
    loads: dict[tuple[str, str], list[Run]] = {}
    handshakes: _Runs = {}
    with contenders(stage, stage.certificate) as (running, missing):
        for number in range(rounds):
            for contender in random.sample(running, len(running)):
                console.print(f"  round {number + 1}/{rounds}: {contender.title}", style="dim")
                for workload in _BODIES:
                    run = contender.warm_run(
                        stage.people.tokens_file, connections=connections, seconds=seconds, workload=workload
                    )
                    loads.setdefault((workload, contender.title), []).append(run)
                for what, resumed in ((_FULL, False), (_RESUMED, True)):
                    cpu = _handshakes(contender, stage.people.tokens[0], resumed=resumed)
                    handshakes.setdefault((what, contender.title), []).append(cpu)
    titles = [contender.title for contender in running]
    return Report(
        title=f"TLS in front, {connections} connections, one core for the proxy; "
        f"median of {rounds} × {seconds} s and {HANDSHAKES:,} connections",
        rows=[
            *(_row(workload, title, loads) for workload in _BODIES for title in titles),
            *(_handshake_row(what, title, handshakes) for what in (_FULL, _RESUMED) for title in titles),
        ],
        notes=[
            "TLS 1.3 with a certificate on P-256; `post` brings 1 KiB of JSON, `post-100k` 100 KiB, each "
            "with another path; nginx may leave encryption to the kernel (kTLS), where that has it",
            "handshake: a connection with one request; resumed: with the session ticket of an earlier one",
            "÷: the gateway's CPU divided by that row's in the same round, then the median",
            *map(str, missing),
        ],
    )


def _handshakes(contender: Contender, token: str, *, resumed: bool) -> float:
    """Return the CPU µs of a connection with one request. Raises Refused when a request fails."""
    context = unverified()
    request = (
        f"GET / HTTP/1.1\r\nHost: {HOST}\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n"
    ).encode()
    session = _ask(contender, context, request, None) if resumed else None
    before = contender.process.cpu_seconds
    for _ in range(HANDSHAKES):
        again = _ask(contender, context, request, session)
        # A session ticket of TLS 1.3 is for one connection.
        session = again if resumed else None
    return (contender.process.cpu_seconds - before) / HANDSHAKES * 1e6


def _ask(
    contender: Contender, context: ssl.SSLContext, request: bytes, session: ssl.SSLSession | None
) -> ssl.SSLSession | None:
    with (
        create_connection((HOST, contender.port), timeout=5) as connection,
        context.wrap_socket(connection, session=session, suppress_ragged_eofs=True) as tls,
    ):
        tls.sendall(request)
        response = HTTPResponse(tls)
        response.begin()
        response.read()
        if response.status != 200 or (session is not None and not tls.session_reused):
            raise Refused(f"{contender.title}: status {response.status}, resumed: {tls.session_reused}")
        return tls.session


def _row(what: str, title: str, runs: Mapping[tuple[str, str], list[Run]]) -> dict[str, str | int | float]:
    own = runs[what, title]
    return {
        "sent": what,
        "proxy": title,
        "requests/s": median(run.requests_per_second for run in own),
        "CPU µs": median(run.cpu_us for run in own),
        "gateway ÷": cpu_ratio(runs[what, GATEWAY], own),
    }


def _handshake_row(what: str, title: str, runs: _Runs) -> dict[str, str | int | float]:
    own, gateway = runs[what, title], runs[what, GATEWAY]
    ratio = median(mine / theirs for mine, theirs in zip(gateway, own, strict=True))
    return {"sent": what, "proxy": title, "requests/s": "–", "CPU µs": median(own), "gateway ÷": ratio}
