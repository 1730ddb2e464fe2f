"""Large bodies in both directions: the speed compared with nginx, and the growth of memory."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from http.client import HTTPConnection, HTTPException
from statistics import median
from time import perf_counter
from typing import Final, Literal, TypeAlias

from rich.console import Console

from bench.contenders import GATEWAY, NGINX
from bench.gateways import Gateway
from bench.peers import start_nginx
from bench.processes import HOST, Process, Refused, free_port, status
from bench.programs import found
from bench.report import Report, Target
from bench.stage import Stage

BODY_BYTES: Final = 1 << 30
SLOWEST: Final = 0.5
"""The target, as a share of nginx's speed."""
GROWTH_MIB: Final = 32
_PIECE_BYTES: Final = 1 << 20
_LOOK_EVERY: Final = 16
"""Pieces between two checks of the proxy's memory."""

Direction: TypeAlias = Literal["download", "upload"]
_Look: TypeAlias = Callable[[], None]
"""Checks the proxy's memory. A transfer calls it repeatedly."""
_Transfer: TypeAlias = Callable[[int, str, _Look], None]


@dataclass(frozen=True, slots=True)
class _Run:
    mib_per_second: float
    cpu_seconds: float
    growth_mib: float


def measure(stage: Stage, console: Console, *, rounds: int) -> Report:
    """Send 1 GiB in each direction through both proxies in turn, `rounds` times. Raises Refused."""
    gateway = Gateway(stage, upstream=stage.bulk)
    port = free_port()
    runs: dict[tuple[str, Direction], list[_Run]] = {}
    with gateway.start() as own, start_nginx(stage, port, found("nginx"), upstream=stage.bulk) as peer:
        token = stage.people.tokens[0]
        transfers: dict[Direction, _Transfer] = {"download": _download, "upload": _upload}
        proxies = ((GATEWAY, gateway.port, own), (NGINX, port, peer))
        for _, address, process in proxies:
            process.until(partial(_serves, address, token))
        for number in range(rounds):
            for title, address, process in proxies:
                for direction, transfer in transfers.items():
                    console.print(f"  round {number + 1}/{rounds}: {direction}, {title}", style="dim")
                    run = _run(process, partial(transfer, address, token))
                    runs.setdefault((title, direction), []).append(run)
    return Report(
        title=f"One body of 1 GiB; median of {rounds}",
        rows=[_row(title, direction, own_runs) for (title, direction), own_runs in runs.items()],
        targets=[target for direction in transfers for target in _targets(direction, runs)],
    )


def _serves(port: int, token: str) -> bool:
    return status(port, "/0", token) == 200


def _run(process: Process, transfer: Callable[[_Look], None]) -> _Run:
    before, cpu_before = process.resident_bytes, process.cpu_seconds
    peak = before

    def look() -> None:
        nonlocal peak
        peak = max(peak, process.resident_bytes)

    started = perf_counter()
    try:
        transfer(look)
    except (OSError, HTTPException) as error:
        raise Refused(f"a body did not arrive: {error!r}") from error
    seconds = perf_counter() - started
    look()
    return _Run(
        mib_per_second=BODY_BYTES / 2**20 / seconds,
        cpu_seconds=process.cpu_seconds - cpu_before,
        growth_mib=(peak - before) / 2**20,
    )


def _download(port: int, token: str, look: _Look) -> None:
    connection = HTTPConnection(HOST, port, timeout=60)
    try:
        connection.request("GET", f"/{BODY_BYTES}", headers={"Authorization": f"Bearer {token}"})
        response = connection.getresponse()
        buffer = bytearray(_PIECE_BYTES)
        received = pieces = 0
        while number := response.readinto(buffer):
            received += number
            pieces += 1
            if pieces % _LOOK_EVERY == 0:
                look()
    finally:
        connection.close()
    if response.status != 200 or received != BODY_BYTES:
        raise Refused(f"a download ended with status {response.status} after {received} bytes")


def _upload(port: int, token: str, look: _Look) -> None:
    connection = HTTPConnection(HOST, port, timeout=60)
    try:
        connection.putrequest("PUT", "/")
        connection.putheader("Authorization", f"Bearer {token}")
        connection.putheader("Content-Length", str(BODY_BYTES))
        connection.endheaders()
        piece = bytes(_PIECE_BYTES)
        for number in range(BODY_BYTES // _PIECE_BYTES):
            connection.send(piece)
            if number % _LOOK_EVERY == 0:
                look()
        response = connection.getresponse()
        counted = response.read()
    finally:
        connection.close()
    if response.status != 200 or int(counted) != BODY_BYTES:
        raise Refused(f"an upload ended with status {response.status}, after {counted!r} bytes")


def _row(title: str, direction: Direction, runs: list[_Run]) -> dict[str, str | int | float]:
    return {
        "proxy": title,
        "direction": direction,
        "MiB/s": median(run.mib_per_second for run in runs),
        "CPU s": median(run.cpu_seconds for run in runs),
        "RSS growth MiB": max(run.growth_mib for run in runs),
    }


def _targets(direction: Direction, runs: dict[tuple[str, Direction], list[_Run]]) -> list[Target]:
    own, peer = runs[GATEWAY, direction], runs[NGINX, direction]
    ratio = median(
        mine.mib_per_second / theirs.mib_per_second for mine, theirs in zip(own, peer, strict=True)
    )
    growth = max(run.growth_mib for run in own)
    return [
        Target(f"{direction} ≥ {SLOWEST} × nginx's speed", f"{ratio:.2f} ×", met=ratio >= SLOWEST),
        Target(f"{direction}: memory grows < {GROWTH_MIB} MiB", f"{growth:.1f} MiB", met=growth < GROWTH_MIB),
    ]
