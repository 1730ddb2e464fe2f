"""What the payload of a token shows at a glance."""

import math
from collections.abc import Mapping
from typing import Final

from gateway.core.model import JSON
from gateway.explain.answer import Fix

_API_KEY_ROLES: Final = ("anon", "service_role")
API_KEY_FIX: Final = Fix(
    "Send the access token that the user received at sign-in, not the project's API key."
)


def is_api_key(payload: Mapping[str, JSON]) -> bool:
    """Return whether a token looks like the API key of a backend service, which has no user."""
    return payload.get("sub") is None and payload.get("role") in _API_KEY_ROLES


def seconds(payload: Mapping[str, JSON], name: str) -> float | None:
    """Return a date of a token without checking its range; None if it is not a number."""
    value = payload.get(name)
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf
