"""What the console's replay is answered, by the process that answers it."""

import io
import json
from pathlib import Path
from typing import Any, Final

import pytest

from gateway.cli.replay import replay_pasted
from gateway.core.model import JSON
from gateway.replay import own_process
from gateway.replay.recorder import SUFFIX

CONFIGURATION: Final = """
issuers: [{name: main, issuer: https://idp.example.com/, audiences: [api], keys: {secret: "${HS_SECRET}"}}]
upstreams: {orders: {urls: ["http://orders"]}}
routes: [{name: orders, match: {path: /orders/**}, upstream: orders, require: {roles: [admin]}}]
"""


def line(number: int) -> str:
    """Return a record of a request that was allowed; of two users, one has the role `admin`."""
    claims: JSON = {
        "iss": "https://idp.example.com/", "sub": "sha256-1", "aud": "api", "exp": 1790000300,
    }  # fmt: skip
    user: JSON = {
        "id": "u1", "status": "active", "tenant": None, "roles": ["admin"] if number % 2 else [],
        "attributes": {}, "tokens_valid_after": None,
    }  # fmt: skip
    return json.dumps({
        "at": 1790000000.0, "route": "orders", "issuer": None, "verdict": "allow", "enforced": True,
        "method": "GET", "host": "api.example.com", "path": f"/orders/{number}", "client": "192.0.2.1",
        "scheme": "https", "forwards": True, "credential": True, "claims": claims, "user": user,
        "revoked": None, "redacted": [],
    }) + "\n"  # fmt: skip


@pytest.fixture
def answer(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:  # noqa: ANN401 -- a function
    monkeypatch.setattr(own_process, "bound_this_process", lambda: None)

    def ask(
        records: str | None = None, directory: Path | None = None, configuration: str = CONFIGURATION
    ) -> Any:  # noqa: ANN401 -- JSON
        question = json.dumps({"configuration": configuration, "records": records}).encode()
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(question)))
        replay_pasted(directory)
        return json.loads(capsys.readouterr().out)

    return ask


def test_changes_are_counted_and_some_of_them_listed(answer: Any) -> None:  # noqa: ANN401 -- a function
    found = answer("".join(map(line, range(20))))
    assert (found["requests"], found["changed"], found["undecided"]) == (20, 10, 0)
    assert (found["unread"], found["truncated"]) == (["HS_SECRET"], False)
    [group] = found["groups"]
    assert [group[name] for name in ("route", "before", "after", "count")] == [
        "orders", "allow", "role_missing", 10,
    ]  # fmt: skip
    assert [each["path"] for each in group["requests"]] == [
        f"/orders/{2 * number}" for number in range(own_process.SHOWN)
    ]


def test_the_newest_records_of_a_directory_are_decided(
    answer: Any,  # noqa: ANN401 -- a function
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(own_process, "AT_MOST", 3)
    (tmp_path / f"1790000000-1-1{SUFFIX}").write_text(line(0))
    (tmp_path / f"1790000001-1-2{SUFFIX}").write_text(line(1) + line(3) + line(5) + line(7)[:30])
    found = answer(directory=tmp_path)
    assert (found["requests"], found["changed"], found["truncated"]) == (3, 0, True)


def test_an_unreadable_line_is_reported_with_its_place(answer: Any) -> None:  # noqa: ANN401 -- a function
    assert answer(line(0) + "{}\n")["unreadable"].startswith("line 2 is no record")
    [problem] = answer(line(0), configuration=CONFIGURATION.replace("roles", "roled"))["problems"]
    assert (problem["field"], problem["line"]) == ("routes[0].require.roled", 4)
