"""Keys are built and parsed in one place, and parsing reverses building."""

import ast
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import gateway
from gateway.core.revocations import Target
from gateway.stores.redis.keys import Keys

KEYS = Keys("gateway:")
NAMES = st.text(st.characters(exclude_characters=":", codec="utf-8"), min_size=1)
TEXTS = st.text(st.characters(codec="utf-8"))


@given(name=NAMES, subject=TEXTS)
def test_a_tombstone_is_read_as_it_was_built(name: str, subject: str) -> None:
    assert KEYS.read(KEYS.tombstone(name, subject)) == ("tombstone", name, subject)


@given(
    target=st.tuples(st.just("jti"), NAMES, TEXTS)
    | st.tuples(st.just("user"), st.just(""), TEXTS)
    | st.tuples(st.just("issuer"), NAMES, st.just(""))
)
def test_a_revocation_is_read_as_it_was_built(target: Target) -> None:
    assert KEYS.read(KEYS.revoked(target)) == target


@pytest.mark.parametrize("key", ["gateway:user:main:ann", "gateway:epoch", "other:tombstone:main:ann", ""])
def test_another_key_is_about_nothing(key: str) -> None:
    assert KEYS.read(key) is None


def test_a_heartbeat_is_of_no_user() -> None:
    beat = KEYS.tracked.heartbeat("a1b2")
    assert KEYS.tracked.is_heartbeat(beat)
    assert KEYS.read(beat) == ("tombstone", "", "a1b2")
    assert not KEYS.tracked.is_heartbeat(KEYS.tombstone("main", ":a1b2"))


def test_keys_that_memory_must_know_are_tracked() -> None:
    assert KEYS.tracked.prefixes == ("gateway:tombstone:", "gateway:revoked:")


def test_a_prefix_with_wildcards_is_taken_literally() -> None:
    assert Keys("a*[b]?\\:").patterns_of_users()[0] == r"a\*\[b\]\?\\:user:*"


WORDS = ("user:", "tombstone:", "revoked:", "revocations:", "epoch", "owner:", "check:")


def test_no_other_file_builds_a_key() -> None:
    """An f-string with a value in front of one of the words of our keys builds one."""
    root = Path(gateway.__file__).parent
    found = []
    for file in root.rglob("*.py"):
        text = file.read_text()
        if file == root / "stores" / "redis" / "keys.py" or "prefix" not in text:
            continue
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.JoinedStr):
                for before, after in zip(node.values, node.values[1:], strict=False):
                    next_to_it = after.value if isinstance(after, ast.Constant) else ""
                    named = isinstance(before, ast.FormattedValue) and "prefix" in ast.unparse(before)
                    if named and str(next_to_it).startswith(WORDS):
                        found.append(f"{file.relative_to(root)}:{node.lineno}")
    assert found == []
