"""Questions as Envoy asks them by gRPC."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final, TypeAlias
from urllib.parse import urlsplit

import grpc

from gateway.decision.grpc.envelope import message_class
from tests.harness import House

# Their fields are described at run time.
_Asked: Final[Any] = message_class("CheckRequest")
_Answered: Final[Any] = message_class("CheckResponse")
CheckRequest: TypeAlias = Any
CheckResponse: TypeAlias = Any

_METHOD: Final = "/envoy.service.auth.v3.Authorization/Check"


@asynccontextmanager
async def connected(url: str) -> AsyncIterator["grpc.aio.Channel"]:
    async with grpc.aio.insecure_channel(urlsplit(url).netloc) as channel:
        yield channel


def question(
    method: str = "GET",
    path: str = "/private/x",
    *,
    host: str = "api.test",
    scheme: str = "https",
    source: str = "198.51.100.7",
    token: bytes | None = None,
    headers: Mapping[str, str] | None = None,
    raw: bool = False,
) -> CheckRequest:
    """Return what Envoy describes. `raw`: with `encode_raw_headers`."""
    check = _Asked()
    check.attributes.source.address.socket_address.address = source
    http = check.attributes.request.http
    http.method, http.path, http.host, http.scheme = method, path, host, scheme
    sent = {**(headers or {}), ":method": method, ":path": path, ":authority": host}
    if token is not None:
        sent["authorization"] = f"Bearer {token.decode()}"
    if raw:
        for name, value in sent.items():
            http.header_map.headers.add(key=name, raw_value=value.encode())
    else:
        http.headers.update(sent)
    return check


async def check(channel: "grpc.aio.Channel", asked: CheckRequest) -> CheckResponse:
    call = channel.unary_unary(
        _METHOD,
        request_serializer=_Asked.SerializeToString,
        response_deserializer=_Answered.FromString,
    )
    answer: CheckResponse = await call(asked)
    return answer


async def ask(door: House, asked: CheckRequest) -> CheckResponse:
    """Ask on a connection of its own."""
    async with connected(door.grpc_url) as channel:
        return await check(channel, asked)


def headers_of(answer: CheckResponse) -> dict[str, str]:
    options = answer.ok_response.headers if answer.HasField("ok_response") else answer.denied_response.headers
    return {option.header.key: option.header.value for option in options}
