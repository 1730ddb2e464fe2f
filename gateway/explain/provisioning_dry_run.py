"""The creation of a user at the first request, without the creation: what it would come to."""

from gateway.core import policy
from gateway.core.model import Claims, Request, Resolution, Route, StoreUnavailable, Tier
from gateway.core.provisioning import NewUser, ProvisioningResult, new_user
from gateway.core.reasons import USER_STORE_UNAVAILABLE, Denial
from gateway.explain.evidence.users import Users
from gateway.explain.setup import Setup
from gateway.identity.provisioning import REFUSALS
from gateway.stores.postgres.directory.diagnostics import Diagnostics
from gateway.stores.postgres.directory.provisioning import FUNCTION, UserProvisioning
from gateway.stores.postgres.source.directory.provisioning import rehearse


class ProvisioningDryRun:
    """Implements the pipeline's `Provisioner`, and creates no user."""

    def __init__(self, setup: Setup, users: Users) -> None:
        self._issuers = {issuer.name: issuer for issuer in setup.issuers}
        self._users = users
        self.user: NewUser | None = None
        """Who would be created; None as long as no user would be."""
        self.allowed: bool | None = True
        """Whether the role may create users; None if the database has no function for it."""

    async def provision(self, route: Route, claims: Claims, request: Request | None) -> Resolution:  # noqa: ARG002 -- the signature of the Protocol
        """Return the user who would be created, or who has been meanwhile. Raises `Denial`."""
        user = new_user(claims, self._issuers[claims.issuer_name].provisioning)
        policy.authorize(route, user.as_user(), claims)
        try:
            result = await self._rehearsed(user)
            if result == "exists":
                found, revocations = await self._users.record.find_user_and_revocations(claims)
                revoked = revocations.against(claims.issued_at)
                return Resolution(found.user, Tier.POSTGRES, revoked, Tier.POSTGRES)
        except StoreUnavailable as error:
            raise Denial(USER_STORE_UNAVAILABLE, str(error)) from error
        if result in REFUSALS:
            reason, detail = REFUSALS[result]
            raise Denial(reason, detail, tier=Tier.POSTGRES)
        self.user = user
        return Resolution(user.as_user(), Tier.POSTGRES, None, Tier.POSTGRES)

    async def _rehearsed(self, user: NewUser) -> ProvisioningResult:
        if self._users.directory_of_source is not None:
            return await rehearse(self._users.directory_of_source, user)
        postgres = self._users.postgres
        self.allowed = await Diagnostics(postgres).may_execute(FUNCTION)
        if not self.allowed:
            raise Denial(USER_STORE_UNAVAILABLE, f"the role may not execute {FUNCTION}")
        return await UserProvisioning(postgres).rehearse(user)
