"""Notices that files have other contents than before: those that a configuration is read from.

A platform replaces a mounted file by changing a symbolic link (Kubernetes: `..data`), and an editor by
renaming another file. So the contents are compared, by their path. A change counts when it is the same at two
looks, since a file may be half written.
"""

import hashlib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

INTERVAL: Final = 1.0
"""Seconds between two looks."""

RETRY: Final = 60.0
"""Seconds after which what is there is worth another try, although it has not changed."""


class FileWatch:
    """Watches some files; none: it never notices anything. The contents of this moment are those known."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = tuple(paths)
        self._known = self._digest()
        self._seen = self._known
        self.next_at: float | None = time.monotonic() + INTERVAL if self._paths else None
        """When to look again, on the monotonic clock; None: never."""
        self.again = False
        """Whether the last change was none, but another try."""
        self._retry_at: float | None = None

    def retry(self, now: float) -> None:
        """Let the same contents count as a change once more, `RETRY` seconds from now."""
        self._retry_at = now + RETRY

    def has_changed(self, now: float) -> bool:
        """Look, if it is time; return whether to read the files: their contents are known from then on."""
        if self.next_at is None or now < self.next_at:
            return False
        self.next_at = now + INTERVAL
        before, self._seen = self._seen, self._digest()
        due = self._retry_at is not None and now >= self._retry_at
        if self._seen != before or (self._seen == self._known and not due):
            return False
        self.again = self._seen == self._known
        self._known, self._retry_at = self._seen, None
        return True

    def _digest(self) -> bytes:
        digest = hashlib.sha256()
        for path in self._paths:
            try:
                # A pipe can be read once, by the reader of the configuration, and would block.
                content = path.read_bytes() if path.is_file() else b"\0"
            except OSError:
                content = b"\0"  # not a configuration, and not that of before
            digest.update(len(content).to_bytes(8) + content)
        return digest.digest()
