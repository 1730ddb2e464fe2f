"""Fakes of the project's own Protocols, shared by the rooms' tests."""

from typing import Literal


class RecordingKeyObserver:
    """Remembers what the key ring tells its metrics."""

    def __init__(self) -> None:
        self.refreshes: list[tuple[str, str]] = []

    def jwks_refreshed(self, issuer: str, result: Literal["success", "failure"]) -> None:
        self.refreshes.append((issuer, result))
