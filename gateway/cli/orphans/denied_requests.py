"""Where `gateway orphans` finds requests that were denied without a user: logs, and the admin API."""

import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

import orjson

from gateway.cli import output
from gateway.core import json_text
from gateway.core.model import JSON
from gateway.core.reasons import USER_NOT_FOUND

if TYPE_CHECKING:  # the drivers take a while to import; `gateway --help` needs none of them
    import aiohttp

    from gateway.reconcile.denied_subjects import Refusal
    from gateway.settings.model import Admin

_MAX_LINE: Final = 1024 * 1024
"""Bytes; the gateway writes no longer lines."""
_HASH: Final = re.compile("[0-9a-f]{16}")
_TIMEOUT: Final = 10.0
"""Seconds for one answer of the admin API."""


class DenialLog:
    """The gateway's log, with or without the prefixes that Docker and journald put before each line."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.events = 0
        """Lines that are JSON objects with an event."""
        self.bytes_read = 0

    def __iter__(self) -> "Iterator[Refusal | None]":
        """Yield each refusal that has a subject, and None for any other line."""
        while line := self._file.readline(_MAX_LINE):
            self.bytes_read += len(line)
            yield self._refusal(line)

    def _refusal(self, line: bytes) -> "Refusal | None":
        from gateway.reconcile.denied_subjects import Refusal
        from gateway.telemetry.logs import hash_subject

        start = line.find(b"{")
        try:
            event = _read(line[start:]) if start >= 0 else None
        except ValueError:
            return None
        if not isinstance(event, dict) or "event" not in event:
            return None
        self.events += 1
        if event["event"] != "denied" or event.get("reason") != USER_NOT_FOUND.code:
            return None
        match event:
            case {"issuer": str(issuer), "subject": str(subject), "timestamp": str(at)}:
                if _HASH.fullmatch(subject):
                    return Refusal(issuer, subject, at)
                return Refusal(issuer, hash_subject(subject), at, subject)
        return None


async def denials_of_api(admin: "Admin", issuer: str | None) -> "AsyncIterator[list[Refusal]]":
    """Ask a running gateway for the denials that it keeps, newest first; exit when it does not answer."""
    import aiohttp

    if admin.token is None:
        output.fail(
            "the admin API is off: admin.token is not set",
            "set GATEWAY_ADMIN__TOKEN for the gateway and for this command, or read its log: --denials FILE",
            output.USAGE,
        )
    endpoint = admin.listen.endpoint
    connector = aiohttp.UnixConnector(str(endpoint)) if isinstance(endpoint, Path) else None
    headers = {"Authorization": f"Bearer {admin.token.get_secret_value()}"}
    wanted = {"reason": USER_NOT_FOUND.code, "limit": "200"} | ({"issuer": issuer} if issuer else {})
    async with aiohttp.ClientSession(
        connector=connector, headers=headers, timeout=aiohttp.ClientTimeout(total=_TIMEOUT)
    ) as session:
        after: JSON = None
        while True:
            cursor = {"after": str(after)} if after else {}
            page = await _page(session, admin, wanted | cursor)
            match page:
                case {"items": list(items)}:
                    yield [refusal for item in items if (refusal := _refusal_of(item)) is not None]
                case _:
                    output.fail("the answer of the admin API is of another version", code=output.UNREACHABLE)
            # A cursor that does not move would cause an endless loop.
            if not page.get("next") or page["next"] == after:
                return
            after = page["next"]


async def _page(session: "aiohttp.ClientSession", admin: "Admin", query: dict[str, str]) -> dict[str, JSON]:
    import aiohttp

    try:
        async with session.get(f"{_url(admin)}/v1/denials", params=query, allow_redirects=False) as response:
            status = response.status
            document = _read(await response.read()) if status == 200 else None
    except (aiohttp.ClientError, OSError, ValueError) as error:
        why = "no answer in time" if isinstance(error, TimeoutError) else str(error) or type(error).__name__
        output.unreachable(
            "The admin API", str(admin.listen), why, "start the gateway, or correct admin.listen"
        )
    if status in {401, 404}:
        output.fail(
            f"the admin API at {admin.listen} answers {status}",
            "run the gateway with the same admin.token as this command",
            output.USAGE,
        )
    if not isinstance(document, dict):
        output.fail(f"the admin API at {admin.listen} answers {status}", code=output.UNREACHABLE)
    return document


def _read(text: bytes) -> JSON:
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


def _refusal_of(item: JSON) -> "Refusal | None":
    from gateway.reconcile.denied_subjects import Refusal

    match item:
        case {"issuer": str(issuer), "subject_hash": str(subject_hash), "at": str(at)}:
            return Refusal(issuer, subject_hash, at)
    return None
