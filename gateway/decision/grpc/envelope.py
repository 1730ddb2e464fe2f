"""The part that is used of the messages of `envoy.service.auth.v3.Authorization`, as Protocol Buffers.

https://www.envoyproxy.io/docs/envoy/latest/api-v3/service/auth/v3/external_auth.proto has all of them. They
are described here, because the packages that have them generated bring other modules along, which replace
those of `gateway[otel]` and of the library for CEL. Fields that are not described are skipped. The names are
in a pool of their own, so that other copies of the messages may be loaded in the same process.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Final, Protocol, cast

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.descriptor_pb2 import FieldDescriptorProto as Field
from google.protobuf.message import Message

OVERWRITE_IF_EXISTS_OR_ADD: Final = 2
"""Of `HeaderValueOption.append_action`."""

_FILE: Final = "gateway/external_auth.proto"
_PACKAGE: Final = "gateway.external_auth"
_SCALARS: Final = {
    "string": Field.TYPE_STRING,
    "bytes": Field.TYPE_BYTES,
    "int32": Field.TYPE_INT32,
    "bool": Field.TYPE_BOOL,
}
# Enumerations are numbers on the wire, so they are numbers here. `*` is repeated.
_MESSAGES: Final[Mapping[str, Mapping[str, tuple[int, str]]]] = {
    # envoy.service.auth.v3
    "CheckRequest": {"attributes": (1, "AttributeContext")},
    "AttributeContext": {"source": (1, "Peer"), "request": (4, "Request")},
    "Peer": {"address": (1, "Address")},
    "Request": {"http": (2, "HttpRequest")},
    "HttpRequest": {
        "method": (2, "string"), "headers": (3, "*HttpRequest.HeadersEntry"), "path": (4, "string"),
        "host": (5, "string"), "scheme": (6, "string"), "header_map": (13, "HeaderMap"),
    },
    "CheckResponse": {
        "status": (1, "Status"), "denied_response": (2, "DeniedHttpResponse"),
        "ok_response": (3, "OkHttpResponse"),
    },
    "DeniedHttpResponse": {
        "status": (1, "HttpStatus"), "headers": (2, "*HeaderValueOption"), "body": (3, "string"),
    },
    "OkHttpResponse": {"headers": (2, "*HeaderValueOption"), "headers_to_remove": (5, "*string")},
    # envoy.config.core.v3
    "Address": {"socket_address": (1, "SocketAddress")},
    "SocketAddress": {"address": (2, "string"), "port_value": (3, "int32")},
    "HeaderValueOption": {
        "header": (1, "HeaderValue"), "append_action": (3, "int32"), "keep_empty_value": (4, "bool"),
    },
    "HeaderMap": {"headers": (1, "*HeaderValue")},
    "HeaderValue": {"key": (1, "string"), "value": (2, "string"), "raw_value": (3, "bytes")},
    # envoy.type.v3, google.rpc
    "HttpStatus": {"code": (1, "int32")},
    "Status": {"code": (1, "int32"), "message": (2, "string")},
}  # fmt: skip


class _SocketAddress(Protocol):
    address: str


class _Address(Protocol):
    socket_address: _SocketAddress


class _Peer(Protocol):
    address: _Address


class _HeaderValue(Protocol):
    key: str
    value: str
    raw_value: bytes


class _HeaderMap(Protocol):
    headers: Iterable[_HeaderValue]


class _HttpRequest(Protocol):
    method: str
    path: str
    host: str
    scheme: str
    headers: Mapping[str, str]
    header_map: _HeaderMap


class _Request(Protocol):
    http: _HttpRequest


class _Attributes(Protocol):
    source: _Peer
    request: _Request


class CheckRequest(Protocol):
    """What Envoy describes: the original request, and the peer that sent it."""

    attributes: _Attributes


def _file() -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(name=_FILE, package=_PACKAGE, syntax="proto3")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, (number, kind) in fields.items():
            _add(message, field, number, kind)
    http = next(message for message in file.message_type if message.name == "HttpRequest")
    entry = http.nested_type.add(name="HeadersEntry")
    entry.options.map_entry = True
    _add(entry, "key", 1, "string")
    _add(entry, "value", 2, "string")
    return file


def _add(message: descriptor_pb2.DescriptorProto, name: str, number: int, kind: str) -> None:
    label = Field.LABEL_REPEATED if kind.startswith("*") else Field.LABEL_OPTIONAL
    kind = kind.removeprefix("*")
    if kind in _SCALARS:
        message.field.add(name=name, number=number, label=label, type=_SCALARS[kind])
    else:
        of = f".{_PACKAGE}.{kind}"
        message.field.add(name=name, number=number, label=label, type=Field.TYPE_MESSAGE, type_name=of)


_POOL: Final = descriptor_pool.DescriptorPool()
_POOL.Add(_file())


def message_class(name: str) -> type[Message]:
    """Return the class of a message of `_MESSAGES`."""
    return message_factory.GetMessageClass(_POOL.FindMessageTypeByName(f"{_PACKAGE}.{name}"))


# They are called with their fields.
CheckResponse: Final[Callable[..., Message]] = message_class("CheckResponse")
OkHttpResponse: Final[Callable[..., Message]] = message_class("OkHttpResponse")
DeniedHttpResponse: Final[Callable[..., Message]] = message_class("DeniedHttpResponse")
HeaderValueOption: Final[Callable[..., Message]] = message_class("HeaderValueOption")
HeaderValue: Final[Callable[..., Message]] = message_class("HeaderValue")
HttpStatus: Final[Callable[..., Message]] = message_class("HttpStatus")
Status: Final[Callable[..., Message]] = message_class("Status")

read: Final = cast("Callable[[bytes], CheckRequest]", message_class("CheckRequest").FromString)
"""Reads a question. Raises `google.protobuf.message.DecodeError`."""
