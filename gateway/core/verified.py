"""What a verified token says, and which key verified it."""

import math
from dataclasses import dataclass

from gateway.core.model import Claims
from gateway.core.tokens import VerificationKey


@dataclass(frozen=True, slots=True)
class VerifiedToken:
    """A token whose signature and claims were good."""

    claims: Claims
    key: VerificationKey
    until: float = math.inf
    """When it expires, in Unix seconds, leeway included."""
