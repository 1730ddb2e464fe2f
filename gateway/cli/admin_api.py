"""How commands ask a running gateway, by its admin API."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

import orjson

from gateway.cli.terminal import output
from gateway.core.model import JSON
from gateway.core.text import json_text

if TYPE_CHECKING:  # the drivers take a while to import; `gateway --help` needs none of them
    import aiohttp

    from gateway.settings.sections.model import Admin

_TIMEOUT: Final = 10.0
"""Seconds for one answer."""
_SPOKEN: Final = (200, 409, 412)
"""Statuses whose body is read."""


class AdminApi:
    """The admin API of a running gateway. The command exits when it does not answer."""

    def __init__(self, admin: "Admin", session: "aiohttp.ClientSession") -> None:
        self._admin = admin
        self._session = session

    async def get(self, path: str, query: Mapping[str, str] | None = None) -> JSON:
        """Return the document at a path below `/v1`, which is a JSON object or list."""
        return await self._call("GET", path, query, None)

    async def post(self, path: str, body: JSON) -> JSON:
        """Send a document to a path below `/v1`, and return the answer; exit if it is refused."""
        return await self._call("POST", path, None, body)

    async def _call(self, method: str, path: str, query: Mapping[str, str] | None, body: JSON) -> JSON:
        import aiohttp

        admin = self._admin
        try:
            async with self._session.request(
                method,
                f"{_url(admin)}/v1{path}",
                params=query,
                data=None if body is None else orjson.dumps(body),
                headers=None if body is None else {"Content-Type": "application/json"},
                allow_redirects=False,
            ) as response:
                status = response.status
                document = read_json(await response.read()) if status in _SPOKEN else None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            why = (
                "no answer in time" if isinstance(error, TimeoutError) else str(error) or type(error).__name__
            )
            output.unreachable(
                "The admin API", str(admin.listen), why, "start the gateway, or correct admin.listen"
            )
        if status in {409, 412} and isinstance(document, dict):
            output.fail(f"nothing was changed: {document.get('detail')}", "explain again")
        if status in {401, 404}:
            output.fail(
                f"the admin API at {admin.listen} answers {status}",
                "run the gateway with the same admin.token as this command",
                output.USAGE,
            )
        if status != 200 or not isinstance(document, dict | list):
            output.fail(f"the admin API at {admin.listen} answers {status}", code=output.UNREACHABLE)
        return document


@asynccontextmanager
async def admin_api(admin: "Admin", instead: str | None = None) -> AsyncIterator[AdminApi]:
    """Open the admin API; exit if it is off. `instead` is what the user can do then, beside turning it on."""
    import aiohttp

    if admin.token is None:
        advice = "set GATEWAY_ADMIN__TOKEN for the gateway and for this command"
        output.fail(
            "the admin API is off: admin.token is not set",
            advice if instead is None else f"{advice}, or {instead}",
            output.USAGE,
        )
    endpoint = admin.listen.endpoint
    connector = aiohttp.UnixConnector(str(endpoint)) if isinstance(endpoint, Path) else None
    headers = {"Authorization": f"Bearer {admin.token.get_secret_value()}"}
    async with aiohttp.ClientSession(
        connector=connector, headers=headers, timeout=aiohttp.ClientTimeout(total=_TIMEOUT)
    ) as session:
        yield AdminApi(admin, session)


def other_version() -> NoReturn:
    """Exit because an answer has another form."""
    output.fail("the answer of the admin API is of another version", code=output.UNREACHABLE)


def read_json(text: bytes) -> JSON:
    """Parse JSON. Raises ValueError when it is not JSON, or is nested too deep."""
    json_text.check_depth(text)
    value: JSON = orjson.loads(text)
    return value


def _url(admin: "Admin") -> str:
    endpoint = admin.listen.endpoint
    if isinstance(endpoint, Path):
        return "http://localhost"
    host, port = endpoint
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 -- connects to it, does not listen on it
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
