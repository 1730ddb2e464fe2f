"""The web console: static files, each under its exact name, and headers that keep everything else out.

The page holds no data and needs no token; what it shows comes from `/v1`, asked with the token
that the operator types into it.
"""

import hashlib
from collections.abc import Awaitable, Callable
from importlib import resources
from pathlib import PurePosixPath
from typing import Final

from aiohttp import web

PATH: Final = "/console"

HEADERS: Final = {
    # Content Security Policy Level 3. Trusted Types make a script that would parse text as markup fail.
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
    # Kept, but asked about each time: a page and a script of two versions never meet.
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
    """Return one route for each file of the console; what is not listed here does not exist.

    The page is at `/console`, its files are below `/console/`. Files are read once, by this call.
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
    """Lead to the page, whose links are relative to where it is, behind another proxy too."""
    return web.Response(status=308, headers={**HEADERS, "Location": f"..{PATH}"})
