"""Many users, one by one, in a source of users that may be written to. For `gateway users import`."""

from collections.abc import Sequence

from gateway.core.model import Identity
from gateway.stores.postgres.directory.audit import Author
from gateway.stores.postgres.directory.imports import Holder, NewUser
from gateway.stores.postgres.directory.user_rows import IdentityAmbiguous, IdentityTaken
from gateway.stores.postgres.source.directory.users import SourceDirectory


class SourceImport:
    """Creates users of one issuer (its `iss`), as `UserImport` does.

    Every method may raise `StoreUnavailable`, and `create` may raise `ChangeRefused`.
    """

    def __init__(self, directory: SourceDirectory, issuer: str) -> None:
        self._directory = directory
        self._issuer = issuer

    async def holders(self, users: Sequence[NewUser]) -> list[Holder | None]:
        """Return for each new user the existing one that prevents it; None if it can be created."""
        return [await self._holder(user) for user in users]

    async def create(self, users: Sequence[NewUser], author: Author) -> list[Holder | None]:
        """Create the users that no existing user prevents; return as `holders`."""
        found: list[Holder | None] = []
        for user in users:
            holder = await self._holder(user)
            if holder is None:
                try:
                    await self._directory.add(
                        Identity(self._issuer, user.subject),
                        status=user.status,
                        tenant=user.tenant,
                        email=user.email,
                        display_name=user.display_name,
                        roles=user.roles,
                        author=author,
                    )
                except IdentityTaken:
                    holder = await self._holder(user)
            found.append(holder)
        return found

    async def _holder(self, user: NewUser) -> Holder | None:
        directory = self._directory
        try:
            owner = await directory.find(Identity(self._issuer, user.subject))
        except IdentityAmbiguous as error:
            owner = await directory.get(error.ids[0])
        if owner is not None:
            return Holder(owner.user.id, owner.user.status, by_email=False)
        for other in [] if user.email is None else await directory.with_email(user.email):
            return Holder(other.user.id, other.user.status, by_email=True)
        return None
