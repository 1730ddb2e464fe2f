"""A real PgBouncer in front of the tests' Postgres.

It is Debian's package `pgbouncer`. Without it, the tests that need it are skipped.
"""

import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO
from urllib.parse import unquote, urlsplit

import pytest

from gateway.demo.embedded import _HOST, _Server, _spawn

IGNORED = "extra_float_digits,search_path,statement_timeout,row_security"
"""What an operator tells PgBouncer to ignore among the start-up parameters of the gateway."""


class PgBouncer(_Server):
    """Pools connections to the database of `dsn`; `self.dsn` is the same database, reached through here.

    `mode` is `transaction` or `session`, `size` the number of connections to Postgres.
    """

    title = "PgBouncer"
    _stop_signal = signal.SIGTERM  # at once, with the sessions that are open

    def __init__(self, program: str, dsn: str, *, mode: str, size: int, ignored: str) -> None:
        super().__init__()
        self._program = program
        self._target = urlsplit(dsn)
        self._name = unquote(self._target.path.strip("/"))
        self._settings = {
            "listen_addr": _HOST,
            "listen_port": self.port,
            "unix_socket_dir": "",
            "auth_type": "any",
            "pool_mode": mode,
            "default_pool_size": size,
            "max_client_conn": 500,
            "ignore_startup_parameters": ignored,
            "server_round_robin": 1,
        }

    @property
    def dsn(self) -> str:
        return f"postgresql://client@{_HOST}:{self.port}/{self._name}"

    @property
    def version(self) -> tuple[int, ...]:
        said = subprocess.run([self._program, "--version"], check=True, capture_output=True, text=True)  # noqa: S603 -- a program of ours
        return tuple(map(int, said.stdout.split()[1].split(".")))

    def _launch(self, log: IO[bytes]) -> subprocess.Popen[bytes]:
        target = self._target
        login = f"user='{_quoted(target.username)}' password='{_quoted(target.password)}'"
        host = f"host={target.hostname} port={target.port or 5432}"
        lines = [
            "[databases]",
            f"{self._name} = {host} dbname='{self._name}' {login}",
            "[pgbouncer]",
            *(f"{name} = {value}" for name, value in self._settings.items()),
        ]
        file = self._temporary_folder() / "pgbouncer.ini"
        file.write_text("\n".join(lines) + "\n")
        for path in (file, file.parent):
            if self._account is not None:
                shutil.chown(path, self._account.uid, self._account.gid)
        return _spawn([self._program, file], self._account, output=log)

    def _ready(self, pid: int) -> bool:  # noqa: ARG002 -- part of the seam; the port itself is tried
        try:
            socket.create_connection((_HOST, self.port), timeout=1).close()
        except OSError:
            return False
        return True


def _quoted(text: str | None) -> str:
    return unquote(text or "").replace("'", "''")


@contextmanager
def pgbouncer(
    dsn: str, *, mode: str = "transaction", size: int = 4, ignored: str = IGNORED
) -> Iterator[PgBouncer]:
    """Run a PgBouncer; skips the test where the program is missing."""
    program = shutil.which("pgbouncer", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
    if program is None:
        pytest.skip("there is no PgBouncer: apt-get install pgbouncer")
    with PgBouncer(program, dsn, mode=mode, size=size, ignored=ignored) as server:
        yield server
