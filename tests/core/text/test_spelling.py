import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.core.text.spelling import Difference, difference, normal_form, spellings

UUID = "550e8400-e29b-41d4-a716-446655440000"

subjects = st.one_of(
    st.text(alphabet="aAbB7 |%2056cC{}\t\u200bé\u0301ſﬁ-", max_size=12),
    st.sampled_from([UUID, UUID.upper(), "{" + UUID + "}", UUID.replace("-", ""), "urn:uuid:" + UUID]),
    st.builds("{}|{}".format, st.sampled_from(["auth0", "Auth0", "x|y"]), st.sampled_from(["7", " 7", UUID])),
    st.text(max_size=8),
)


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ("Anna", "anna", "case"),
        ("STRASSE", "straße", "case"),
        (" anna", "anna", "spacing"),
        ("anna\r", "anna", "spacing"),
        ("anna\u00a0", "anna", "spacing"),
        ("\ufeffanna", "anna", "spacing"),
        ("anna  b", "anna b", "spacing"),
        ("auth0| 7", "auth0|7", "spacing"),
        ("anna%20b%20", "anna b", "encoding"),
        ("auth0%7C7", "auth0|7", "encoding"),
        ("auth0%257C7", "auth0|7", "encoding"),
        ("ann%40example.com", "ann@example.com", "encoding"),
        (unicodedata.normalize("NFD", "zoë"), "zoë", "encoding"),
        (UUID.upper(), UUID, "uuid"),
        (UUID.replace("-", ""), UUID, "uuid"),
        ("{" + UUID.upper() + "}", UUID, "uuid"),
        (f"urn:uuid:{UUID}", UUID, "uuid"),
        (f"auth0|{UUID.upper()}", f"auth0|{UUID}", "uuid"),
        ("auth0|7", "7", "prefix"),
        ("oauth2|custom|7", "custom|7", "prefix"),
        ("auth0|ABC", "abc", "prefix"),
        (f"ad|{UUID.upper()}", "{" + UUID + "}", "prefix"),
    ],
)
def test_the_kind_of_difference_is_named(a: str, b: str, expected: Difference) -> None:
    assert difference(a, b) == expected
    assert difference(b, a) == expected
    assert normal_form(a) == normal_form(b)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("anna", "anna"),
        ("anna", "anne"),
        ("auth0|7", "github|7"),
        ("auth0|7", "7|7"),
        ("auth0|17", "7"),
        ("a b", "ab"),
        ("", "auth0|"),
        ("x|", "y|x|"),
        ("%ff", "%FE"),
        ("100%", "100"),
        (UUID, UUID[:-1] + "1"),
    ],
)
def test_equal_subjects_and_other_users_differ_in_nothing(a: str, b: str) -> None:
    assert difference(a, b) is None
    assert difference(b, a) is None


@given(subjects, subjects)
@example("x|", "y|x|")
@example("%6ﬁ", "%6fi")
def test_two_spellings_of_a_subject_share_a_normal_form(a: str, b: str) -> None:
    differs = difference(a, b)

    assert differs == difference(b, a)
    assert differs is None or normal_form(a) == normal_form(b)


@given(subjects)
def test_every_guessed_spelling_is_one_of_the_subject(subject: str) -> None:
    for spelling, differs in spellings(subject):
        assert spelling != subject
        assert difference(subject, spelling) == differs


@pytest.mark.parametrize(
    ("subject", "guesses"),
    [
        ("ann", {"Ann", "ANN", " ann", "ann ", "auth0|ann"}),
        ("ANN", {"ann", "Ann"}),
        (
            "ann.smith@example.com",
            {"Ann.Smith@example.com", "Ann.smith@example.com", "ann.smith%40example.com"},
        ),
        ("Ann Smith", {"ann smith", "Ann%20Smith"}),
        ("auth0|ann", {"auth0|Ann", "Ann", "ann", "ANN", "auth0%7Cann", "auth0%7cann"}),
        ("émile", {"Émile", "ÉMILE"}),
        (UUID, {f"urn:uuid:{UUID}", "{" + UUID + "}", UUID.upper()}),
    ],
)
def test_guesses_usual_spellings_of_a_subject(subject: str, guesses: set[str]) -> None:
    assert guesses - {spelling for spelling, _ in spellings(subject)} == set()


@given(subjects)
def test_guesses_are_few(subject: str) -> None:
    """A million identities are each hashed in all of them."""
    assert len(list(spellings(subject))) <= 32


def test_guesses_the_spellings_of_providers_and_programs() -> None:
    assert {spelling for spelling, _ in spellings("Auth0|7")} >= {"auth0|7", "7", "Auth0%7C7"}
    assert {spelling for spelling, _ in spellings(UUID)} >= {
        UUID.upper(),
        UUID.replace("-", ""),
        "{" + UUID.upper() + "}",
    }
