"""Max-Forwards (RFC 9110 §7.6.2)."""

import pytest

from gateway.core.model import Request
from gateway.core.reasons import Denial
from gateway.core.requests.methods import count_down


def request(*values: bytes) -> Request:
    headers = ((b"Host", b"a.test"), *((b"max-Forwards", value) for value in values))
    return Request("OPTIONS", "/", headers, "10.0.0.1", "http", "id")


def test_without_it_a_request_is_forwarded_as_it_is() -> None:
    asked = request()
    assert count_down(asked) is asked


def test_each_gateway_counts_down() -> None:
    forwarded = count_down(request(b" 3 "))
    assert forwarded is not None
    assert forwarded.headers == ((b"Host", b"a.test"), (b"max-Forwards", b"2"))
    assert count_down(request(b"0")) is None


@pytest.mark.parametrize("values", [(b"",), (b"x",), (b"-1",), (b"1", b"1"), (b"1" * 10,)])
def test_max_forwards_that_is_no_number_is_refused(values: tuple[bytes, ...]) -> None:
    with pytest.raises(Denial) as caught:
        count_down(request(*values))
    assert caught.value.reason.code == "request_malformed"
