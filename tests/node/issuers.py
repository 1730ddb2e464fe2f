"""Starts issuers of npm packages, which `npm ci --prefix tests/node` installs, as does `make test` with npm.

Without Node.js, tests with them are skipped, unless GATEWAY_TEST_NODE is `required`.
"""

import asyncio
import json
import os
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, NoReturn

import pytest
from aiohttp import ClientSession

from gateway.core.model import JSON

_FOLDER: Final = Path(__file__).parent
_OLDEST: Final = 20


class NodeIssuer:
    """An issuer that mints what a test asks for."""

    def __init__(self, url: str, session: ClientSession) -> None:
        self.url = url
        self._session = session

    async def call(self, path: str, **said: JSON) -> dict[str, JSON]:
        async with self._session.post(f"{self.url}{path}", data=json.dumps(said)) as response:
            assert response.status == 200, await response.text()
            answer: dict[str, JSON] = await response.json(content_type=None)
            return answer


@asynccontextmanager
async def running(script: str, arguments: JSON) -> AsyncIterator[NodeIssuer]:
    """Run a script of this folder until the context ends. Skips the test without Node.js or its packages."""
    node = _node()
    process = await asyncio.create_subprocess_exec(
        node, _FOLDER / script, json.dumps(arguments), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        async with asyncio.timeout(60):
            line = await process.stdout.readline()
        assert line, "the issuer has ended"
        async with ClientSession() as session:
            yield NodeIssuer(json.loads(line)["issuer"], session)
    finally:
        process.stdin.close()
        async with asyncio.timeout(60):
            await process.wait()


def _node() -> str:
    node = shutil.which("node")
    if node is None:
        _lacking("there is no Node.js: apt-get install nodejs npm")
    version = subprocess.run([node, "--version"], capture_output=True, text=True, check=True).stdout  # noqa: S603 -- a fixed command
    if int(version.removeprefix("v").partition(".")[0]) < _OLDEST:
        _lacking(f"Node.js {version.strip()} is too old: {_OLDEST} is needed")
    if not (_FOLDER / "node_modules").is_dir():
        _lacking("the packages are missing: npm ci --prefix tests/node")
    return node


def _lacking(what: str) -> NoReturn:
    if os.environ.get("GATEWAY_TEST_NODE") == "required":
        pytest.fail(what)
    pytest.skip(what)
