"""Tokens as they are remembered."""

import math
from dataclasses import dataclass

from gateway.core.model import Claims, Lease, Route
from gateway.core.tokens import VerificationKey


@dataclass(eq=False, slots=True)
class VerifiedToken:
    """A token whose signature and claims were good, and what has been settled with it since."""

    claims: Claims
    key: VerificationKey
    until: float = math.inf
    """When it expires, in Unix seconds, leeway included."""
    lease: Lease | None = None
    """What memory last said of its user."""
    route: Route | None = None
    """The last route that this user, with this token, may use; as long as the lease stands."""
    identity: bytes = b""
    """The fields that tell an upstream of both, once they have been rendered; as long as the lease stands."""
