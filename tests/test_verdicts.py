"""`make verdicts`: the tokens, and the table of clauses. The comparison itself is not run here."""

from collections import Counter
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

from bench.verdicts.cases import good, mutated
from bench.verdicts.clauses import CLAUSES, Clause, Side, clause_of

PAGE = Path(__file__).parent.parent / "docs" / "tokens.md"


def test_there_are_hundreds_of_tokens_each_with_a_name_of_its_own() -> None:
    counts = Counter(case.name for case in (*good(), *mutated()))
    assert counts.total() > 500
    assert [name for name, count in counts.items() if count > 1] == []


def test_every_pattern_of_a_clause_is_that_of_some_token() -> None:
    names = [case.name for case in mutated()]
    patterns = [pattern for clause in CLAUSES for pattern in clause.cases]
    assert [each for each in patterns if not any(fnmatchcase(name, each) for name in names)] == []


@pytest.mark.parametrize("clause", CLAUSES, ids=lambda clause: clause.title)
def test_the_page_lists_every_class_of_differences(clause: Clause) -> None:
    row = f"| {clause.title} | {clause.source} | {clause.stricter} |"
    assert row in PAGE.read_text(encoding="utf-8")


def test_a_difference_has_a_clause_only_for_the_stricter_side_and_its_reason() -> None:
    case, reason = "header: crit empty", "critical_header_unsupported"
    found = clause_of(case, Side.GATEWAY, reason)
    assert found is not None
    assert found.source == "RFC 7515 §4.1.11"
    assert clause_of(case, Side.ENVOY, reason) is None
    assert clause_of(case, Side.GATEWAY, "signature_invalid") is None
    assert clause_of("header: zip in the header", Side.GATEWAY, "token_malformed") is None
