"""SQL of an operator stays in the place where it is put."""

import re

import pytest

from gateway.core.text import sql_text


@pytest.mark.parametrize(
    "text",
    [
        "is_active",
        '"LockoutEnd" > now()',
        "raw ->> 'a;b--c' || E'it\\'s' || (x)[1]",
        "coalesce((a), b) = ANY (ARRAY['(', ']'])",
        "'it''s'",
    ],
)
def test_an_expression_is_one(text: str) -> None:
    sql_text.check_expression(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  ", "must not be empty"),
        ("a; DROP TABLE users", "semicolon"),
        ("a) OR (b", "has a `)` too many"),
        ("(a]", "has a `]` too many"),
        ("(a", "lacks a `)`"),
        ("a[1", "lacks a `]`"),
        ("a -- b", "must not have a comment"),
        ("a /* b */", "must not have a comment"),
        ("'a", "quote that is not closed"),
        ('"a', "quote that is not closed"),
        ("$$a$$", "dollar quotes"),
        ("'$gateway$'", "must not have the text"),
        ("a = $1", "only queries have one"),
        ("a\0b", "must not have a NUL"),
    ],
)
def test_an_expression_that_leaves_its_place_is_refused(text: str, expected: str) -> None:
    with pytest.raises(ValueError, match=re.escape(expected)):
        sql_text.check_expression(text)


def test_a_query_has_one_parameter() -> None:
    sql_text.check_query("SELECT role FROM roles WHERE person = $1")
    sql_text.check_query(" with x AS (VALUES (1)) select * from x")


@pytest.mark.parametrize(
    ("text", "expected"),
    [("DELETE FROM x", "begins with SELECT"), ("SELECT $2", "only one is $1"), ("SELECT 1;", "semicolon")],
)
def test_a_text_that_is_no_query_is_refused(text: str, expected: str) -> None:
    with pytest.raises(ValueError, match=re.escape(expected)):
        sql_text.check_query(text)


def test_the_parameter_is_replaced_outside_of_texts_alone() -> None:
    query = """SELECT '$1', "$1" FROM t WHERE id = $1 OR other = $1"""
    assert (
        sql_text.with_parameter(query, "key") == """SELECT '$1', "$1" FROM t WHERE id = key OR other = key"""
    )


def test_names_are_as_in_the_catalogs() -> None:
    assert sql_text.parts_of("auth.Users") == ("auth", "users")
    assert sql_text.parts_of('"AspNetUsers"') == (None, "AspNetUsers")
    assert sql_text.parts_of('"a""b"."C"') == ('a"b', "C")
    assert sql_text.is_table("auth.users")
    assert not sql_text.is_table("auth.users u")
    assert not sql_text.is_table("(SELECT 1)")


def test_a_column_is_known_with_a_cast_to_text() -> None:
    assert sql_text.column_of("ID") == "id"
    assert sql_text.column_of('"Id"::text') == "Id"
    assert sql_text.column_of("id :: text") == "id"
    assert sql_text.column_of("lower(id)") is None


@pytest.mark.parametrize(
    ("expression", "parts"),
    [
        ("a", ["a"]),
        ("a AND b", ["a", "b"]),
        ("((a) and (b OR c))", ["a", "b OR c"]),
        ("x = 'a AND b' AND (y)", ["x = 'a AND b'", "y"]),
        ("f(a AND b)", ["f(a AND b)"]),
        ("(a) = (b)", ["(a) = (b)"]),
        ("a OR b", None),
        ("a BETWEEN 1 AND 2", None),
    ],
)
def test_an_expression_is_taken_apart_at_its_outermost_ands(expression: str, parts: list[str] | None) -> None:
    assert sql_text.conjuncts(expression) == parts
