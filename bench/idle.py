"""The memory of idle connections."""

import resource
import socket
from contextlib import ExitStack
from typing import Final

from rich.console import Console

from bench.gateways import Gateway
from bench.processes import HOST, Refused
from bench.report import Report, Target
from bench.stage import ANSWER, Stage

CONNECTIONS: Final = 10_000
LIMIT_MIB: Final = 400
_SPARE_FILES: Final = 500
_ANSWER_END: Final = f"\r\n\r\n{ANSWER}".encode()
_SOURCES: Final = tuple(f"127.0.1.{last}" for last in range(1, 101))
"""The clients' addresses: a single one has too few free ports on a busy machine."""


def measure(stage: Stage, console: Console) -> Report:
    """Open 10,000 connections that each send a request, wait, and send another one. Raises Refused."""
    _allow_files(CONNECTIONS + _SPARE_FILES)
    gateway = Gateway(stage, upstream=stage.upstream)
    token = stage.people.tokens[0]
    head = f"GET / HTTP/1.1\r\nHost: {HOST}\r\nAuthorization: Bearer {token}\r\n\r\n".encode()
    with gateway.start() as process, ExitStack() as stack:
        process.until(lambda: gateway.ready)
        before = process.resident_bytes
        connections = []
        for number in range(CONNECTIONS):
            if number % 2500 == 0:
                console.print(f"  {number:,} connections", style="dim")
            connection = socket.create_connection(
                (HOST, gateway.port), timeout=10, source_address=(_SOURCES[number % len(_SOURCES)], 0)
            )
            connections.append(stack.enter_context(connection))
            _exchange(connection, head)
        resident = process.resident_bytes
        for connection in connections:
            _exchange(connection, head)
    mib = resident / 2**20
    return Report(
        title=f"{CONNECTIONS:,} idle keep-alive connections after one request each",
        rows=[
            {
                "RSS before MiB": before / 2**20,
                "RSS with them MiB": mib,
                "KiB per connection": (resident - before) / CONNECTIONS / 1024,
            }
        ],
        targets=[Target(f"resident memory < {LIMIT_MIB} MiB", f"{mib:.0f} MiB", met=mib < LIMIT_MIB)],
        notes=["every connection sent a second request afterwards, so none had been closed"],
    )


def _exchange(connection: socket.socket, head: bytes) -> None:
    try:
        connection.sendall(head)
        answer = b""
        while not answer.endswith(_ANSWER_END) and (piece := connection.recv(65536)):
            answer += piece
    except OSError as error:
        raise Refused(f"an idle connection was not kept: {error}") from error
    if not (answer.startswith(b"HTTP/1.1 200 ") and answer.endswith(_ANSWER_END)):
        raise Refused(f"an idle connection was not kept, or not served: {answer[:80]!r}")


def _allow_files(number: int) -> None:
    """Raise the limit of open files for this process and those that it starts."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= number:
        return
    ceiling = hard if hard == resource.RLIM_INFINITY else max(number, hard)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (number, ceiling))
    except (ValueError, OSError) as error:
        raise Refused(f"{number:,} open files are needed and {hard:,} allowed: see `ulimit -Hn`") from error
