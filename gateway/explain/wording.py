"""Formats values for people, and for commands and configuration lines to paste.

Many values come from unverified tokens. So they are quoted for the terminal, the shell, SQL or YAML. If a
value cannot be quoted, there is no command.
"""

import json
import shlex
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Final

from gateway.core.model import JSON

_LONGEST: Final = 160
"""Characters of a value that are shown."""


def shown(value: "JSON | tuple[str, ...]") -> str:
    """Return a value as JSON, shortened and without control characters."""
    text = json.dumps(value, ensure_ascii=False, default=list)
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def listed(values: Iterable[str]) -> str:
    """Return several values, each as by `shown`."""
    return ", ".join(map(shown, values)) or "none"


def moment(seconds: float | None) -> str:
    """Return a Unix time as RFC 3339 in UTC; None is an unknown one."""
    if seconds is None:
        return "at an unknown time"
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    except (ValueError, OverflowError, OSError):
        return str(seconds)  # Postgres has `infinity`, and years that Python has not


def span(seconds: float) -> str:
    """Return a duration in a fitting unit."""
    seconds = abs(seconds)
    for unit, length in (("days", 86_400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def ago(instant: float, now: float) -> str:
    """Return how long ago, or from now, an instant is."""
    return f"{span(now - instant)} ago" if instant <= now else f"in {span(instant - now)}"


def yaml_line(field: str, value: JSON) -> str | None:
    """Return a line of the configuration; None if the value has characters that must not be pasted."""
    text = json.dumps(value, ensure_ascii=False)
    return f"{field}: {text}" if text.isprintable() else None


def sql_literal(text: str) -> str:
    """Quote text for SQL (PostgreSQL manual, §4.1.2)."""
    quoted = text.replace("'", "''")
    return f"'{quoted}'" if "\\" not in text else " E'" + quoted.replace("\\", "\\\\") + "'"


class Commands:
    """Commands to paste. Each is None if a word has characters that must not be pasted."""

    def __init__(self, config: str | None, schema: str) -> None:
        self._config = config
        self._schema = '"' + schema.replace('"', '""') + '"'

    def gateway(self, *words: str, operands: Iterable[str] = ()) -> str | None:
        """Return a `gateway` command. Operands may begin with a dash."""
        config = [] if self._config is None else ["--config", self._config]
        operands = list(operands)
        marker = ["--"] if any(word.startswith("-") for word in operands) else []
        return _command("gateway", *words, *config, *marker, *operands)

    def table(self, name: str) -> str:
        """Return the quoted name of a table for SQL."""
        return f"{self._schema}.{name}"

    def update(self, table: str, change: str, **where: str) -> str | None:
        """Return a command that changes rows. `change` is SQL, the values of `where` are text."""
        conditions = " AND ".join(f"{column} = {sql_literal(text)}" for column, text in where.items())
        statement = f"UPDATE {self.table(table)} SET {change} WHERE {conditions}"  # noqa: S608 -- values are quoted, and nothing here executes it
        command = _command(statement)
        return None if command is None else f'psql "${{GATEWAY_POSTGRES__DSN:?}}" -c {command}'

    def owner_sql(self, database: str, statement: str, *, address: str | None = None) -> str | None:
        """Return a command that executes SQL as its caller, who should own the tables.

        `address` is a host and its port; psql looks for anything else in its own way.
        """
        host, colon, port = (address or "").rpartition(":")
        place = ["-h", host.strip("[]"), "-p", port] if colon and port.isdecimal() and "," not in host else []
        return _command("psql", *place, "-d", database, "-c", statement)

    def redis(self, *words: str) -> str | None:
        """Return a command to the gateway's Redis."""
        command = _command(*words)
        return None if command is None else f'redis-cli -u "${{GATEWAY_REDIS__URL:?}}" {command}'


def with_config(command: str, config: str) -> str:
    """Add `--config` to a `gateway` command that has none, such as one that a running gateway made.

    Any other command is returned as it is, and so is each one if the path must not be pasted.
    """
    words = shlex.split(command)
    if words[:1] != ["gateway"] or "--config" in words or not config.isprintable():
        return command
    place = words.index("--") if "--" in words else len(words)
    return shlex.join([*words[:place], "--config", config, *words[place:]])


def _command(*words: str) -> str | None:
    return shlex.join(words) if all(word.isprintable() for word in words) else None
