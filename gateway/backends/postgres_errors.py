"""What asyncpg and the network raise → `StoreUnavailable` in plain words, without secrets."""

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final
from urllib.parse import parse_qs, urlsplit

import asyncpg

from gateway.core.model import StoreUnavailable, Tier

_DEFAULT_PORT: Final = 5432


@contextmanager
def translated(address: str) -> Iterator[None]:
    """Raise `StoreUnavailable` for whatever goes wrong between here and the database."""
    try:
        yield
    except (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError) as error:
        raise StoreUnavailable(Tier.POSTGRES, f"{address}: {_words(error)}") from error
    except (ValueError, KeyError, TypeError) as error:
        # Values that the driver cannot send, rows that should not exist.
        raise StoreUnavailable(Tier.POSTGRES, f"{address}: the query or its answer is not usable") from error


def _words(error: Exception) -> str:
    match error:
        case asyncpg.UndefinedTableError() | asyncpg.UndefinedColumnError():
            return "tables are missing: run `gateway migrate`"
        case asyncpg.InsufficientPrivilegeError():
            return f"{error.args[0]}: grant it to the role in the DSN"
        case asyncpg.QueryCanceledError():
            return "the query took longer than `statement_timeout`"
        case asyncpg.DataError():
            # Its text repeats the value.
            return "a value is of a kind that Postgres cannot hold"
        case asyncpg.PostgresError():
            # The message alone: detail and hint may repeat values of a row.
            return str(error.args[0])
        case asyncpg.ClientConfigurationError():
            # Its text may repeat part of the DSN, and so of the password.
            return "the DSN cannot be used: wrong in itself, or a file that it names is missing"
        case TimeoutError():
            return "no answer in time"
        case ConnectionRefusedError():
            return "connection refused"
        case ssl.SSLCertVerificationError():
            return f"its certificate is not trusted: {error.verify_message}"
        case ConnectionError() if "rejected SSL upgrade" in str(error):
            return "it does not speak TLS, which `sslmode` asks for"
        case OSError():
            return error.strerror or "cannot connect"
        case _:
            return "the connection was lost"


def address_of(dsn: str) -> str:
    """Return a DSN's host and port, and nothing else of it: for messages."""
    try:
        parts = urlsplit(dsn)
        host, port = parts.hostname, parts.port
        query = parse_qs(parts.query)
    except ValueError:
        return "the configured DSN"
    if "@" in dsn and "@" not in parts.netloc:
        # An unescaped character in the password: what looks like the host may be part of it.
        return "the configured DSN"
    host = host or query.get("host", ["localhost"])[0]
    host = f"[{host}]" if ":" in host else host
    return f"{host}:{port or query.get('port', [_DEFAULT_PORT])[0]}"


def quoted(identifier: str) -> str:
    """Quote an SQL identifier (PostgreSQL manual, §4.1.1)."""
    return '"' + identifier.replace('"', '""') + '"'
