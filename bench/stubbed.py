"""`python -m bench.stubbed run --config FILE`: `gateway run`, with users in a dict instead of the stores.

It shows what a request costs once its user is known to the process and no revocation can have
been missed. Everything but the lookup is the gateway as it is.
"""

from unittest.mock import patch

from bench.stage import USERS
from bench.tokens import ISSUER, subject
from gateway import app
from gateway.__main__ import main
from gateway.core.model import Claims, Resolution, Tier, User, UserStatus


class KnownUsers:
    """Takes the place of `IdentityTiers`: every user is known, no token is revoked."""

    def __init__(self, *_: object, **__: object) -> None:
        """Take what `IdentityTiers` takes, and need none of it."""
        self._resolutions = {
            (ISSUER, subject(number)): Resolution(_user(number), Tier.LOCAL, None, Tier.LOCAL)
            for number in range(USERS)
        }
        self._nobody = Resolution(None, Tier.LOCAL, None, Tier.LOCAL)

    @property
    def remembered(self) -> tuple[int, int]:
        return len(self._resolutions), 0

    def recall(self, claims: Claims) -> Resolution:
        return self._resolutions.get((claims.issuer, claims.subject), self._nobody)

    async def close(self) -> None:
        """Nothing is open."""


def _user(number: int) -> User:
    return User(
        id=f"00000000-0000-4000-8000-{number:012}",
        status=UserStatus.ACTIVE,
        tenant="bench",
        email=f"{subject(number)}@example.com",
        display_name=subject(number),
        roles=("member",),
    )


if __name__ == "__main__":
    with patch.object(app, "IdentityTiers", KnownUsers):
        main()
