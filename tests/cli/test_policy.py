"""`gateway policy test`: cases against a configuration."""

import json
from pathlib import Path
from typing import Final

import pytest
from typer.testing import CliRunner

from gateway.cli.main import app

CONFIG: Final = """\
issuers:
  - {name: main, issuer: https://i.example.com/, audiences: [api], claims: {scopes: scp}, expect: {azp: web}}
  - {name: other, issuer: https://other.example.com/, audiences: [api]}
postgres: {dsn: postgresql://g@127.0.0.1/g}
redis: {url: redis://127.0.0.1}
upstreams: {orders: {urls: ["http://127.0.0.1:9000"]}}
routes:
  - {name: public, match: {path: /public/**}, upstream: orders, auth: none}
  - name: reports
    match: {path: /reports/**, methods: [GET]}
    upstream: orders
    require: {scopes: [reports], condition: 'user.attributes.plan == "pro" && now.getFullYear() == 2026'}
  - {name: guests, match: {path: /guests/**}, upstream: orders, missing_user: forward}
  - name: office
    match: {path: /office/**}
    upstream: orders
    require: {condition: 'client.ip == "10.0.0.1" && request.headers["x-office"] == "north"'}
"""
CASES: Final = """\
cases:
  - name: pro users read reports
    request: {path: /reports/7, at: "2026-05-01T00:00:00Z"}
    claims: {scp: reports}
    user: {attributes: {plan: pro}}
    expect: allow
  - request: {path: /reports/7, at: 2027-05-01T00:00:00Z}
    claims: {scp: reports}
    user: {attributes: {plan: pro}}
    expect: condition_not_met
  - request: {path: /reports/7}
    claims: {scp: reports}
    expect: {reason: condition_failed, route: reports}
  - {request: {path: /reports/7}, expect: scope_insufficient}
  - {request: {path: /reports/7, method: POST}, expect: method_not_allowed}
  - {request: {path: /reports/7}, user: {status: suspended}, expect: user_suspended}
  - {request: {path: /reports/7}, user: null, expect: user_not_found}
  - {request: {path: /reports/7}, claims: null, expect: credentials_missing}
  - {request: {path: /reports/7}, claims: {azp: stranger}, expect: claim_not_accepted}
  - {request: {path: /guests}, issuer: other, user: null, expect: allow}
  - {request: {path: /public/x}, claims: null, expect: {verdict: allow, route: public}}
  - request: {path: /office, client: 10.0.0.1, headers: {X-Office: north}}
    expect: allow
  - {request: {path: /office, client: 10.0.0.2, headers: {X-Office: north}}, expect: deny}
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    file = tmp_path / "gateway.yaml"
    file.write_text(CONFIG)
    return file


def run(config: Path, cases: str, *words: str) -> tuple[int, str, str]:
    file = config.parent / "cases.yaml"
    file.write_text(cases)
    result = CliRunner().invoke(app, ["policy", "test", str(file), "--config", str(config), *words])
    return result.exit_code, result.stdout, result.stderr


def test_cases_that_hold_pass(config: Path) -> None:
    assert run(config, CASES)[:2] == (0, "13 of 13 cases pass.\n")


def test_a_case_that_fails_is_reported_with_its_line(config: Path) -> None:
    wrong = CASES.replace("expect: user_suspended", "expect: allow").replace("route: public", "route: office")
    code, out, err = run(config, wrong)
    assert (code, out) == (1, "11 of 13 cases pass.\n")
    first, second = err.splitlines()
    assert f"{config.parent / 'cases.yaml'}:16: cases[5]: GET /reports/7: expected allow" in first
    assert "got user_suspended on route reports" in first
    assert ":21: " in second
    assert "expected allow on route office, got allow on route public" in second
    found = json.loads(run(config, wrong, "--json")[1])
    assert (found["cases"], found["passed"]) == (13, 11)
    assert [each["line"] for each in found["failed"]] == [16, 21]


def test_a_terminal_obeys_nothing_in_a_case(config: Path) -> None:
    for case in ('name: "a\\e[31m", request: {path: /nowhere}, expect: allow', '"a\\e[31m": 1'):
        _, out, err = run(config, f"cases:\n  - {{{case}}}")
        assert "\x1b" not in out + err
        assert "[31m" in err


@pytest.mark.parametrize(
    ("cases", "told"),
    [
        ("cases: []", ":1: must have one key"),
        ("case:\n  - {}", ":1: must have one key"),
        ("cases:\n  - {expect: allow}", ":2: cases[0]: request must be a mapping"),
        ("cases:\n  - {request: {}, expect: allow}", ":2: cases[0]: request.path is required"),
        ("cases:\n  - {request: {path: /}, expect: yes}", ":2: cases[0]: expect must be allow"),
        ("cases:\n  - {request: {path: /}, expect: allow, usr: {}}", "a case has no 'usr'"),
        ("cases:\n  - {request: {path: /}, user: {role: x}, expect: allow}", "user has no 'role'"),
        ("cases:\n  - {request: {path: /}, issuer: x, expect: allow}", "there is no issuer 'x'"),
        ("cases:\n  - {request: {path: /}, user: {status: x}, expect: allow}", "user.status must be one of"),
        ("cases:\n  - {request: {path: /, at: 2026-01-01}, expect: allow}", "with its zone"),
        ("cases:\n  - {request: {path: /}, expect: {verdict: allow, route: x}}", "there is no route 'x'"),
        (
            "cases:\n  - request: {path: /}\n    expect: deny\n    expect: allow",
            ":4: 'expect' is given twice: remove this one or the one on line 3",
        ),
        ("cases: [", "not YAML"),
    ],
)
def test_a_mistake_in_a_case_is_reported_with_its_line(config: Path, cases: str, told: str) -> None:
    code, _, err = run(config, cases)
    assert code == 2
    assert told in err
