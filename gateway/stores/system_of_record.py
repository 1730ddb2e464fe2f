"""Which database the tables are in: what Redis holds belongs to one, and to no other."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SystemOfRecord:
    """The server, database and schema that a connection leads to."""

    oid: int
    """The database's number: one that was dropped and created again has another."""
    database: str
    schema: str
    system: str | None = None
    """The server's system identifier. A promoted replica has its primary's; a restored dump has not."""
    copy: str | None = None
    """Made up by the database itself; dumps do not carry it, replicas do."""

    def __str__(self) -> str:
        server = "" if self.system is None else f" of server {self.system}"
        return f"database {self.database!r}, schema {self.schema!r}{server}"

    def is_same(self, other: "SystemOfRecord") -> bool:
        """Tell whether both are one. When nothing proves it they are not."""
        if (self.oid, self.schema) != (other.oid, other.schema):
            return False
        if self.system is not None and other.system is not None:
            return self.system == other.system
        return self.copy is not None and self.copy == other.copy
