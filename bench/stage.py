"""What stands around a proxy under measurement: users in real stores, tokens, and an upstream."""

import asyncio
import os
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import asyncpg

from bench.processes import HOST, Cores, Process, free_port, python, status
from bench.programs import found
from bench.tokens import ISSUER, Tokens, make_tokens
from gateway.backends.migrate import migrate
from gateway.demo.embedded import EmbeddedPostgres, EmbeddedRedis

USERS: Final = 1000
EMPTY_SCHEMA: Final = "empty"
"""Tables without a user in them."""

ANSWER: Final = "x" * 100

_UPSTREAM: Final = """\
daemon off;
worker_processes 1;
pid {folder}/upstream.pid;
error_log stderr;
events {{ worker_connections 8192; }}
http {{
  access_log off;
  keepalive_requests 1000000000;
  keepalive_timeout 1h;
  client_body_temp_path {folder}/upstream-body;
  proxy_temp_path {folder}/upstream-proxy;
  fastcgi_temp_path {folder}/upstream-fastcgi;
  uwsgi_temp_path {folder}/upstream-uwsgi;
  scgi_temp_path {folder}/upstream-scgi;
  server {{
    listen {host}:{port} backlog=4096;
    location / {{ return 200 "{answer}"; }}
  }}
}}
"""


@dataclass(frozen=True, slots=True)
class Stage:
    """Everything around the proxy, up and running."""

    folder: Path
    cores: Cores
    tokens: Tokens
    tokens_file: Path
    """One token per line."""
    jwks_file: Path
    pem_file: Path
    upstream: int
    """The port of the service that answers every GET with 100 bytes."""
    bulk: int
    """The port of the service that sends and takes large bodies."""
    postgres: str
    redis: str

    def run(self, name: str, *command: str | Path) -> Process:
        """Start a proxy on the core that is kept for it."""
        return Process(command, log=self.folder / f"{name}.log", core=self.cores.proxy)


@contextmanager
def build_stage(cores: Cores) -> Iterator[Stage]:
    """Start everything around the proxy, and stop it at the end.

    Raises Refused when a program is missing, `EmbeddedError` when a store does not start.
    """
    os.sched_setaffinity(0, cores.rest)  # inherited by all that is started here
    nginx = found("nginx")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="gateway-bench-")))
        tokens = make_tokens(USERS)
        stage = Stage(
            folder=folder,
            cores=cores,
            tokens=tokens,
            tokens_file=_write(folder / "tokens", "\n".join(tokens.good).encode()),
            jwks_file=_write(folder / "jwks.json", tokens.jwks.encode()),
            pem_file=_write(folder / "public.pem", tokens.pem),
            upstream=free_port(),
            bulk=free_port(),
            postgres=stack.enter_context(EmbeddedPostgres()).dsn,
            redis=stack.enter_context(EmbeddedRedis()).url,
        )
        asyncio.run(_seed(stage.postgres, tokens.subjects))
        configuration = _UPSTREAM.format(folder=folder, host=HOST, port=stage.upstream, answer=ANSWER)
        file = _write(folder / "upstream.conf", configuration.encode())
        for name, command, port in (
            ("upstream", (nginx, "-p", folder, "-c", file), stage.upstream),
            ("bulk upstream", python("bench.bulk", str(stage.bulk)), stage.bulk),
        ):
            process = stack.enter_context(Process(command, log=folder / f"{name}.log"))
            process.until(partial(_answers, port))
        yield stage


def _answers(port: int) -> bool:
    return status(port, "/0") == 200


def _write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


async def _seed(dsn: str, subjects: tuple[str, ...]) -> None:
    """Create the tables twice, and in the first of them an active user for each subject."""
    await migrate(dsn)
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(f"CREATE SCHEMA IF NOT EXISTS {EMPTY_SCHEMA}")
        users = [(uuid.uuid4(), subject) for subject in subjects]
        await connection.executemany(
            "INSERT INTO users (id, tenant, email, display_name, roles)"
            " VALUES ($1, 'bench', $2 || '@example.com', $2, '{member}')",
            users,
        )
        await connection.executemany(
            "INSERT INTO identities (issuer, subject, user_id) VALUES ($1, $2, $3)",
            [(ISSUER, subject, user) for user, subject in users],
        )
    finally:
        await connection.close()
    await migrate(dsn, EMPTY_SCHEMA)
