"""Applies a fix that changes our data: by the same ways as operators, so that the audit log has it.

Each kind of work has one way here, and none of them touches the configuration or what a check requires. The
callers apply only what an explanation offers, as it was shown.
"""

from typing import Protocol, assert_never

from gateway.core.model import Identity, StoreUnavailable, UserStatus
from gateway.core.revocations import Revocation
from gateway.core.tokens.issuer_patterns import IssuerNames
from gateway.explain import changes
from gateway.explain.changes import Change
from gateway.stores.postgres.directory.audit import AuditLog, Author
from gateway.stores.postgres.directory.revocation_rows import RevocationRows
from gateway.stores.postgres.directory.user_rows import UserRecord
from gateway.stores.postgres.source.directory.users import AnyDirectory


class NotApplicable(Exception):
    """A change that cannot be made from here; the text says why."""


class NothingToLift(LookupError):
    """The revocation is not there any more."""

    def __init__(self) -> None:
        super().__init__("there is no such revocation any more")


class Caches(Protocol):
    """What has to forget a change, so that it counts at once."""

    async def user(self, record: UserRecord, *gone: Identity) -> None:
        """Forget a user who has changed."""

    async def lifted(self, revocation: Revocation) -> int:
        """Remove a revocation from Redis; return how many there were. Raises `StoreUnavailable`."""
        ...

    async def cached(self, realm: str, identity: Identity) -> None:
        """Forget the answer about one identity. Raises `StoreUnavailable`."""

    async def flushed(self, version: int) -> None:
        """Forget everything that was remembered before `version`."""


class Applier:
    """Makes changes. Every method may raise `StoreUnavailable`. Its owner opens and closes the parts."""

    def __init__(
        self,
        directory: AnyDirectory,
        revocations: RevocationRows,
        audit: AuditLog,
        caches: Caches,
        issuers: IssuerNames,
    ) -> None:
        self._directory = directory
        self._revocations = revocations
        self._audit = audit
        self._caches = caches
        self._issuers = issuers

    async def apply(self, change: Change, author: Author) -> None:
        """Make a change, and record it with its author.

        Raises `NotApplicable`, or when the state is not what the change was made for: `NothingToLift`,
        `UserChanged`, `StatusRefused`, `IdentityTaken`, `IdentityMissing`, `UserNotFound`, `ChangeRefused`.
        """
        work = change.work
        match work:
            case None:
                raise NotApplicable("the change was read from elsewhere")
            case changes.SetActive() | changes.SetTenant() | changes.AddRole() | changes.AcceptOlderTokens():
                await self._caches.user(await self._changed(work, author))
            case changes.Link():
                await self._link(work, author)
            case changes.Add(identity, tenant):
                await self._caches.user(await self._directory.add(identity, tenant=tenant, author=author))
            case changes.Lift():
                await self.lift(work, author)
            case changes.ForgetCached(realm, identity):
                detail = {"issuer": identity.issuer, "subject": identity.subject}
                await self._audit.record(author, "cache.forget", f"issuer:{realm}", detail)
                await self._caches.cached(realm, identity)
            case changes.FlushCaches():
                await self._caches.flushed(await self._audit.flush(author))
            case _:
                assert_never(work)

    async def lift(self, work: changes.Lift, author: Author) -> None:
        """Delete a revocation from Postgres first, from which Redis is filled, then from Redis.

        Its issuer need not be configured any more. Raises `NothingToLift`, and `StoreUnavailable`.
        """
        spellings = self._issuers.find(work.issuer) or (work.issuer, work.issuer)
        rows = await self._revocations.lift(work.kind, issuers=spellings, value=work.value, author=author)
        try:
            rows += await self._caches.lifted(Revocation(work.kind, spellings[0], work.value, 0.0))
        except StoreUnavailable:
            if not rows:
                raise
        if not rows:
            raise NothingToLift

    async def _changed(
        self,
        work: changes.SetActive | changes.SetTenant | changes.AddRole | changes.AcceptOlderTokens,
        author: Author,
    ) -> UserRecord:
        directory, user_id = self._directory, work.user_id
        match work:
            case changes.SetActive(before=UserStatus.DELETED):
                return await directory.restore(user_id, author=author)
            case changes.SetActive(before=status):
                return await directory.change(
                    user_id,
                    {"status": UserStatus.ACTIVE},
                    expected=lambda found: found.user.status is status,
                    author=author,
                )
            case changes.SetTenant(before=tenant, after=after):
                return await directory.change(
                    user_id,
                    {"tenant": after},
                    expected=lambda found: found.user.tenant == tenant,
                    author=author,
                )
            case changes.AddRole(before=roles, role=role):
                return await directory.change(
                    user_id,
                    {"roles": (*roles, role)},
                    expected=lambda found: found.user.roles == roles,
                    author=author,
                )
            case changes.AcceptOlderTokens(before=instant):
                return await directory.change(
                    user_id,
                    {"tokens_valid_after": None},
                    expected=lambda found: found.user.tokens_valid_after == instant,
                    author=author,
                )

    async def _link(self, work: changes.Link, author: Author) -> None:
        if work.owner is None:
            record = await self._directory.link(work.user_id, work.identity, author=author)
        else:
            record = await self._directory.move(
                work.identity, source=work.owner, target=work.user_id, author=author
            )
        await self._caches.user(record)
