"""The limit of the depth of JSON from outside, and the handling of odd values."""

import json
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.text.json_text import MAX_DEPTH, MAX_VALUES, Repeated, TooDeep, check_depth, oddity, read


def depth_of(value: object) -> int:
    """Count levels as the rule has it, on a parsed value."""
    if isinstance(value, dict):
        return 1 + max(map(depth_of, value.values()), default=0)
    if isinstance(value, list):
        return 1 + max(map(depth_of, value), default=0)
    return 0


def lists(levels: int) -> bytes:
    return b"[" * levels + b"]" * levels


def objects(levels: int) -> bytes:
    return b'{"a":' * levels + b"1" + b"}" * levels


@pytest.mark.parametrize("nested", [lists, objects])
def test_the_depth_is_bounded(nested: Callable[[int], bytes]) -> None:
    check_depth(nested(MAX_DEPTH))
    for levels in (MAX_DEPTH + 1, 1000, 100_000):
        with pytest.raises(TooDeep, match="64 levels"):
            check_depth(nested(levels))


@pytest.mark.parametrize(
    "text",
    [
        b"[" + b"[]," * 1000 + b"[]]",
        b'{"a": "' + b"[" * 1000 + b'"}',
        b'["' + b"\\\\" * 99 + b'", "' + b"[{" * 99 + b'"]',
        b'["\\"' + b"[" * 1000 + b'\\""]',
        '["é漢[["]'.encode(),
        lists(MAX_DEPTH - 1).replace(b"[]", b"[" + b"[]," * 200 + b"1]"),
    ],
    ids=["wide", "text", "backslashes", "quotes", "unicode", "wide-and-deep"],
)
def test_wide_values_and_brackets_in_texts_are_not_deep(text: bytes) -> None:
    assert depth_of(json.loads(text)) <= MAX_DEPTH
    check_depth(text)


@pytest.mark.parametrize("start", [b'["a"', b'["\\\\"', b'["\\""', b'{"[": "]", "b": ["]"'])
def test_brackets_after_a_text_count(start: bytes) -> None:
    end = b"]}" if start[:1] == b"{" else b"]"
    text = start + b"," + lists(MAX_DEPTH) + end
    assert depth_of(json.loads(text)) > MAX_DEPTH
    with pytest.raises(TooDeep):
        check_depth(text)


def test_depth_is_found_wherever_it_is() -> None:
    """Brackets are counted in slices: what lies across two of them is seen too."""
    for wide in (0, 32_700, 32_760, 40_000, 65_536):
        with pytest.raises(TooDeep):
            check_depth(b"[" + b"[]," * wide + lists(MAX_DEPTH) + b"]")


def test_a_text_without_end_takes_linear_time() -> None:
    """A search that began anew at each escaped quote would take hours."""
    check_depth(b"[" + b"[]," * MAX_DEPTH + b'["' + b'\\"' * 250_000)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=30,
)


@given(JSON_VALUES, st.integers(0, 130))
def test_the_rule_is_that_of_the_parsed_value(value: object, levels: int) -> None:
    for _ in range(levels):
        value = [value]
    text = json.dumps(value).encode()
    if depth_of(value) > MAX_DEPTH:
        with pytest.raises(TooDeep):
            check_depth(text)
        assert depth_of(read(text)) == MAX_DEPTH
        assert oddity(read(text)) is not None
    else:
        check_depth(text)
        assert read(text) == value
        assert oddity(read(text)) is None


@given(st.binary(max_size=300), st.integers(0, 100))
def test_bytes_of_any_kind_are_read_or_refused(junk: bytes, levels: int) -> None:
    text = b"[" * levels + junk + b"]" * levels
    try:
        read(text)
    except ValueError as error:
        str(error).encode("utf-8", "surrogatepass")


@pytest.mark.parametrize(
    "odd",
    [b"1e999", b"-1e999", b"9" * 5000, b"NaN", b"Infinity", rb'"\ud800"', b'"\xff"', b'{"a":1,"a":1}',
     rb'{"\udfff":1}', b'[[{"b":[1e999]}]]',
     lists(1000), objects(20_000), b'["]", ' + lists(MAX_DEPTH) + b', "["]'],
)  # fmt: skip
def test_one_odd_value_spoils_nothing_beside_it(odd: bytes) -> None:
    value = read(b'{"good": {"a": [1, 1.5, "\xc3\xa9", null, true]}, "odd": ' + odd + b"}")
    assert isinstance(value, dict)
    assert value["good"] == {"a": [1, 1.5, "é", None, True]}
    assert oddity(value["good"]) is None
    assert oddity(value["odd"]) is not None
    assert oddity(value) is not None


def test_names_that_occur_twice_are_reported() -> None:
    value = read(b'{"a": 1, "b": 2, "a": 3}')
    assert isinstance(value, Repeated)
    assert list(value.items()) == [("a", 3), ("b", 2)]
    assert value.names == {"a"}


@pytest.mark.parametrize("text", [b"", b"{", b"nul", b"\xff", b'"a\nb"', b"[1,]", b"{} {}", b"01"])
def test_a_text_that_is_not_json_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        read(text)


def test_the_number_of_values_is_bounded() -> None:
    assert len(str(read(b"[" + b"1," * (MAX_VALUES - 2) + b"1]"))) > MAX_VALUES
    for text in (b"[" + b"1," * MAX_VALUES + b"1]", lists(60) * 1000):
        with pytest.raises(ValueError, match="more than 50000 values"):
            read(text)
