"""Users that a gateway creates at their first request, in a source that may be written to."""

from typing import Final

import asyncpg

from gateway.core.model import JSON, Identity, StoreUnavailable, Tier, UserStatus
from gateway.core.provisioning import NewUser, Provisioned, ProvisioningResult
from gateway.stores.postgres.directory.audit import Author
from gateway.stores.postgres.directory.user_rows import (
    IdentityAmbiguous,
    IdentityTaken,
    NotWritable,
    UserChanges,
)
from gateway.stores.postgres.source import relations
from gateway.stores.postgres.source.directory.change import Change
from gateway.stores.postgres.source.directory.users import SourceDirectory
from gateway.stores.postgres.source.directory.writable import read_only_users
from gateway.stores.postgres.source.directory.writing import SourceWriter

_LOCK: Final = "SELECT pg_advisory_xact_lock(hashtextextended('gateway ' || lower($1), 0))"
_VERSION: Final = "SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint - 1"
"""No transaction with a higher id is in what is read after it."""


class SourceProvisioning:
    """Creates users: a `UserStore` of `gateway.identity.provisioning`. May raise `StoreUnavailable`.

    Users with one address, or one identity, are created one after the other, by all gateways together. A user
    that cannot be written is reported as an unavailable store, and never as a missing user.
    """

    def __init__(self, writer: SourceWriter) -> None:
        self._writer = writer

    async def close(self) -> None:
        """Close the connections."""
        await self._writer.close()

    async def provision(self, user: NewUser, request_id: str) -> Provisioned:
        """Create a user with its identity, and record that in the audit log; or return why not."""
        try:
            return await self._provision(user, request_id)
        except NotWritable as error:
            if not isinstance(error.__cause__, asyncpg.UniqueViolationError):
                raise _unavailable(error) from error
        # Another program, which takes no lock, was faster.
        try:
            return await self._provision(user, request_id)
        except NotWritable as error:
            raise _unavailable(error) from error

    async def _provision(self, user: NewUser, request_id: str) -> Provisioned:
        async with self._writer.begun(read_only_users(self._writer.source)) as change:
            if user.email is not None:
                await change.connection.execute(_LOCK, user.email)
            try:
                await self._writer.claim(change, user.identity)
            except IdentityTaken as taken:
                return Provisioned("exists", taken.user_id, await _version(change))
            statuses = await self._statuses(change, user.email)
            if statuses:
                return Provisioned(_refusal(statuses), None, await _version(change))
            record = await self._writer.added(change, user.identity, changes_of(user))
            detail: dict[str, JSON] = {
                "issuer": user.identity.issuer,
                "subject": user.identity.subject,
                "tenant": user.tenant,
                "roles": list(user.roles),
                "issuer_name": user.issuer_name,
            }
            await change.record(Author("gateway", request_id), "user.provision", record, detail)
            version = record.version or await _version(change)
        return Provisioned("created", record.user.id, version)

    async def _statuses(self, change: Change, email: str | None) -> set[str]:
        """Return the statuses of the users with an e-mail address."""
        if email is None:
            return set()
        rows = await change.connection.fetch(relations.statuses_by_email(self._writer.source), email)
        return {row["status"] for row in rows}


async def rehearse(directory: SourceDirectory, user: NewUser) -> ProvisioningResult:
    """Return what `provision` would return now, and create no user. Raises `StoreUnavailable`."""
    try:
        if await directory.find(user.identity) is not None:
            return "exists"
    except IdentityAmbiguous:
        return "exists"
    owners = [] if user.email is None else await directory.with_email(user.email)
    if owners:
        return _refusal({owner.user.status for owner in owners})
    obstacle = await obstacle_to_create(directory, user)
    if obstacle is not None:
        raise _unavailable(obstacle)
    return "created"


async def obstacle_to_create(directory: SourceDirectory, user: NewUser) -> str | None:
    """Return why a user could not be created in the source, as far as the catalogs know; None: it could."""
    return await directory.obstacle_to_add(user.identity, changes_of(user))


def changes_of(user: NewUser) -> UserChanges:
    """Return the values of a new user that are given."""
    changes: UserChanges = {"status": UserStatus.ACTIVE}
    if user.tenant is not None:
        changes["tenant"] = user.tenant
    if user.email is not None:
        changes["email"] = user.email
    if user.display_name is not None:
        changes["display_name"] = user.display_name
    if user.roles:
        changes["roles"] = user.roles
    return changes


def example(issuer_name: str, iss: str, *, email: bool, name: bool, tenant: bool, roles: bool) -> NewUser:
    """Return a user as an issuer's `provisioning` would make it, to try whether a source has its columns."""
    return NewUser(
        issuer_name,
        Identity(iss, "example"),
        "example@example.com" if email else None,
        "Example" if name else None,
        "example" if tenant else None,
        ("example",) if roles else (),
    )


def _refusal(statuses: set[str] | set[UserStatus]) -> ProvisioningResult:
    return "deleted" if UserStatus.DELETED in statuses else "taken"


def _unavailable(error: NotWritable | str) -> StoreUnavailable:
    return StoreUnavailable(Tier.POSTGRES, f"users.source: no user can be created: {error}")


async def _version(change: Change) -> int:
    return int(await change.connection.fetchval(_VERSION))
