import base64
import time
from itertools import islice

import orjson
import pytest

from gateway.reconcile.adopt.subjects import SubjectSample


def token(claims: object) -> str:
    payload = base64.urlsafe_b64encode(orjson.dumps(claims)).rstrip(b"=").decode()
    return f"eyJhbGciOiJSUzI1NiJ9.{payload}.c2ln"


def test_subjects_are_lines() -> None:
    sample = SubjectSample()
    sample.add_subjects(
        ["ann\n", "auth0|bob\r\n", "\n", "with space \n", "ann\n", "a\x00b\n", "x" * 256, "zoë"]
    )

    assert sorted(sample.subjects) == ["ann", "auth0|bob", "with space ", "zoë"]
    assert (sample.lines, sample.unusable, sample.issuers, sample.dropped) == (7, 2, 0, False)


def test_the_subject_of_a_token_is_its_sub() -> None:
    sample = SubjectSample()
    sample.add_tokens(
        [
            token({"sub": "ann", "iss": "https://one"}) + "\n",
            f"Authorization: Bearer {token({'sub': 'bob', 'iss': 'https://two'})}\n",
            token({"sub": "ann", "iss": "https://one"}),
            "\n",
        ]
    )

    assert sorted(sample.subjects) == ["ann", "bob"]
    assert (sample.lines, sample.unusable, sample.issuers) == (3, 0, 2)


@pytest.mark.parametrize(
    "line",
    [
        "opaque",
        "a.b.c",
        "a.b",
        token([]),
        token({}),
        token({"sub": 7}),
        token({"sub": ""}),
        token({"sub": "a\u0000"}),
        "x." + base64.urlsafe_b64encode(b"[" * 100_000).rstrip(b"=").decode() + ".x",
        "\ud800.\ud800.\ud800",
    ],
)
def test_other_lines_are_counted(line: str) -> None:
    sample = SubjectSample()
    sample.add_tokens([line])

    assert (sample.lines, sample.unusable, sample.subjects) == (1, 1, [])


def test_a_sample_is_the_same_in_whatever_order_and_has_each_once() -> None:
    one, other = SubjectSample(size=100), SubjectSample(size=100)
    one.add_subjects(f"s{i}" for i in range(5_000))
    other.add_subjects(f"s{i % 5_000}" for i in range(9_999, -1, -1))

    assert one.subjects == other.subjects
    assert len(set(one.subjects)) == 100
    assert one.dropped
    assert other.dropped


def test_any_number_of_tokens_is_read_in_seconds_and_in_bounded_memory() -> None:
    tokens = [
        token({"sub": f"auth0|{i}", "iss": "https://one", "aud": ["api"], "exp": i}) for i in range(1_000)
    ]
    sample = SubjectSample(size=500)
    before = time.process_time()
    lines = (tokens[i % 1_000] for i in range(200_000))
    while batch := list(islice(lines, 5_000)):
        sample.add_tokens(batch)

    assert time.process_time() - before < 10
    assert len(sample.subjects) == len(sample._kept) == len(sample._known) == 500
    assert sample.lines == 200_000
