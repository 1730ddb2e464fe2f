"""The messages of `Authorization/Check`: its request → the original request; an answer → its bytes.

An answer is put together from parts that were encoded before: two encodings of a message one after the other
are an encoding of both merged (Protocol Buffers, Encoding, "Last One Wins").
"""

from collections.abc import Iterable
from typing import Final

from google.protobuf.message import Message

from gateway.core.caches import FIFO
from gateway.core.headers import OF_OTHER_REQUESTS, HeaderPolicy, fold
from gateway.core.model import Header
from gateway.core.requests.fronts import Original, Questions
from gateway.decision.answers import REASON_CODE_HEADER, REASON_STATUS_HEADER
from gateway.decision.grpc.envelope import (
    OVERWRITE_IF_EXISTS_OR_ADD,
    CheckRequest,
    CheckResponse,
    DeniedHttpResponse,
    HeaderValue,
    HeaderValueOption,
    HttpStatus,
    OkHttpResponse,
    Status,
)

_UNAUTHENTICATED: Final = 16
_PERMISSION_DENIED: Final = 7
"""Codes of google.rpc.Code."""
_REMEMBERED: Final = 4096
"""The largest number of encoded successes that are kept."""
_OF_ENVOY: Final = frozenset({
    b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-port", b"x-forwarded-proto",
})  # fmt: skip
"""Fields that Envoy writes itself, or takes from the proxies that it is told to trust."""
_NOT_OF_CLIENTS: Final = frozenset(OF_OTHER_REQUESTS) - _OF_ENVOY
# Envoy frames its responses itself.
_NOT_ANSWERED: Final = frozenset({b"content-length", b"connection", b"date"})


def headers_of(check: CheckRequest) -> list[Header]:
    """Return the fields of the original request, their names in lower case.

    With `encode_raw_headers`, Envoy sends them as they came, and no `headers`.
    """
    http = check.attributes.request.http
    headers = [(_octets(name).lower(), _octets(value)) for name, value in http.headers.items()]
    raw = http.header_map.headers
    return headers + [(_octets(each.key).lower(), each.raw_value or _octets(each.value)) for each in raw]


def described(
    questions: Questions, check: CheckRequest, headers: Iterable[Header]
) -> tuple[Original, tuple[bytes, ...]]:
    """Return the original request that Envoy describes, and the names of its fields that are to be removed.

    `headers` are those of `headers_of`. Raises `Denial` `request_malformed`.
    """
    http = check.attributes.request.http
    source: str = check.attributes.source.address.socket_address.address
    return questions.described(http.method, http.path, http.host, http.scheme, headers, source)


class Answers:
    """Encodes the answers."""

    def __init__(self, policy: HeaderPolicy) -> None:
        names = [name.decode().lower() for name in policy.told_names]
        spellings = {fold(name.encode()).decode() for name in names} | set(names)
        twins = {each.replace("-", other) for each in spellings for other in "_."}
        # What a request has of further spellings is named in the answer to it.
        others = map(bytes.decode, _NOT_OF_CLIENTS.union(policy.stripped))
        removed = sorted(twins.union(others).difference(names))
        self._always = _encoded(OkHttpResponse(headers_to_remove=removed))
        self._successes: FIFO[bytes, bytes] = FIFO(_REMEMBERED)

    def success(self, told: bytes, request_id: str, removed: Iterable[bytes]) -> bytes:
        """Return an encoded OK. `told` are all identity fields, `removed` the fields to remove besides."""
        known = self._successes.get(told)
        if known is None:
            fields = (line.partition(b": ")[::2] for line in told.split(b"\r\n") if line)
            headers = [_header(name.decode().lower(), value) for name, value in fields]
            known = self._always + _encoded(OkHttpResponse(headers=headers))
            self._successes.put(told, known)
        own = OkHttpResponse(
            headers=[_header("x-request-id", request_id.encode())],
            headers_to_remove=[name.decode("latin-1") for name in removed],
        )
        return known + _encoded(own)

    @staticmethod
    def denial(status: int, code: str, response: bytes) -> bytes:
        """Return an encoded denial: that of a complete HTTP response. `code` is that of the reason."""
        head, _, body = response.partition(b"\r\n\r\n")
        fields = (line.partition(b": ")[::2] for line in head.split(b"\r\n")[1:])
        headers = [
            _header(name.decode(), value) for name, value in fields if name.lower() not in _NOT_ANSWERED
        ]
        headers.append(_header(REASON_STATUS_HEADER.decode(), b"%d" % status))
        headers.append(_header(REASON_CODE_HEADER.decode(), code.encode()))
        denied = DeniedHttpResponse(status=HttpStatus(code=status), headers=headers, body=body.decode())
        rpc = Status(code=_UNAUTHENTICATED if status == 401 else _PERMISSION_DENIED)
        encoded: bytes = CheckResponse(status=rpc, denied_response=denied).SerializeToString()
        return encoded


def _encoded(ok: Message) -> bytes:
    encoded: bytes = CheckResponse(ok_response=ok).SerializeToString()
    return encoded


def _header(name: str, value: bytes) -> Message:
    return HeaderValueOption(
        header=HeaderValue(key=name, value=value.decode("latin-1")),
        append_action=OVERWRITE_IF_EXISTS_OR_ADD,
        keep_empty_value=True,
    )


def _octets(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
