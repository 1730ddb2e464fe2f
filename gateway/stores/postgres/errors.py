"""Translates errors of asyncpg and the network to `StoreUnavailable` in plain words, without secrets."""

import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager

import asyncpg

from gateway.core.model import StoreUnavailable, Tier
from gateway.core.tls import distrust


@contextmanager
def translated(address: str) -> Iterator[None]:
    """Raise `StoreUnavailable` for each error of the driver, the network or the database."""
    try:
        yield
    except (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError) as error:
        advice = advice_for(error)
        told = said(error) if advice is None else f"{said(error)}: {advice}"
        raise StoreUnavailable(Tier.POSTGRES, f"{address}: {told}") from error
    except (ValueError, KeyError, TypeError) as error:
        # Values that the driver cannot send, or rows that should not exist.
        raise StoreUnavailable(Tier.POSTGRES, f"{address}: the query or its answer is not usable") from error


def said(error: BaseException) -> str:
    """Return what went wrong, in Postgres's own words if possible, without advice."""
    match error:
        case asyncpg.PostgresError():
            return _refusal(error)
        case asyncpg.ClientConfigurationError():
            # Its text may contain part of the DSN, and so of the password.
            return "the DSN cannot be used: it has a mistake, or names a missing file"
        case asyncpg.TargetServerAttributeNotMatched():
            return "no server matches `target_session_attrs`, by default the primary"
        case TimeoutError():
            return "no answer in time"
        case ConnectionRefusedError():
            return "connection refused"
        case ssl.SSLCertVerificationError():
            return distrust(error, "postgres.tls.strict")
        case ConnectionError() if "rejected SSL upgrade" in str(error):
            return "it does not speak TLS, which `sslmode` requires"
        case socket.gaierror():
            return f"its host name cannot be resolved ({error.strerror})"
        case OSError(filename=str() as file):
            # The driver looks for certificates, also in the home folder.
            return f"{file} cannot be read: {error.strerror}"
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
            # PgBouncer's text for a parameter that it does not keep. The error code is unspecific.
            return (
                f"{error.args[0]}: set ignore_startup_parameters = search_path, statement_timeout,"
                " row_security in PgBouncer and give them to the role, or set"
                " `postgres.prepared_statements: unnamed`"
            )
        case asyncpg.DataError():
            # Its text contains the value.
            return "Postgres cannot store a value"
    # Only the message: detail and hint may contain values of a row.
    return str(error.args[0])


def advice_for(error: BaseException | None) -> str | None:
    """Return what to do about an error according to its SQLSTATE; None if that does not say."""
    match error:
        case asyncpg.UndefinedTableError() | asyncpg.InvalidSchemaNameError():
            return "run `gateway migrate`, or correct `postgres.schema`; `gateway check --live` says which"
        case asyncpg.UndefinedColumnError() | asyncpg.DatatypeMismatchError() | asyncpg.CannotCoerceError():
            return "the tables are not as `gateway migrate` creates them; see `gateway check --live`"
        case asyncpg.UndefinedFunctionError():
            # A missing operator means that columns have other types.
            return "run `gateway migrate`; if that changes nothing, see `gateway check --live`"
        case asyncpg.InsufficientPrivilegeError():
            return "grant it to the role in the DSN"
        case asyncpg.ReadOnlySQLTransactionError():
            return "check that it is the primary, and that `default_transaction_read_only` is off"
        case asyncpg.InvalidAuthorizationSpecificationError():
            return "correct user and password in the DSN, or let the server accept them"
        case asyncpg.InvalidCatalogNameError():
            return "create the database, or correct its name in the DSN"
        case asyncpg.TooManyConnectionsError():
            return "lower `postgres.pool_max` or `server.workers`, or raise the server's `max_connections`"
        case _:
            return None


def is_lasting(error: BaseException | None) -> bool:
    """Return whether a server refuses a statement until an operator acts.

    Class 42 (syntax or access rule) and 3F (invalid schema name) of PostgreSQL's error codes, appendix A.
    """
    return isinstance(error, asyncpg.SyntaxOrAccessError | asyncpg.InvalidSchemaNameError)


def is_of_one_value(error: BaseException | None) -> bool:
    """Return whether an error is only about the values of one query."""
    return isinstance(error, asyncpg.DataError | ValueError | KeyError | TypeError) and not isinstance(
        error, asyncpg.InterfaceError
    )


def is_of_one_row(error: BaseException | None) -> bool:
    """Return whether an expression cannot be evaluated for what is in a row, such as a division by zero.

    Classes 21 (cardinality violation), 22 (data exception) and P0 (an error that a function raises).
    """
    return isinstance(error, asyncpg.DataError | asyncpg.CardinalityViolationError | asyncpg.PLPGSQLError)


def is_silence(error: BaseException | None) -> bool:
    """Return whether an error means that no server answered, and not that a server refused."""
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
