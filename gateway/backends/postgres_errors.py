"""What asyncpg and the network raise → `StoreUnavailable` in plain words, without secrets."""

import ssl
from collections.abc import Iterator
from contextlib import contextmanager

import asyncpg

from gateway.core.model import StoreUnavailable, Tier
from gateway.core.strictness import distrust


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
        case asyncpg.PostgresError():
            return _refusal(error)
        case asyncpg.ClientConfigurationError():
            # Its text may repeat part of the DSN, and so of the password.
            return "the DSN cannot be used: wrong in itself, or a file that it names is missing"
        case asyncpg.TargetServerAttributeNotMatched():
            return "no server is what `target_session_attrs` asks for; by default that is the primary"
        case TimeoutError():
            return "no answer in time"
        case ConnectionRefusedError():
            return "connection refused"
        case ssl.SSLCertVerificationError():
            return distrust(error, "postgres.tls.strict")
        case ConnectionError() if "rejected SSL upgrade" in str(error):
            return "it does not speak TLS, which `sslmode` asks for"
        case OSError():
            return error.strerror or "cannot connect"
        case _:
            return "the connection was lost"


def _refusal(error: asyncpg.PostgresError) -> str:
    match error:
        case asyncpg.UndefinedTableError() | asyncpg.UndefinedColumnError():
            return "tables are missing: run `gateway migrate`"
        case asyncpg.UndefinedFunctionError():
            return "a function is missing: run `gateway migrate`"
        case asyncpg.InsufficientPrivilegeError():
            return f"{error.args[0]}: grant it to the role in the DSN"
        case asyncpg.ReadOnlySQLTransactionError():
            return f"{error.args[0]}: is it the primary?"
        case asyncpg.QueryCanceledError():
            return "the query took longer than `statement_timeout`"
        case asyncpg.DataError():
            # Its text repeats the value.
            return "a value is of a kind that Postgres cannot hold"
        case _:
            # The message alone: detail and hint may repeat values of a row.
            return str(error.args[0])


def is_silence(error: BaseException | None) -> bool:
    """Tell whether an error means that no server answered, rather than that one refused something."""
    return isinstance(
        error,
        OSError
        | asyncpg.PostgresConnectionError
        | asyncpg.OperatorInterventionError
        | asyncpg.TooManyConnectionsError
        | asyncpg.TargetServerAttributeNotMatched,
    ) or (isinstance(error, asyncpg.InterfaceError) and not isinstance(error, ValueError))


def quoted(identifier: str) -> str:
    """Quote an SQL identifier (PostgreSQL manual, §4.1.1)."""
    return '"' + identifier.replace('"', '""') + '"'
