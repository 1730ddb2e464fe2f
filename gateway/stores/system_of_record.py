"""The database of the tables. The data in Redis belongs to exactly one."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SystemOfRecord:
    """The server, database and schema that a connection leads to."""

    oid: int
    """The database's number. A database that is dropped and created again gets another."""
    database: str
    schema: str
    system: str | None = None
    """The server's system identifier. A promoted replica has its primary's; a restored dump does not."""
    copy: str | None = None
    """An id that the database generated. Replicas have the same, dumps do not contain it."""

    def __str__(self) -> str:
        server = "" if self.system is None else f" of server {self.system}"
        return f"database {self.database!r}, schema {self.schema!r}{server}"

    def is_same(self, other: "SystemOfRecord") -> bool:
        """Return whether both are proved to be the same."""
        if (self.oid, self.schema) != (other.oid, other.schema):
            return False
        if self.system is not None and other.system is not None:
            return self.system == other.system
        return self.copy is not None and self.copy == other.copy
