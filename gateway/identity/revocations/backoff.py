"""When a store that failed is asked again to learn revocations, and what is logged about it."""

from collections.abc import Callable
from typing import Final, Literal, Protocol, TypeAlias

import asyncpg
import structlog

from gateway.core.model import StoreUnavailable

_RETRY: Final = 2.0
"""Seconds until a store that did not answer is asked again."""
_LONG_RETRY: Final = 30.0
"""Seconds until Postgres is asked again if it does not allow writes, or takes no more rows."""
_FORBIDDEN: Final = (asyncpg.InsufficientPrivilegeError, asyncpg.UndefinedFunctionError)
_UNWRITABLE: Final = asyncpg.ReadOnlySQLTransactionError

Result: TypeAlias = Literal["learnt", "lifted", "dropped", "refused", "failed"]

log: structlog.stdlib.BoundLogger = structlog.get_logger()


class Observer(Protocol):
    """Counts what became of revocations that existed in Redis only."""

    def learnt(self, result: Result, count: int) -> None: ...


class Backoff:
    """Records the failures of both stores. `clock` gives Unix seconds."""

    def __init__(self, observer: Observer, clock: Callable[[], float]) -> None:
        self._observer = observer
        self._clock = clock
        self.redis_at = 0.0
        """When Redis may be asked again; Unix seconds."""
        self.postgres_at = 0.0
        """When Postgres may be asked again; Unix seconds."""
        self._warned = False
        self._full = False

    def redis_failed(self) -> None:
        """Record that Redis did not answer."""
        self.redis_at = self._clock() + _RETRY

    def postgres_took_some(self) -> None:
        """Record that Postgres has room for rows."""
        self._full = False

    def postgres_is_full(self, count: int) -> None:
        """Record that Postgres takes no more rows, and how many it was asked to take."""
        self._observer.learnt("refused", count)
        self.postgres_at = self._clock() + _LONG_RETRY
        if not self._full:
            self._full = True
            log.warning(
                "revocations_not_learnt",
                error="learnt_revocations holds as many rows as it takes",
                effect="what other programs revoke in Redis from now on is lost with Redis",
                fix="delete rows of learnt_revocations, or have the other programs revoke in Postgres",
            )

    def postgres_defect(self) -> None:
        """Record an error of our own."""
        self.postgres_at = self._clock() + _RETRY

    def postgres_failed(self, error: StoreUnavailable, pending: int) -> None:
        """Record that Postgres failed, and how many revocations still wait to be written there."""
        self._observer.learnt("failed", pending)
        if not isinstance(error.__cause__, (*_FORBIDDEN, _UNWRITABLE)):
            log.debug("revocations_not_learnt", error=error.detail)
            self.postgres_at = self._clock() + _RETRY
            return
        self.postgres_at = self._clock() + _LONG_RETRY
        if not self._warned:
            self._warned = True
            rights = "run `gateway migrate`, and grant the functions that docs/operations.md lists"
            writes = "let `postgres.dsn` lead to a server, and a role, that may write"
            log.warning(
                "revocations_not_learnt",
                error=error.detail,
                effect="what other programs revoke in Redis is lost with Redis",
                fix=writes if isinstance(error.__cause__, _UNWRITABLE) else rights,
            )
