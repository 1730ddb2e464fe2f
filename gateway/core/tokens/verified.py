"""A verified token: its claims and its key."""

import math
from dataclasses import dataclass

from gateway.core.model import Claims
from gateway.core.tokens.jws import VerificationKey


@dataclass(frozen=True, slots=True)
class VerifiedToken:
    """A token with a valid signature and valid claims."""

    claims: Claims
    key: VerificationKey
    until: float = math.inf
    """When it expires, in Unix seconds, leeway included."""
