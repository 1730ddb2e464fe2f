"""The surroundings of a measured proxy: users in real stores, tokens, and an upstream."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from bench.certificates import Certificate
from bench.population import Population, settle
from bench.processes import HOST, Cores, Process, free_port, python, status
from bench.programs import found
from bench.tokens import Signer, subject
from gateway.demo.embedded import EmbeddedPostgres, EmbeddedRedis

USERS: Final = 1000
"""The default number of users with tokens."""

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
  client_max_body_size 0;
  proxy_temp_path {folder}/upstream-proxy;
  fastcgi_temp_path {folder}/upstream-fastcgi;
  uwsgi_temp_path {folder}/upstream-uwsgi;
  scgi_temp_path {folder}/upstream-scgi;
  upstream answer {{ server {host}:{inner}; keepalive 64; keepalive_requests 1000000000; }}
  server {{
    listen {host}:{inner};
    location / {{ return 200 "{answer}"; }}
  }}
  server {{
    listen {host}:{port} backlog=4096;
    location / {{ return 200 "{answer}"; }}
    # `return` answers before it has read a body.
    location /bodies/ {{
      client_body_buffer_size 256k;
      proxy_pass http://answer;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_set_header Content-Length "";
      proxy_pass_request_body off;
    }}
  }}
}}
"""


@dataclass(frozen=True, slots=True)
class Stage:
    """Everything around the proxy, running."""

    folder: Path
    cores: Cores
    signer: Signer
    """The issuer of tokens with RS256."""
    forged: str
    """A token like the good ones, but signed with another key."""
    pem_file: Path
    certificate: Certificate
    """For listeners that speak TLS."""
    upstream: int
    """The port of the service that answers with 100 bytes; below `/bodies/` once it has read the body."""
    bulk: int
    """The port of the service that sends and takes large bodies."""
    postgres: str
    redis: str
    _populations: dict[str, Population] = field(default_factory=dict)

    @property
    def people(self) -> Population:
        """1,000 users, with an RS256 token each."""
        return self.population("public", users=USERS, signer=self.signer, holders=range(USERS))

    @property
    def spoilt(self) -> str:
        """A good token with a spoilt signature."""
        return _spoilt(self.people.tokens[0])

    @property
    def spoilt_tokens_file(self) -> Path:
        """The tokens of the 1,000 users, each with a spoilt signature."""
        return _write(self.folder / "spoilt.tokens", "\n".join(map(_spoilt, self.people.tokens)).encode())

    def population(self, schema: str, *, users: int, signer: Signer, holders: Sequence[int]) -> Population:
        """Return the users of a schema and the tokens of the holders among them; made by the first call."""
        if schema not in self._populations:
            self._populations[schema] = settle(
                self.folder, self.postgres, schema=schema, users=users, signer=signer, holders=holders
            )
        return self._populations[schema]

    def run(
        self,
        name: str,
        *command: str | Path,
        cores: frozenset[int] | None = None,
        variables: Mapping[str, str] | None = None,
    ) -> Process:
        """Start a proxy, by default on the core for the proxy. It gets `variables` in its environment."""
        log = self.folder / f"{name}.log"
        return Process(command, log=log, cores=cores or frozenset({self.cores.proxy}), variables=variables)


@contextmanager
def build_stage(cores: Cores) -> Iterator[Stage]:
    """Start everything around the proxy, and stop it at the end.

    Raises Refused when a program is missing, `EmbeddedError` when a store does not start.
    """
    os.sched_setaffinity(0, cores.rest)  # inherited by all programs that are started here
    nginx = found("nginx")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="gateway-bench-")))
        signer = Signer.rs256()
        stage = Stage(
            folder=folder,
            cores=cores,
            signer=signer,
            forged=Signer.rs256().token(subject(0)),
            certificate=Certificate.make(folder),
            pem_file=_write(folder / "public.pem", signer.pem),
            upstream=free_port(),
            bulk=free_port(),
            postgres=stack.enter_context(EmbeddedPostgres()).dsn,
            redis=stack.enter_context(EmbeddedRedis()).url,
        )
        configuration = _UPSTREAM.format(
            folder=folder, host=HOST, port=stage.upstream, inner=free_port(), answer=ANSWER
        )
        file = _write(folder / "upstream.conf", configuration.encode())
        for name, command, port in (
            ("upstream", (nginx, "-p", folder, "-c", file), stage.upstream),
            ("bulk upstream", python("bench.bulk", str(stage.bulk)), stage.bulk),
        ):
            process = stack.enter_context(Process(command, log=folder / f"{name}.log"))
            process.until(partial(_answers, port))
        yield stage


def _spoilt(token: str) -> str:
    signed, _, signature = token.rpartition(".")
    return f"{signed}.{signature[:20]}{'A' if signature[20] != 'A' else 'B'}{signature[21:]}"


def _answers(port: int) -> bool:
    return status(port, "/0") == 200


def _write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path
