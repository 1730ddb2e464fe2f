from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis as Client

from tests.cli.gateway_command import ISS, GatewayCommand, gateway_command


@pytest.fixture
def gateway(tmp_path: Path, dsn: str, redis_url: str) -> GatewayCommand:
    return gateway_command(tmp_path, dsn, redis_url)


@pytest.fixture
def redis(redis_url: str) -> Iterator[Client]:
    with Client.from_url(redis_url) as client:
        yield client


@pytest.mark.parametrize("spelling", ["main", ISS])
def test_a_jti(gateway: GatewayCommand, redis: Client, spelling: str) -> None:
    gateway.json("revoke", "jti", "main", "t-1")
    kept = gateway.json("revoke", "jti", "main", "t-2")
    assert gateway.json("revocations", "lift", "jti", spelling, "t-1") == {
        "lifted": {"kind": "jti", "issuer": "main", "value": "t-1"}
    }
    assert redis.keys("gateway:revoked:*") == [b"gateway:revoked:jti:main:t-2"]
    assert gateway.json("revocations", "list")["revocations"] == [kept]


def test_a_user(gateway: GatewayCommand, redis: Client) -> None:
    user = gateway.json("users", "add", "--issuer", "main", "--subject", "ann")["id"]
    for spelling in ("main:ann", str(user), str(user).upper()):
        gateway.json("revoke", "user", "main:ann")
        assert gateway("revocations", "lift", "user", spelling).stdout == "lifted\n"
        assert redis.keys("gateway:revoked:*") == []
        assert gateway.json("revocations", "list")["revocations"] == []
    assert gateway("revocations", "lift", "user", "main:ghost").exit_code == 1


def test_an_issuer(gateway: GatewayCommand, redis: Client) -> None:
    gateway.json("revoke", "issuer", "main")
    gateway.json("revoke", "jti", "main", "t-1")
    assert gateway("revocations", "lift", "issuer", "main").exit_code == 0
    assert redis.keys("gateway:revoked:*") == [b"gateway:revoked:jti:main:t-1"]
    assert gateway("revocations", "lift", "issuer", "other").exit_code == 1


def test_a_revocation_of_a_removed_issuer_is_lifted(gateway: GatewayCommand, redis: Client) -> None:
    gateway.json("revoke", "jti", "main", "t-1")
    gateway.json("revoke", "issuer", "main")
    gateway.config.write_text(gateway.config.read_text().replace("name: main", "name: other"))
    assert gateway("revocations", "lift", "jti", "main", "t-1").stdout == "lifted\n"
    assert gateway("revocations", "lift", "issuer", "main").stdout == "lifted\n"
    assert redis.keys("gateway:revoked:*") == []
    assert gateway.json("revocations", "list")["revocations"] == []


def test_a_revocation_that_only_redis_has_is_lifted(gateway: GatewayCommand, redis: Client) -> None:
    redis.set("gateway:revoked:jti:main:t-1", "1")
    assert gateway("revocations", "lift", "jti", "main", "t-1").exit_code == 0
    assert redis.keys("gateway:revoked:*") == []


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (("jti", "main", "t-1"), "token"),
        (("user", "0e5f2a31-7d0c-4d6e-9c2b-1f3a5b7c9d01"), "user"),
        (("issuer", "main"), "issuer"),
    ],
)
def test_a_target_without_a_revocation_is_refused(
    gateway: GatewayCommand, words: tuple[str, ...], what: str
) -> None:
    result = gateway("revocations", "lift", *words)
    assert (result.exit_code, result.stdout) == (1, "")
    assert f"there is no such revocation of this {what}" in result.stderr


def test_redis_down_is_said_and_the_command_can_be_repeated(
    tmp_path: Path, dsn: str, gateway: GatewayCommand, redis: Client
) -> None:
    gateway.json("revoke", "jti", "main", "t-1")
    (tmp_path / "other").mkdir()
    without = gateway_command(tmp_path / "other", dsn, "redis://127.0.0.1:1")
    result = without("revocations", "lift", "jti", "main", "t-1")
    assert result.exit_code == 3
    assert "lifted in Postgres, but redis is unavailable: 127.0.0.1:1" in result.stderr
    assert redis.exists("gateway:revoked:jti:main:t-1")
    assert gateway("revocations", "lift", "jti", "main", "t-1").exit_code == 0
    assert not redis.exists("gateway:revoked:jti:main:t-1")
