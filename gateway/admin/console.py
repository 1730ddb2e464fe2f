"""The web console: static files, each under its exact name, and headers that block all other sources.

The page contains no data and needs no token. Its data comes from `/v1`, with the token that the operator
enters.
"""

import hashlib
from collections.abc import Awaitable, Callable
from importlib import resources
from pathlib import PurePosixPath
from typing import Final

from aiohttp import web

PATH: Final = "/console"

HEADERS: Final = {
    # Content Security Policy Level 3. With Trusted Types, scripts cannot parse text as markup.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "img-src 'self' data:; font-src 'self'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    # Cached, but revalidated each time, so that page and scripts are always of one version.
    "Cache-Control": "no-cache",
}

_TYPES: Final = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def routes() -> list[web.RouteDef]:
    """Return one route for each file of the console. No other file is served.

    The page is at `/console`, its files are below `/console/`. This call reads the files once.
    """
    files = {
        entry.name: entry.read_bytes()
        for entry in resources.files("gateway.console").iterdir()
        if PurePosixPath(entry.name).suffix in _TYPES
    }
    page = files.pop("index.html")
    return [
        web.get(PATH, _file("index.html", page)),
        web.get(f"{PATH}/", _to_the_page),
        *(web.get(f"{PATH}/{name}", _file(name, body)) for name, body in sorted(files.items())),
    ]


def _file(name: str, body: bytes) -> _Handler:
    content_type = _TYPES[PurePosixPath(name).suffix]
    tag = hashlib.sha256(body).hexdigest()[:32]

    async def serve(request: web.Request) -> web.Response:
        known = request.if_none_match or ()
        if any(each.value in (tag, "*") for each in known):
            response = web.Response(status=304, headers=HEADERS)
        else:
            response = web.Response(body=body, content_type=content_type, charset="utf-8", headers=HEADERS)
        response.etag = tag
        return response

    return serve


async def _to_the_page(_: web.Request) -> web.Response:
    """Redirect to the page. Links are relative, so that they also work behind another proxy."""
    return web.Response(status=308, headers={**HEADERS, "Location": f"..{PATH}"})
