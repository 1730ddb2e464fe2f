"""`gateway explain --request`: from a client's complaint to its cause, by a running gateway."""

import asyncio
import json
import shlex
from pathlib import Path
from urllib.parse import urlsplit

from tests.admin.client import TOKEN
from tests.cli.gateway_command import GatewayCommand, gateway_command
from tests.harness import open_house, token


def configured(folder: Path, admin: str | None, dsn: str, redis_url: str) -> GatewayCommand:
    gateway = gateway_command(folder, dsn, redis_url)
    if admin is not None:
        listen = urlsplit(admin).netloc
        gateway.config.write_text(
            gateway.config.read_text() + f"admin: {{listen: '{listen}', token: {TOKEN}}}\n"
        )
    return gateway


async def test_a_request_id_leads_to_the_cause(tmp_path: Path, dsn: str, redis_url: str) -> None:
    async with open_house(tmp_path, dsn, redis_url, admin={"token": TOKEN}) as house:
        gateway = configured(tmp_path, house.admin_url, dsn, redis_url)
        refused = await house.request("/private/x", token=token("suspended"))
        request_id = str(refused.problem["request_id"])

        shown = await asyncio.to_thread(gateway, "explain", "--request", request_id)
        document = await asyncio.to_thread(gateway, "explain", "--request", request_id, "--json")
        unknown = await asyncio.to_thread(gateway, "explain", "--request", "of-nobody")

    assert shown.exit_code == document.exit_code == 1, shown.output
    assert "DENY  user_suspended" in shown.stdout
    # As without --request, the command can be pasted: it names the configuration.
    (command,) = (line for line in shown.stdout.splitlines() if "users activate" in line)
    assert shlex.split(command)[-2:] == ["--config", str(gateway.config)]
    assert "it is not kept" in shown.stdout
    assert "expected: None" not in shown.stdout
    found = json.loads(document.stdout)
    assert (found["decision"], found["reason"], found["cause"]) == (
        "deny", "user_suspended", "user_suspended",
    )  # fmt: skip
    assert unknown.exit_code == 1
    assert "keeps no denial of the request of-nobody" in unknown.stderr


def test_a_gateway_that_cannot_be_asked(tmp_path: Path) -> None:
    stores = "postgresql://127.0.0.1:1/none", "redis://127.0.0.1:1"
    off = configured(tmp_path, None, *stores)("explain", "--request", "the-id")
    away = configured(tmp_path, "http://127.0.0.1:1", *stores)("explain", "--request", "the-id")
    both = configured(tmp_path, None, *stores)("explain", "a.b.c", "--request", "the-id")

    assert (off.exit_code, away.exit_code, both.exit_code) == (2, 3, 2)
    assert "the admin API is off: admin.token is not set" in off.stderr
    assert "search its log for the-id" in off.stderr
    assert "The admin API at 127.0.0.1:1 cannot be reached" in away.stderr
    assert "--request needs nothing else" in both.stderr
