"""Where an explanation finds the users: in the gateway's own tables, or in those of another system."""

from dataclasses import dataclass

from gateway.core.model import Identity, StoreUnavailable
from gateway.explain.fixes.remedies import Server
from gateway.stores.postgres.database import Postgres
from gateway.stores.postgres.directory.diagnostics import Diagnostics, SimilarIdentity
from gateway.stores.postgres.directory.users import UserDirectory
from gateway.stores.postgres.source.database import SourceDatabase, UsersElsewhere
from gateway.stores.postgres.source.definition import UserSource
from gateway.stores.postgres.source.directory.diagnostics import SourceDiagnostics
from gateway.stores.postgres.source.directory.users import AnyDirectory, SourceDirectory


@dataclass(frozen=True, slots=True)
class Users:
    """The stores of users. Their owner opens and closes them."""

    postgres: Postgres
    """The gateway's own tables: users, unless there is a source; revocations."""
    look_ups: SourceDatabase | None = None
    """The source, as requests ask it; None: there is none."""
    directory_of_source: SourceDirectory | None = None

    @property
    def record(self) -> Postgres | UsersElsewhere:
        """The system of record, as requests ask it."""
        return self.postgres if self.look_ups is None else UsersElsewhere(self.look_ups, self.postgres)

    @property
    def directory(self) -> AnyDirectory:
        """The users as operators find them."""
        return self.directory_of_source or UserDirectory(self.postgres)

    @property
    def source(self) -> UserSource | None:
        """The tables of the other system; None: users are in the gateway's own."""
        return None if self.directory_of_source is None else self.directory_of_source.source

    @property
    def diagnostics(self) -> SourceDiagnostics | None:
        """What else can be asked of the source."""
        return None if self.directory_of_source is None else SourceDiagnostics(self.directory_of_source)

    async def server(self) -> Server | None:
        """Return the server of the source; None: there is none."""
        if self.directory_of_source is None:
            return None
        try:
            database = await SourceDiagnostics(self.directory_of_source).database_name()
        except StoreUnavailable:
            database = None
        return Server(self.directory_of_source.address, database)

    async def similar_identities(self, identity: Identity) -> list[SimilarIdentity]:
        """Return identities whose subjects may be other spellings. Raises `StoreUnavailable`."""
        return await self.searches.similar_identities(identity)

    @property
    def searches(self) -> Diagnostics | SourceDiagnostics:
        """What finds users who are similar to one who is not there."""
        return self.diagnostics or Diagnostics(self.postgres)
