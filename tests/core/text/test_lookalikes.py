"""What two subjects have to do with each other, and how that is shown."""

import base64
import unicodedata

import pytest

from gateway.core.text.lookalikes import escaped, guesses, marked, named, similarity, skeleton

CYRILLIC_A = "\u0430"


@pytest.mark.parametrize(
    ("token", "held", "kind"),
    [
        ("Ann", "ann", "case"),
        ("\uff21nn", "ann", "width"),
        ("ann\u2010marie", "ann-marie", "width"),
        ("IRIS", "\u0131r\u0131s", "turkish"),
        ('"ann"', "ann", "quotes"),
        (f"{CYRILLIC_A}nn", "ann", "confusable"),
        ("b0b", "bob", "confusable"),
        ("bamey", "barney", "confusable"),
        ("17.0", "17", "number"),
        ("1.7e1", "17", "number"),
        (base64.b64encode(b"ann:17").decode(), "ann:17", "encoded"),
        (b"ann-17".hex(), "ann-17", "encoded"),
        ("https://idp.example.com/users/ann", "ann", "wrapped"),
        ("urn:example:user:ann", "ann", "wrapped"),
        ("auth0|ann", "ann", "prefix"),
        ("tenant/ann", "ann", "prefix"),
        ("ann+news@example.com", "ann@example.com", "tag"),
        ("a.nn@gmail.com", "ann@gmail.com", "tag"),
        ("ann@example.com", "ann", "domain"),
        ("x" * 40, "x" * 36, "truncated"),
        ("UUID('ann')", "ann", "typed"),
        ("ObjectId(17a)", "17a", "typed"),
    ],
)
def test_each_kind_of_likeness_is_seen(token: str, held: str, kind: str) -> None:
    found = similarity(token, held)
    assert found is not None
    assert found.kind == kind
    assert found.words


@pytest.mark.parametrize(
    ("held", "token", "kind"),
    [
        ("auth0|ann", "ann", "prefix"),
        ("ann@example.com", "ann", "domain"),
        ("ann+x@e.org", "ann@e.org", "tag"),
    ],
)
def test_the_table_may_have_the_longer_one(held: str, token: str, kind: str) -> None:
    found = similarity(token, held)
    assert found is not None
    assert (found.kind, "the one in the table" in found.words) == (kind, True)


@pytest.mark.parametrize(
    ("token", "held"),
    [
        ("ann", "ann"),
        ("ann", "bob"),
        ("17", "18"),
        ("1_7", "17"),
        ("é", "e17"),
        ("9" * 50, "9" * 49),
        ("x" * 37, "x" * 35),
        ("ann@example.com", "ann@example.org"),
        ("ann@a.example", "bob@a.example"),
        ("bm8", "no"),
        ("////", "ann"),
        ("0xzz0000", "ann"),
    ],
)
def test_others_have_nothing_to_do_with_each_other(token: str, held: str) -> None:
    assert similarity(token, held) is None


def test_lookalikes_have_equal_skeletons() -> None:
    assert skeleton(f"P{CYRILLIC_A}ul") == skeleton("Paul") == "paul"
    assert skeleton("e\u0301") == skeleton("\u00e9") == "e"


@pytest.mark.parametrize(
    ("subject", "expected"),
    [
        ("\uff21nn", "Ann"),
        ("Ann", "ANN"),
        ("int(17)", "17"),
        ("<ann>", "ann"),
        (base64.b64encode(b"ann17").decode(), "ann17"),
        (b"ann-17".hex(), "ann-17"),
        ("ann", "616e6e"),
        ("auth0|a|ann", "ann"),
        ("auth0|a|ann", "a|ann"),
        ("a.nn+x@e.org", "a.nn@e.org"),
        ("a.nn@e.org", "ann@e.org"),
        ("+17", "17"),
        ("17.0", "17"),
        ("y" * 300, "y" * 255),
    ],
)
def test_likely_subjects_are_guessed(subject: str, expected: str) -> None:
    assert expected in set(guesses(subject))


def test_a_subject_is_shown_with_distinguishable_characters() -> None:
    assert escaped(f"{CYRILLIC_A}\u200b") == '"\\u0430\\u200b"'
    assert named("a") == "'a' (U+0061)"
    assert named(CYRILLIC_A) == f"U+0430 {unicodedata.name(CYRILLIC_A)}"
    assert named("\x00") == "U+0000 a control character"


def test_differences_are_marked_with_their_positions() -> None:
    told = marked(f"{CYRILLIC_A}nn", "ann")
    assert "character 1 is U+0430 CYRILLIC SMALL LETTER A, and 'a' (U+0061) in the table" in told
    assert marked("abcdefgh", "ABCDEFGH").endswith("and 4 more")
    longer = marked("ann\u200b", "ann")
    assert "they differ from character 4 on; the token has 1 characters more" in longer
    assert "character 4 of the token is U+200B ZERO WIDTH SPACE" in longer
    assert "the table has 2 characters more" in marked("ann", "annie")
