"""Paths into a token's claims (RFC 6901 §3 to §5 for pointers)."""

import pytest

from gateway.core.model import JSON
from gateway.core.tokens.claim_paths import at_path, claims_on

PAYLOAD: dict[str, JSON] = {
    "a": {"b": 1, "c.d": 2, "": 3},
    "x.y": 4,
    "x": {"y": 5},
    "l": [6, {"m": 7}],
    "/p": 8,
    "p": 9,
    "https://a.example/roles": ["admin"],
    "m~n": {"o/p": 10, "~1": 11},
    "nothing": None,
    "kubernetes.io": {"namespace": "prod", "pod": {"name": "api"}},
}


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("a.b", 1), ("a", PAYLOAD["a"]), ("a.b.c", None), ("a.c", None), ("l.0", None), ("", None),
        ("nothing", None), ("nothing.more", None), ("kubernetes.io.namespace", None),
    ],
)  # fmt: skip
def test_a_dotted_path(path: str, found: JSON) -> None:
    assert at_path(PAYLOAD, path) == found


@pytest.mark.parametrize(("path", "found"), [("x.y", 4), ("https://a.example/roles", ["admin"])])
def test_a_name_with_dots_comes_before_a_path(path: str, found: JSON) -> None:
    assert at_path(PAYLOAD, path) == found


@pytest.mark.parametrize(
    ("pointer", "found"),
    [
        ("/a/b", 1), ("/a/c.d", 2), ("/x.y", 4), ("/x/y", 5), ("/kubernetes.io/namespace", "prod"),
        ("/kubernetes.io/pod/name", "api"), ("/https:~1~1a.example~1roles", ["admin"]),
        ("/https:~1~1a.example~1roles/0", "admin"), ("/l/0", 6), ("/l/1/m", 7), ("/l/2", None),
        ("/l/-", None), ("/l/00", None), ("/l/-1", None), ("/l/+0", None), ("/m~0n/o~1p", 10),
        ("/m~0n/~01", 11), ("/a/b/c", None),
    ],
)  # fmt: skip
def test_a_pointer(pointer: str, found: JSON) -> None:
    assert at_path(PAYLOAD, pointer) == found


def test_a_slash_at_the_beginning_is_always_a_pointer() -> None:
    assert at_path(PAYLOAD, "/p") == 9
    assert at_path(PAYLOAD, "/~1p") == 8


@pytest.mark.parametrize(
    ("path", "names"),
    [("sub", {"sub"}), ("a.b", {"a.b", "a"}), ("/a.b/c", {"a.b"}), ("/a~1b/c", {"a/b"})],
)
def test_the_claims_that_are_kept_for_a_path(path: str, names: set[str]) -> None:
    assert set(claims_on(path)) == names
