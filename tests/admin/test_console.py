"""The console's files as they are served."""

import re
from collections.abc import AsyncIterator
from importlib import resources

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from yarl import URL

from gateway.admin import console

Client = TestClient[web.Request, web.Application]

FILES = [file.name for file in resources.files("gateway.console").iterdir() if file.name.count(".") == 1]
ASSETS = [name for name in FILES if name.endswith((".css", ".js", ".svg"))]


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    application = web.Application()
    application.router.add_routes(console.routes())
    async with TestClient(TestServer(application)) as client:
        yield client


async def test_the_page_admits_nothing_from_elsewhere(client: Client) -> None:
    answer = await client.get("/console")
    assert (answer.status, answer.content_type, answer.charset) == (200, "text/html", "utf-8")
    policy = dict(part.strip().split(" ", 1) for part in answer.headers["Content-Security-Policy"].split(";"))
    assert policy == {
        "default-src": "'none'",
        "script-src": "'self'",
        "style-src": "'self'",
        "connect-src": "'self'",
        "img-src": "'self' data:",
        "font-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
        "require-trusted-types-for": "'script'",
        "trusted-types": "'none'",
    }
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Referrer-Policy"] == "no-referrer"


@pytest.mark.parametrize("name", ASSETS)
async def test_every_file_is_served_with_its_type_and_the_same_headers(client: Client, name: str) -> None:
    answer = await client.get(f"/console/{name}")
    types = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
    assert (answer.status, answer.content_type) == (200, types[name.partition(".")[2]])
    assert console.HEADERS.items() <= dict(answer.headers).items()
    assert await answer.read() == (resources.files("gateway.console") / name).read_bytes()


async def test_all_that_the_page_and_its_scripts_name_is_there(client: Client) -> None:
    page = await (await client.get("/console")).text()
    named = set(re.findall(r'(?:src|href)="console/([^"]+)"', page))
    for name in ASSETS:
        if name.endswith(".js"):
            script = await (await client.get(f"/console/{name}")).text()
            named |= set(re.findall(r'from "\./([^"]+)"', script))
    assert named == set(ASSETS)


async def test_the_folder_leads_to_the_page(client: Client) -> None:
    answer = await client.get("/console/", allow_redirects=False)
    assert (answer.status, answer.headers["Location"]) == (308, "../console")
    assert (await client.get("/console/")).url.path == "/console"


@pytest.mark.parametrize(
    "path",
    [
        "/console/index.html",
        "/console/__init__.py",
        "/console/nothing.js",
        "/console/..%2f..%2fpyproject.toml",
        "/console/%2e%2e/admin/console.py",
        "/console//etc/passwd",
        "/console/console.js/",
        "/console/CONSOLE.JS",
        "/console/console.js%00",
    ],
)
async def test_nothing_else_is_there(client: Client, path: str) -> None:
    answer = await client.get(URL(path, encoded=True), allow_redirects=False)
    assert answer.status == 404


async def test_unchanged_files_are_not_sent_again(client: Client) -> None:
    first = await client.get("/console/console.js")
    assert first.headers["Cache-Control"] == "no-cache"
    again = await client.get("/console/console.js", headers={"If-None-Match": first.headers["ETag"]})
    assert (again.status, await again.read()) == (304, b"")
    assert again.headers["Content-Security-Policy"] == first.headers["Content-Security-Policy"]
    other = await client.get("/console/dom.js", headers={"If-None-Match": first.headers["ETag"]})
    assert other.status == 200


@pytest.mark.parametrize("name", FILES)
def test_no_file_names_another_origin_or_styles_inline(name: str) -> None:
    text = (resources.files("gateway.console") / name).read_text()
    # A namespace is a name, not a place.
    addresses = set(re.findall(r"(?:https?:)?//[\w.-]+\.\w+[^\s\"]*", text)) - {"http://www.w3.org/2000/svg"}
    assert addresses <= set()
    if name.endswith((".html", ".svg")):
        assert not re.search(r"\sstyle=|\son\w+=|<style|<script(?![^>]*src=)", text)


@pytest.mark.parametrize("name", [name for name in FILES if name.endswith(".js")])
def test_no_script_parses_text_as_markup(name: str) -> None:
    text = (resources.files("gateway.console") / name).read_text()
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", text
    )
