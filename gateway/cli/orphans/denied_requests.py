"""Where `gateway orphans` finds requests that were denied without a user: logs, and the admin API."""

import re
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, BinaryIO, Final

from gateway.cli.admin_api import admin_api, other_version, read_json
from gateway.core.model import JSON
from gateway.core.reasons import USER_NOT_FOUND

if TYPE_CHECKING:  # the drivers take a while to import; `gateway --help` needs none of them
    from gateway.reconcile.denied_subjects import Refusal
    from gateway.settings.sections.model import Admin

_MAX_LINE: Final = 1024 * 1024
"""Bytes; the gateway writes no longer lines."""
_HASH: Final = re.compile("[0-9a-f]{16}")


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
            event = read_json(line[start:]) if start >= 0 else None
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
    wanted = {"reason": USER_NOT_FOUND.code, "limit": "200"} | ({"issuer": issuer} if issuer else {})
    async with admin_api(admin, "read its log: --denials FILE") as api:
        after: JSON = None
        while True:
            cursor = {"after": str(after)} if after else {}
            page = await api.get("/denials", wanted | cursor)
            items = page.get("items") if isinstance(page, dict) else None
            if not isinstance(page, dict) or not isinstance(items, list):
                other_version()
            yield [refusal for item in items if (refusal := _refusal_of(item)) is not None]
            # A cursor that does not move would cause an endless loop.
            if not page.get("next") or page["next"] == after:
                return
            after = page["next"]


def _refusal_of(item: JSON) -> "Refusal | None":
    from gateway.reconcile.denied_subjects import Refusal

    match item:
        case {"issuer": str(issuer), "subject_hash": str(subject_hash), "at": str(at)}:
            return Refusal(issuer, subject_hash, at)
    return None
