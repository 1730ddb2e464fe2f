"""gunicorn, plain and with Django, answers without reading: as much arrives through us as through HAProxy."""

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
from itertools import cycle, islice
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import pytest

from tests.harness import unused_port
from tests.proxy.wsgi import BODY
from tests.sockets import PATIENCE, RawUpstream
from tests.workers.program import running

UPLOADS: Final = {1_000_000: 120, 10_000_000: 40}
"""Bytes of a body → how many of them."""
AT_ONCE: Final = 8

# Of a body with Content-Length, and in chunks, which Django's are here.
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


def upload(port: int, status: int, size: int) -> str:
    """Send a body to its end, or as far as it goes, as many clients do; then read the answer."""
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as client:
        head = f"POST /public/{status} HTTP/1.1\r\nHost: a\r\nContent-Length: {size}\r\n\r\n"
        with suppress(OSError):
            client.sendall(head.encode())
            client.sendall(bytes(size))
        answer = b""
        try:
            while not answer.endswith(_ENDS) and (data := client.recv(65536)):
                answer += data
        except OSError as error:
            return type(error).__name__
    if answer.startswith(b"HTTP/1.1 %d " % status) and BODY in answer and answer.endswith(_ENDS):
        return "answered"
    return answer.partition(b"\r\n")[0].decode() or "nothing"


def count(port: int) -> Counter[str]:
    """Send all uploads, several at once."""
    sizes = [size for size, times in UPLOADS.items() for _ in range(times)]
    statuses = islice(cycle((401, 413)), len(sizes))
    with ThreadPoolExecutor(AT_ONCE) as threads:
        return Counter(threads.map(lambda each: upload(port, *each), zip(statuses, sizes, strict=True)))


@contextmanager
def program(home: Path, port: int, *arguments: str | Path) -> Iterator[None]:
    """Run a program until it listens on the port, and further. What it leaves behind is in `home`."""
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
async def test_as_many_answers_arrive_as_through_haproxy(
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
            assert ours["answered"] >= 0.99 * sum(UPLOADS.values()), ours
            assert gateway.events("endpoint_ejected") == []
            if haproxy is None:
                pytest.skip("there is no HAProxy to compare with: apt-get install haproxy")
            config = tmp_path / "haproxy.cfg"
            config.write_text(_HAPROXY.format(port=other, upstream=service))
            stack.enter_context(program(tmp_path, other, haproxy, "-f", config))
            theirs = await asyncio.to_thread(count, other)
            assert ours["answered"] >= theirs["answered"], (ours, theirs)
