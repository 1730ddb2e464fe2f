import json
from pathlib import Path

from typer.testing import CliRunner

from gateway.cli.main import app
from gateway.cli.reference.reasons import page
from gateway.core.reasons import CATALOGUE

PAGE = Path(__file__).parents[2] / "docs" / "reasons.md"


def test_the_page_in_docs_is_the_generated_one() -> None:
    assert PAGE.read_text() == page(), "run: gateway reasons --markdown > docs/reasons.md"


def test_every_reason_is_on_the_page_once() -> None:
    text = page()
    for code in CATALOGUE:
        assert text.count(f"| `{code}` |") == 1


def test_one_reason_as_json() -> None:
    result = CliRunner().invoke(app, ["reasons", "user_not_found", "--json"])
    assert result.exit_code == 0
    (reason,) = json.loads(result.stdout)
    assert reason["status"] == 401
    assert reason["concealed"] is True
    assert "gateway users add" in reason["hint"]


def test_a_misspelt_reason_gets_the_nearest_one() -> None:
    result = CliRunner().invoke(app, ["reasons", "user_not_fund"])
    assert result.exit_code == 2
    assert "did you mean user_not_found?" in result.stderr
