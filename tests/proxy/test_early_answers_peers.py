"""Early answers of gunicorn, with WSGI and Django: as many arrive through the gateway as through HAProxy."""

import asyncio
import os
import shutil
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import pytest

from tests.harness import unused_port
from tests.proxy.wsgi import BODY
from tests.sockets import PATIENCE, RawUpstream
from tests.workers.program import running

STATUSES: Final = (200, 302, 401, 413)
SIZES: Final = {100_000: 64, 1_000_000: 64, 10_000_000: 32}
"""Size of a body → number of requests."""
AT_ONCE: Final = 8
PIECE: Final = bytes(64 * 1024)

# The end of an answer with Content-Length, and of one in chunks, as Django sends it here.
_ENDS: Final = (b"\r\n\r\n" + BODY, b"\r\n0\r\n\r\n")

_HAPROXY: Final = """\
defaults
  mode http
  timeout connect 20s
  timeout client 20s
  timeout server 20s
frontend front
  bind 127.0.0.1:{port}
  default_backend service
backend service
  server one 127.0.0.1:{upstream}
"""


@dataclass(frozen=True, slots=True)
class Upload:
    """A request whose body the service does not read."""

    status: int
    size: int
    chunked: bool
    kept: bool
    """Whether another request was sent before it on the same connection."""

    def pieces(self) -> Iterator[bytes]:
        framing = "Transfer-Encoding: chunked" if self.chunked else f"Content-Length: {self.size}"
        yield f"POST /public/{self.status} HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n".encode()
        for at in range(0, self.size, len(PIECE)):
            piece = PIECE[: self.size - at]
            yield b"%x\r\n%b\r\n" % (len(piece), piece) if self.chunked else piece
        if self.chunked:
            yield b"0\r\n\r\n"


UPLOADS: Final = tuple(
    Upload(status, size, chunked, kept)
    for size, times in SIZES.items()
    for _ in range(times // 16)
    for status, chunked, kept in product(STATUSES, (False, True), (False, True))
)


def answer(client: socket.socket, status: int) -> str:
    """Read one answer; return "answered" if it is complete and from the service."""
    read = b""
    try:
        while not read.endswith(_ENDS) and (data := client.recv(65536)):
            read += data
    except OSError as error:
        return type(error).__name__
    if read.startswith(b"HTTP/1.1 %d " % status) and BODY in read and read.endswith(_ENDS):
        return "answered"
    return read.partition(b"\r\n")[0].decode() or "nothing"


def send(port: int, upload: Upload) -> str:
    """Send as much of a body as possible, as many clients do, then read the answer."""
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as client:
        if upload.kept:
            client.sendall(b"GET /public/200 HTTP/1.1\r\nHost: a\r\n\r\n")
            if (first := answer(client, 200)) != "answered":
                return f"{first}, before the body"
        with suppress(OSError):
            for piece in upload.pieces():
                client.sendall(piece)
        return answer(client, upload.status)


def count(port: int) -> Counter[str]:
    """Send all uploads, several at a time."""
    with ThreadPoolExecutor(AT_ONCE) as threads:
        return Counter(threads.map(partial(send, port), UPLOADS))


@contextmanager
def program(home: Path, port: int, *arguments: str | Path) -> Iterator[None]:
    """Run a program in `home`; enter the context once it listens on the port."""
    process = subprocess.Popen(  # noqa: S603 -- arguments of ours
        arguments,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "HOME": str(home), "XDG_RUNTIME_DIR": str(home)},
    )
    try:
        until = time.monotonic() + PATIENCE
        while True:
            assert process.poll() is None, arguments
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            assert time.monotonic() < until, arguments
            time.sleep(0.02)
        yield
    finally:
        process.terminate()
        process.wait()


@pytest.mark.parametrize("worker", ["sync", "gthread"])
@pytest.mark.parametrize("application", ["plain", "with_django()"])
async def test_at_least_as_many_answers_arrive_as_through_haproxy(
    tmp_path: Path, dsn: str, redis_url: str, application: str, worker: str
) -> None:
    service, other = unused_port(), unused_port()
    haproxy = shutil.which("haproxy", path="/usr/sbin:/usr/bin:/usr/local/sbin")
    with ExitStack() as stack:
        stack.enter_context(
            program(
                tmp_path,
                service,
                *(sys.executable, "-m", "gunicorn", "--worker-class", worker, "--workers", "2"),
                *("--bind", f"127.0.0.1:{service}", f"tests.proxy.wsgi:{application}"),
                *(("--threads", "4") if worker == "gthread" else ()),
            )
        )
        async with running(
            tmp_path,
            RawUpstream(),
            dsn,
            redis_url,
            upstreams={"raw": {"urls": [f"http://127.0.0.1:{service}"]}},
        ) as gateway:
            ours = await asyncio.to_thread(count, urlsplit(gateway.url).port or 0)
            assert ours["answered"] >= 0.99 * len(UPLOADS), ours
            assert gateway.events("endpoint_ejected") == []
            if haproxy is None:
                pytest.skip("there is no HAProxy to compare with: apt-get install haproxy")
            config = tmp_path / "haproxy.cfg"
            config.write_text(_HAPROXY.format(port=other, upstream=service))
            stack.enter_context(program(tmp_path, other, haproxy, "-f", config))
            theirs = await asyncio.to_thread(count, other)
            assert ours["answered"] >= theirs["answered"], (ours, theirs)
