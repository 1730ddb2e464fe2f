"""What the rules between settings find."""

from dataclasses import dataclass
from typing import TypeAlias

Location: TypeAlias = tuple[str | int, ...]
"""The path to a value: keys and positions from the root."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A mistake in the combination of settings."""

    where: Location
    message: str
    hint: str | None = None
    at: int | None = None
    """The position within the text of the value, from 0; None: the mistake is the whole value."""
