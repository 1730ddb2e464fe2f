"""What asyncpg and the network raise → `StoreUnavailable` in plain words, without secrets."""

import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager

import asyncpg

from gateway.core.model import StoreUnavailable, Tier
from gateway.core.tls import distrust


@contextmanager
def translated(address: str) -> Iterator[None]:
    """Raise `StoreUnavailable` for whatever goes wrong between here and the database."""
    try:
        yield
    except (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError) as error:
        advice = advice_for(error)
        told = said(error) if advice is None else f"{said(error)}: {advice}"
        raise StoreUnavailable(Tier.POSTGRES, f"{address}: {told}") from error
    except (ValueError, KeyError, TypeError) as error:
        # Values that the driver cannot send, rows that should not exist.
        raise StoreUnavailable(Tier.POSTGRES, f"{address}: the query or its answer is not usable") from error


def said(error: BaseException) -> str:
    """Say what went wrong, in Postgres's own words where it has some, and without what to do."""
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
        case socket.gaierror():
            return f"its host name cannot be resolved ({error.strerror})"
        case OSError():
            return error.strerror or "cannot connect"
        case _:
            return "the connection was lost"


def _refusal(error: asyncpg.PostgresError) -> str:
    match error:
        case asyncpg.QueryCanceledError():
            return "the query took longer than `statement_timeout`"
        case asyncpg.InvalidSQLStatementNameError() | asyncpg.DuplicatePreparedStatementError():
            return (
                f"{error.args[0]}: a pooler does not keep prepared statements; set"
                " `postgres.prepared_statements: auto` or `unnamed`"
            )
        case asyncpg.ProtocolViolationError() if "unsupported startup parameter" in str(error.args[0]):
            # PgBouncer's words for what it cannot keep; the error code is that of any violation.
            return (
                f"{error.args[0]}: set ignore_startup_parameters = search_path, statement_timeout,"
                " row_security in PgBouncer and give them to the role, or set"
                " `postgres.prepared_statements: unnamed`"
            )
        case asyncpg.DataError():
            # Its text repeats the value.
            return "a value is of a kind that Postgres cannot hold"
    # The message alone: detail and hint may repeat values of a row.
    return str(error.args[0])


def advice_for(error: BaseException | None) -> str | None:
    """Say what to do about an error, where its kind (SQLSTATE) tells; None where it does not."""
    match error:
        case asyncpg.UndefinedTableError() | asyncpg.InvalidSchemaNameError():
            return "run `gateway migrate`, or correct `postgres.schema`; `gateway check --live` tells which"
        case asyncpg.UndefinedColumnError() | asyncpg.DatatypeMismatchError() | asyncpg.CannotCoerceError():
            return "the tables are not as `gateway migrate` makes them; `gateway check --live` tells how"
        case asyncpg.UndefinedFunctionError():
            # An operator that is missing is one for columns of other types.
            return (
                "run `gateway migrate`; where that changes nothing, `gateway check --live` tells what differs"
            )
        case asyncpg.InsufficientPrivilegeError():
            return "grant it to the role in the DSN"
        case asyncpg.ReadOnlySQLTransactionError():
            return "is it the primary? is `default_transaction_read_only` off?"
        case asyncpg.InvalidAuthorizationSpecificationError():
            return "correct user and password in the DSN, or let the server admit them"
        case asyncpg.InvalidCatalogNameError():
            return "create the database, or correct its name in the DSN"
        case asyncpg.TooManyConnectionsError():
            return "lower `postgres.pool_max` or `server.workers`, or raise the server's `max_connections`"
        case _:
            return None


def is_lasting(error: BaseException | None) -> bool:
    """Tell whether a server answered that it will not do this, for anyone's sake, until an operator acts.

    Class 42 (syntax or access rule) and 3F (invalid schema name) of PostgreSQL's error codes, appendix A.
    """
    return isinstance(error, asyncpg.SyntaxOrAccessError | asyncpg.InvalidSchemaNameError)


def is_of_one_value(error: BaseException | None) -> bool:
    """Tell whether an error is about the values of one query, and says nothing of any other."""
    return isinstance(error, asyncpg.DataError | ValueError | KeyError | TypeError) and not isinstance(
        error, asyncpg.InterfaceError
    )


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
