"""TLS to Postgres, with a program in front of a real one that terminates it."""

import asyncio
import shutil
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from gateway.core.model import StoreUnavailable
from gateway.stores.postgres.database import Postgres
from gateway.stores.postgres.hosts import servers_of
from gateway.stores.postgres.tls import strict_context
from tests.proxy.upstream.test_tls import Authority
from tests.stores.tls_front import port_of


@asynccontextmanager
async def tls_postgres(certificate: Path, dsn: str) -> AsyncIterator[str]:
    """Take TLS off in front of the Postgres at `dsn`; yields a DSN that leads through it."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate)
    ((host, port),) = servers_of(dsn)
    tasks: set[asyncio.Task[None]] = set()

    async def copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(65536):
                target.write(data)
        except OSError:
            pass  # the other end is gone
        finally:
            target.transport.abort()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        try:
            await reader.readexactly(8)  # SSLRequest
            writer.write(b"S")
            await writer.start_tls(tls)
            far_reader, far_writer = await asyncio.open_connection(host, port)
        except (OSError, asyncio.IncompleteReadError):
            writer.transport.abort()
            return
        await asyncio.gather(copy(reader, far_writer), copy(far_reader, writer))

    server = await asyncio.start_server(relay, "127.0.0.1", 0)
    parts = urlsplit(dsn)
    login = parts.netloc.rpartition("@")[0]
    try:
        yield f"postgresql://{login}@127.0.0.1:{port_of(server)}{parts.path}"
    finally:
        server.close()
        ending = tuple(tasks)
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """An authority without an Authority Key Identifier."""
    authority = Authority.create(tmp_path_factory.mktemp("tls"), "authority")
    authority.issue("localhost")
    return authority


@pytest.mark.parametrize("mode", ["require", "verify-ca", "verify-full"])
async def test_strictness_is_a_setting(authority: Authority, dsn: str, mode: str) -> None:
    async with tls_postgres(authority.folder / "localhost.crt", dsn) as front:
        front += f"?sslmode={mode}&sslrootcert={authority.folder / 'authority.pem'}"
        lax, strict = Postgres(front), Postgres(front, tls_strict=True)
        try:
            await lax.ping()
            with pytest.raises(StoreUnavailable, match="Missing Authority Key Identifier") as caught:
                await strict.ping()
            assert "`postgres.tls.strict` requires this" in caught.value.detail
        finally:
            await lax.close()
            await strict.close()


@pytest.mark.parametrize("mode", ["disable", "allow", "prefer", "require"])
def test_strict_has_no_effect_without_verification(
    mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert strict_context(f"postgresql://a@h/d?sslmode={mode}") is None


@pytest.mark.parametrize("mode", ["require", "verify-ca", "verify-full"])
def test_a_strict_context_is_as_the_dsn_says(authority: Authority, tmp_path: Path, mode: str) -> None:
    root, own = authority.folder / "authority.pem", tmp_path / "own.pem"
    shutil.copy(authority.folder / "localhost.crt", own)
    files = f"sslrootcert={root}&sslcert={own}&ssl_min_protocol_version=TLSv1.3"
    context = strict_context(f"postgresql://a@h/d?sslmode={mode}&{files}")
    assert context is not None
    assert context.verify_flags & ssl.VerifyFlags.VERIFY_X509_STRICT
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname is (mode == "verify-full")
    assert context.minimum_version is ssl.TLSVersion.TLSv1_3
    assert len(context.get_ca_certs()) == 1


def test_a_file_that_is_not_there_is_an_error() -> None:
    with pytest.raises(FileNotFoundError):
        strict_context("postgresql://a@h/d?sslmode=verify-full&sslrootcert=/nowhere/ca.pem")


@pytest.mark.parametrize("name", ["ssl_min_protocol_version", "ssl_max_protocol_version"])
def test_a_version_of_tls_that_does_not_exist_is_refused(authority: Authority, name: str) -> None:
    root = authority.folder / "authority.pem"
    with pytest.raises(OSError, match=f"{name} of the DSN is not a version of TLS: 'x'"):
        strict_context(f"postgresql://h/d?sslmode=verify-full&sslrootcert={root}&{name}=x")
