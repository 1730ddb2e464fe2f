"""The forms of the access log, and that a client can forge nothing in them."""

import io
import json
import re
from typing import Literal

import pytest

from gateway.core.model import Request
from gateway.telemetry.access_log import AccessLog, Finished, as_combined, as_common, as_ecs, as_event

AT = 971211336.25  # the moment of Apache's example
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
HEADERS = (
    (b"Referer", b"https://app.example.com/start?token=secret"),
    (b"User-Agent", b'Mozilla/5.0 "\xe9\n'),
    (b"traceparent", f"00-{TRACE}-00f067aa0ba902b7-01".encode()),
)
DONE = Finished(
    Request("GET", "/orders/1?token=secret", HEADERS, "192.0.2.1", "https", "the-id"),
    "orders", 200, 0.0123, upstream="shop", user="frank", received=7, sent=2326,
)  # fmt: skip
REST = f"route=orders upstream=shop duration_ms=12.300 request_id=the-id trace_id={TRACE}"
HOSTILE = '/a" 200 1\n127.0.0.1 - root [x] \\ \x1b[31m\x7f\x00é\ud800'


def test_common_log_format_is_that_of_apache_with_further_fields() -> None:
    assert (
        as_common(DONE, AT)
        == f'192.0.2.1 - frank [10/Oct/2000:20:55:36 +0000] "GET /orders/1 HTTP/1.1" 200 2326 {REST}'
    )


def test_combined_adds_referer_without_query_and_user_agent() -> None:
    assert as_combined(DONE, AT).endswith(
        f' 200 2326 "https://app.example.com/start" "Mozilla/5.0 \\x22\\xC3\\xA9\\x0A" {REST}'
    )


def test_no_password_of_a_url_is_written() -> None:
    headers = ((b"Referer", b"https://ann:hunter2@app.example.com/start"),)
    request = Request("GET", "http://ann:hunter2@host/a?b", headers, "192.0.2.1", "https", "the-id")
    done = Finished(request, "unmatched", 400, 0.0)
    assert '"GET /a HTTP/1.1" 400 - "https://app.example.com/start"' in as_combined(done, AT)
    for line in (as_common(done, AT), as_combined(done, AT), as_ecs(done, AT), str(as_event(done))):
        assert "hunter2" not in line


def test_an_unknown_value_is_a_dash() -> None:
    bare = Finished(Request("GET", "/", (), "", "http", "the-id"), "unmatched", 404, 0.0)
    assert as_combined(bare, AT) == (
        '- - - [10/Oct/2000:20:55:36 +0000] "GET / HTTP/1.1" 404 - "-" "-" '
        "route=unmatched upstream=- duration_ms=0.000 request_id=the-id trace_id=-"
    )


def test_a_request_that_was_not_understood_has_no_path() -> None:
    unread = Finished(Request("UNKNOWN", "", (), "192.0.2.1", "http", "the-id"), "unmatched", 400, 0.0)
    assert '] "UNKNOWN - HTTP/1.1" 400 - ' in as_common(unread, AT)


@pytest.mark.parametrize("render", [as_common, as_combined])
def test_a_client_forges_no_line_and_no_field(render: object) -> None:
    headers = ((b"user-agent", HOSTILE.encode("utf-8", "surrogatepass")), (b"referer", b'" "\r\nx'))
    request = Request(HOSTILE, HOSTILE, headers, HOSTILE, "http", HOSTILE)
    hostile = Finished(request, HOSTILE, 200, 0.1, HOSTILE, HOSTILE, 1, 2)
    assert callable(render)
    line = render(hostile, AT)
    assert re.fullmatch(r"[\x20-\x7e]+", line)
    quoted = 1 if render is as_common else 3
    assert line.count('"') == 2 * quoted
    outside = re.sub(r'"[^"]*"', "", re.sub(r"\[10/Oct[^]]*\]", "", line)).split()
    assert len(outside) == 3 + 2 + 5


def test_ecs_has_the_names_of_the_schema() -> None:
    line = json.loads(as_ecs(DONE, AT))
    assert line["@timestamp"] == "2000-10-10T20:55:36.250Z"
    assert line["http"] == {
        "request": {"id": "the-id", "method": "GET", "body": {"bytes": 7}},
        "response": {"status_code": 200, "body": {"bytes": 2326}},
    }
    assert line["url"] == {"path": "/orders/1", "scheme": "https"}
    assert (line["client"]["ip"], line["user"]["id"], line["trace"]["id"]) == ("192.0.2.1", "frank", TRACE)
    assert (line["event"]["duration"], line["event"]["outcome"]) == (12_300_000, "success")
    assert line["labels"] == {"route": "orders", "upstream": "shop"}
    assert "secret" not in json.dumps(line)


def test_ecs_leaves_out_unknown_values() -> None:
    line = json.loads(as_ecs(Finished(Request("GET", "/", (), "", "http", "i"), "unmatched", 404, 0.0), AT))
    assert not {"client", "user", "trace", "user_agent"} & line.keys()
    assert (line["event"]["outcome"], line["http"]["response"]) == ("failure", {"status_code": 404})


def test_json_has_the_same() -> None:
    event = as_event(DONE)
    assert (event["upstream"], event["user"], event["bytes_sent"], event["bytes_received"]) == (
        "shop",
        "frank",
        2326,
        7,
    )
    assert (event["trace_id"], event["duration_ms"], event["path"]) == (TRACE, 12.3, "/orders/1")


@pytest.mark.parametrize("form", ["ecs", "common", "combined"])
def test_a_line_is_one_write_and_a_full_disk_stops_nothing(
    monkeypatch: pytest.MonkeyPatch, form: Literal["ecs", "common", "combined"]
) -> None:
    stream, writes = io.StringIO(), list[str]()
    monkeypatch.setattr(stream, "write", writes.append)
    log = AccessLog(form, lambda: stream, lambda: AT)
    log.write(DONE)
    (line,) = writes
    assert line.endswith("\n")
    assert line.count("\n") == 1

    def full() -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(stream, "flush", full)
    log.write(DONE)
