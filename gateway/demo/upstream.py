"""An upstream that answers with the request it received. It shows what the gateway changed.

It also has a WebSocket echo at `/ws`, and endless server-sent events at `/events`.
"""

import asyncio
import hashlib
import itertools
from typing import Final

import orjson
from aiohttp import WSMsgType, web

_EVENT_INTERVAL: Final = 0.25
"""Seconds."""


def application() -> web.Application:
    application = web.Application()
    application.router.add_get("/ws", _websocket)
    application.router.add_get("/events", _events)
    application.router.add_route("*", "/{path:.*}", _echo)
    return application


async def _echo(request: web.Request) -> web.Response:
    """Return method, target and fields as received, and the length and SHA-256 of the body."""
    path, _, query = request.raw_path.partition("?")
    headers: dict[str, str] = {}
    for raw_name, raw_value in request.raw_headers:
        name = raw_name.decode("utf-8", "backslashreplace")
        value = raw_value.decode("utf-8", "backslashreplace")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    digest = hashlib.sha256()
    length = 0
    async for chunk in request.content.iter_any():
        digest.update(chunk)
        length += len(chunk)
    received = {
        "method": request.method,
        "path": path,
        "query": query,
        "headers": headers,
        "body_bytes": length,
        "body_sha256": digest.hexdigest(),
    }
    return web.Response(
        body=orjson.dumps(received, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE),
        content_type="application/json",
    )


async def _websocket(request: web.Request) -> web.StreamResponse:
    """Send each message back. A request that is not a WebSocket handshake is echoed like any other."""
    socket = web.WebSocketResponse()
    if not socket.can_prepare(request):
        return await _echo(request)
    await socket.prepare(request)
    async for message in socket:
        if message.type is WSMsgType.TEXT:
            await socket.send_str(message.data)
        elif message.type is WSMsgType.BINARY:
            await socket.send_bytes(message.data)
    return socket


async def _events(request: web.Request) -> web.StreamResponse:
    """Send a numbered event a few times a second until the client leaves (HTML Standard §9.2)."""
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"})
    await response.prepare(request)
    for number in itertools.count(1):
        try:
            await response.write(f"id: {number}\ndata: event {number}\n\n".encode())
        except ConnectionResetError:
            break
        await asyncio.sleep(_EVENT_INTERVAL)
    return response
