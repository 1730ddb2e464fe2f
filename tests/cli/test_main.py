"""The command line as a whole."""

import subprocess
import sys

import pytest

from gateway import __main__ as entry
from gateway.cli.terminal import output

HEAVY = ("aiohttp", "asyncpg", "cryptography", "prometheus_client", "pydantic", "redis", "yaml")


def test_the_help_answers_at_once_since_it_imports_little() -> None:
    code = f"import sys, gateway.cli.main; print([name for name in {HEAVY!r} if name in sys.modules])"

    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)  # noqa: S603

    assert ran.stdout == "[]\n"


def test_a_fault_of_ours_has_a_code_of_its_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(**_: object) -> None:
        local = "a-local-value"
        raise RuntimeError(f"broken, {len(local)}")

    monkeypatch.setattr(entry, "app", broken)

    with pytest.raises(SystemExit) as caught:
        entry.main()

    assert caught.value.code == output.BUG
    captured = capsys.readouterr().err
    assert "RuntimeError: broken" in captured
    assert "a-local-value'" not in captured
