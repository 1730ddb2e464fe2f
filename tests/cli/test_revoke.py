import base64
import json
import re
import time
from collections.abc import Iterator
from datetime import datetime
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


def text(output: str) -> str:
    return re.sub(r"\s+", " ", output)


def token(**claims: object) -> str:
    """A token whose signature is not checked."""
    header = {"alg": "RS256", "kid": "k"}
    parts = [json.dumps(part).encode() for part in (header, {"iss": ISS, "sub": "ann", **claims})]
    parts.append(b"signature")
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts)


def seconds(rfc3339: object) -> float:
    return datetime.fromisoformat(str(rfc3339)).timestamp()


@pytest.mark.parametrize("stdin", [True, False])
def test_a_token_until_it_expires(gateway: GatewayCommand, redis: Client, stdin: bool) -> None:
    exp = int(time.time()) + 1000
    raw = token(jti="t-1", exp=exp)
    row = (
        gateway.json("revoke", "token", "-", "--reason", "lost", stdin=f"{raw}\n")
        if stdin
        else gateway.json("revoke", "token", raw, "--reason", "lost")
    )
    assert (row["kind"], row["issuer"], row["value"], row["reason"]) == ("jti", "main", "t-1", "lost")
    # Twice the issuer's leeway longer: clocks differ.
    assert seconds(row["expires_at"]) == exp + 60
    assert 1050 <= int(redis.ttl("gateway:revoked:jti:main:t-1")) <= 1060
    assert gateway.json("revocations", "list")["revocations"] == [row]


def test_a_token_that_never_expires_is_revoked_for_ever(gateway: GatewayCommand, redis: Client) -> None:
    assert gateway.json("revoke", "token", token(jti="t-1"))["expires_at"] is None
    assert redis.ttl("gateway:revoked:jti:main:t-1") == -1


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (
            token(),
            "no `jti`, so it cannot be revoked singly"
            " → revoke all tokens of the user: gateway revoke user ID",
        ),
        (token(jti=""), "no `jti`"),
        (
            token(jti="x", iss="https://other.example.com"),
            "no issuer `https://other.example.com` is configured",
        ),
        (token(jti="x", iss=None), "names no issuer"),
        (token(jti="a\nb"), "so the gateway refuses it anyway"),
        (token(jti="x", exp=10**400), "so the gateway refuses it anyway"),
        ("not.a.token", "the gateway would not accept this token"),
        ("", "the gateway would not accept this token"),
        (b"\xff.\xfe.\xfd", "the gateway would not accept this token"),
    ],
)
def test_tokens_that_cannot_be_revoked(gateway: GatewayCommand, raw: str | bytes, why: str) -> None:
    result = gateway("revoke", "token", "-", stdin=raw)
    assert result.exit_code == 1
    assert why in text(result.stderr)
    assert gateway.json("revocations", "list")["revocations"] == []


def test_an_argument_that_is_no_text_is_no_token(gateway: GatewayCommand) -> None:
    result = gateway("revoke", "token", "\udcff")
    assert result.exit_code == 1
    assert "the gateway would not accept this token" in text(result.stderr)


def test_a_jti_by_hand(gateway: GatewayCommand, redis: Client) -> None:
    assert gateway.json("revoke", "jti", "main", "t-1")["expires_at"] is None
    row = gateway.json("revoke", "jti", ISS, "t-2", "--until", "24h")
    assert row["issuer"] == "main"
    assert abs(seconds(row["expires_at"]) - time.time() - 86_400) < 10
    assert redis.exists("gateway:revoked:jti:main:t-1", "gateway:revoked:jti:main:t-2") == 2


def test_a_jti_by_hand_outlives_any_token(tmp_path: Path, dsn: str, redis_url: str) -> None:
    gateway = gateway_command(tmp_path, dsn, redis_url, more="max_lifetime: 1h")
    row = gateway.json("revoke", "jti", "main", "t-1")
    assert abs(seconds(row["expires_at"]) - time.time() - 3660) < 10


def test_a_user(gateway: GatewayCommand, redis: Client) -> None:
    user = gateway.json("users", "add", "--issuer", "main", "--subject", "ann")
    before = time.time()
    row = gateway.json("revoke", "user", "main:ann")
    assert (row["kind"], row["issuer"], row["value"], row["expires_at"]) == ("user", "", user["id"], None)
    held = redis.get(f"gateway:revoked:user:{user['id']}")
    assert isinstance(held, bytes)
    assert abs(float(held) - before) < 10
    assert gateway("revoke", "user", "main:ghost").exit_code == 1


def test_an_issuer(gateway: GatewayCommand, redis: Client) -> None:
    row = gateway.json("revoke", "issuer", "main", "--until", "2100-01-01T00:00:00Z")
    assert (row["kind"], row["issuer"], row["value"]) == ("issuer", "main", "")
    assert row["expires_at"] == "2100-01-01T00:00:00Z"
    assert redis.exists("gateway:revoked:issuer:main") == 1
    assert gateway("revoke", "issuer", "other").exit_code == 1


@pytest.mark.parametrize(
    "until", ["tomorrow", "10", "2100-01-01T00:00:00", "2001-01-01T00:00:00Z", "0s", "99999999h"]
)
def test_an_until_that_means_nothing(gateway: GatewayCommand, until: str) -> None:
    result = gateway("revoke", "issuer", "main", "--until", until)
    assert result.exit_code == 2
    assert "--until" in result.stderr


@pytest.mark.parametrize("jti", ["", "a\nb", "\udcff"])
def test_a_jti_that_no_token_has(gateway: GatewayCommand, jti: str) -> None:
    result = gateway("revoke", "jti", "main", jti)
    assert result.exit_code == 2
    assert "no token can have this `jti`" in text(result.stderr)
    assert gateway.json("revocations", "list")["revocations"] == []


def test_a_reason_that_is_no_text(gateway: GatewayCommand) -> None:
    result = gateway("revoke", "issuer", "main", "--reason", "\udcff")
    assert result.exit_code == 2
    assert "not UTF-8" in result.stderr


def test_list_and_prune(gateway: GatewayCommand) -> None:
    gateway.json("revoke", "token", token(jti="over", exp=int(time.time()) - 100))
    gateway.json("revoke", "issuer", "main", "--reason", "keys leaked")
    result = gateway("revocations", "list")
    assert "keys leaked" in result.stdout
    assert "over" not in result.stdout
    assert "over" in gateway("revocations", "list", "--expired").stdout
    assert gateway.json("revocations", "prune") == {"pruned": 1}
    assert gateway("revocations", "prune").stdout == "0 deleted\n"


def test_redis_down_is_said_after_the_row_was_written(
    tmp_path: Path, dsn: str, gateway: GatewayCommand
) -> None:
    without = gateway_command(tmp_path, dsn, "redis://127.0.0.1:1")
    result = without("revoke", "jti", "main", "t-1")
    assert result.exit_code == 3
    assert "recorded in Postgres, but redis is unavailable: 127.0.0.1:1" in text(result.stderr)
    assert "t-1" in without("revocations", "list").stdout
