"""`gateway assertion`: rotating the keys, and what is published."""

import json
from pathlib import Path

import pytest

from tests.cli.gateway_command import GatewayCommand, gateway_command


@pytest.fixture
def gateway(tmp_path: Path, dsn: str, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> GatewayCommand:
    monkeypatch.setenv("GATEWAY_ASSERTION__TTL", "1m")
    return gateway_command(tmp_path, dsn, redis_url)


def listed(gateway: GatewayCommand) -> list[dict[str, str]]:
    keys = gateway.json("assertion", "keys")["keys"]
    assert isinstance(keys, list)
    return keys


def test_rotate_and_list(gateway: GatewayCommand) -> None:
    first = gateway.json("assertion", "rotate")
    second = gateway.json("assertion", "rotate")
    assert str(first["signs_from"]) < str(second["signs_from"])
    assert [(key["kid"], key["state"]) for key in listed(gateway)] == [
        (first["kid"], "signs"),
        (second["kid"], "waits"),
    ]
    assert str(second["kid"]) in gateway("assertion", "keys").stdout
    assert "published" in gateway("assertion", "rotate").stdout


def test_keys_in_a_file(gateway: GatewayCommand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "keys.json"
    monkeypatch.setenv("GATEWAY_ASSERTION__KEY_FILE", str(path))
    monkeypatch.setenv("GATEWAY_ASSERTION__ALGORITHM", "EdDSA")
    rotated = gateway.json("assertion", "rotate")
    assert [entry["kid"] for entry in json.loads(path.read_bytes())["keys"]] == [rotated["kid"]]
    assert listed(gateway)[0]["algorithm"] == "EdDSA"
    path.write_text("{")
    result = gateway("assertion", "keys")
    assert result.exit_code == 2
    assert "is not a file of keys" in result.stderr


def test_without_the_setting(tmp_path: Path, dsn: str, redis_url: str) -> None:
    result = gateway_command(tmp_path, dsn, redis_url)("assertion", "keys")
    assert result.exit_code == 2
    assert "`assertion` is not configured" in result.stderr
