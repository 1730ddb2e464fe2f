import shutil
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from gateway.core.model import StoreUnavailable
from gateway.stores.redis.shared_tier import RedisTier
from gateway.stores.redis.tls import TLSConnection
from gateway.stores.redis.topology import server_at
from tests.issuer_keys.test_fetch import certificate
from tests.stores.tls_front import tls_front


@pytest.mark.parametrize("url", ["rediss://a", "rediss+sentinel://a/m", "rediss+cluster://a"])
def test_all_connections_share_the_tls_context(url: str) -> None:
    server = server_at(url, "{gateway}:")
    connections = [server.connection(), server.connection()]
    if "locate" in server.settings:
        locate = server.settings["locate"]
        connections.append(locate._class(host="a", **locate._settings))
    contexts = []
    for connection in connections:
        assert isinstance(connection, TLSConnection)
        contexts.append(connection._connection_arguments()["ssl"])
    assert all(context is contexts[0] for context in contexts)


async def test_files_that_change_count_for_the_next_connection(tmp_path: Path, redis_url: str) -> None:
    port, served, trusted = urlsplit(redis_url).port, certificate(tmp_path), tmp_path / "ca.pem"
    assert port is not None
    shutil.copy(served, trusted)
    async with tls_front(served, port) as front:
        server = server_at(f"rediss://127.0.0.1:{front}?ssl_ca_certs={trusted}", "gateway:")

        async def connect() -> None:
            connection = server.connection()
            await connection.connect()  # type: ignore[no-untyped-call] # has no annotations
            await connection.disconnect()

        await connect()
        (tmp_path / "other").mkdir()
        shutil.copy(certificate(tmp_path / "other"), trusted)
        with pytest.raises(RedisConnectionError, match="CERTIFICATE_VERIFY_FAILED"):
            await connect()
        shutil.copy(served, trusted)
        await connect()


@pytest.mark.parametrize("url", ["rediss://127.0.0.1:1", "rediss+cluster://127.0.0.1:1"])
async def test_files_that_cannot_be_used(tmp_path: Path, url: str) -> None:
    file = tmp_path / "ca.pem"
    redis = RedisTier(f"{url}?ssl_ca_certs={file}", prefix="{gateway}:")
    with pytest.raises(StoreUnavailable, match=f"{file} cannot be used for TLS: No such file or directory"):
        await redis.ping()
    file.write_text("no certificate")
    with pytest.raises(StoreUnavailable, match=f"{file} cannot be used for TLS: "):
        await redis.ping()
    await redis.close()
