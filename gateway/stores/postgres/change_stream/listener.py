"""Changes of users, identities and revocations, which Postgres reports when they are committed.

Triggers (gateway/migrations/0002_changes.sql) send them. Each worker receives all of them, in the same order.
A heartbeat from another session (`heartbeats`) arrives the same way, and proves that no change was missed.
"""

import asyncio
import random
import re
import secrets
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final, Protocol, TypeAlias

import orjson
import structlog

from gateway.core.model import JSON, StoreUnavailable, Tier
from gateway.core.revocations import Revocation, Revoked
from gateway.core.text import json_text
from gateway.stores.postgres.change_stream.heartbeats import CHANNEL, Heartbeats, Place, opened, place_of
from gateway.stores.postgres.change_stream.triggers import Watch, Watched
from gateway.stores.postgres.errors import translated
from gateway.stores.postgres.hosts import Connector, address_of

CHANGES: Final = "gateway_changes"
SOURCE_SCHEMA: Final = "gateway_source"
"""What changes of a source have in place of the schema of the gateway's own tables."""
_HEARTBEAT: Final = re.compile(r"[0-9a-f]{32}")
_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 2.0

log: structlog.stdlib.BoundLogger = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Changed:
    """Identities and users that have changed."""

    identities: tuple[tuple[str, str], ...]
    """As `iss` and `sub`."""
    users: tuple[str, ...]
    """Their ids."""
    version: int
    """The id of the transaction that changed them. Ids do not follow the order of commits."""


@dataclass(frozen=True, slots=True)
class Everything:
    """Too many changes to list, perhaps of revocations too: everything remembered is void."""

    version: int
    """Negative and random if no order is known."""


Change: TypeAlias = Changed | Revoked | Everything


class ChangeListener(Protocol):
    """Receives the events of a stream, in order of arrival, one call after the other."""

    def listening(self) -> None:
        """Note that from now on, every change is received."""

    def changed(self, change: Change) -> None: ...

    def heard(self, heartbeat: str, own: bool) -> None:  # noqa: FBT001 -- a fact about the heartbeat
        """Record a heartbeat, of this stream or of another. All changes before it have been reported."""

    def lost(self, detail: str) -> None:
        """Note that changes may be missed from now on. Called once, also if listening could not begin."""


class PostgresStream:
    """Listens on its own connection until `close`, and reconnects when it breaks.

    A heartbeat is sent like a change, through `beats_dsn` (by default `dsn`), on another connection. It must
    arrive within `patience` seconds; the next one follows `beat` seconds later. So every cause of lost
    changes is noticed within the sum of the two: a broken link, a PgBouncer that pools transactions, a `dsn`
    that leads to another database, disabled triggers. Both DSNs must lead to the primary.

    With a `source` of users, changes of its tables are received too; it tells which triggers must be there.
    """

    def __init__(
        self,
        dsn: str,
        schema: str,
        listener: ChangeListener,
        *,
        source: Watch | None = None,
        source_is_elsewhere: bool = False,
        beats_dsn: str | None = None,
        connect_timeout: float,
        tls_strict: bool = False,
        beat: float = 0.5,
        patience: float = 1.5,
    ) -> None:
        self.address = address_of(dsn)
        """Hosts and ports, for messages."""
        self.detail: str | None = "no heartbeat has come back yet"
        """Why changes may be missed; None while all are received."""
        self._connector = Connector(dsn, primary=True, timeout=connect_timeout, tls_strict=tls_strict)
        self._heartbeats = Heartbeats(
            beats_dsn or dsn,
            source or _own_tables(schema),
            connect_timeout=connect_timeout,
            tls_strict=tls_strict,
        )
        self._schemas = (schema,) if source is None else (schema, SOURCE_SCHEMA)
        self._unordered = (schema,) if source_is_elsewhere else ()
        self._listener = listener
        self._connect_timeout = connect_timeout
        self._beat = beat
        self._patience = patience
        self._task: asyncio.Task[None] | None = None
        self._listening = False
        self._lost = False
        self._heartbeat: str | None = None
        self._mark: int | None = None
        """The mark of the triggers, from the latest heartbeat."""
        self._returned = asyncio.Event()
        self._proven_at = 0.0
        self._pause = _FIRST_PAUSE
        self._unreadable = False

    @property
    def up(self) -> bool:
        """Whether every change is received, as proved by the latest heartbeat.

        Also False in a process that slept, until it has read the data that arrived meanwhile.
        """
        age = asyncio.get_running_loop().time() - self._proven_at
        return self._listening and age <= self._beat + self._patience

    def start(self) -> None:
        """Start to listen in the background."""
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Stop listening, without a call to the listener."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        self._heartbeats.close()

    async def _run(self) -> None:
        while True:
            try:
                detail = await self._session()
            except StoreUnavailable as error:
                detail = error.detail
            except Exception as error:
                # No caller awaits this task. If it ended silently, missed changes would go unnoticed.
                log.exception("changes_not_heard")
                detail = f"unexpected {type(error).__name__}"
            self._lose(detail)
            await asyncio.sleep(self._pause * random.uniform(0.5, 1))  # noqa: S311 -- spreads load
            self._pause = min(2 * self._pause, _LONGEST_PAUSE)

    async def _session(self) -> str:
        """Listen until the connection breaks; return why, or raise `StoreUnavailable`."""
        with translated(self.address):
            connection = await opened(self._connector, self._connect_timeout, "gateway changes")
        gone = asyncio.get_running_loop().create_future()
        broken = f"{self.address}: the connection was lost"

        def on_end(_: object) -> None:
            if not gone.done():
                gone.set_result(None)
            if self._listening:
                # Now: the heartbeat in flight may hang elsewhere.
                self._hear_no_more()
                self._lose(broken)

        def on_notification(_: object, __: int, channel: str, payload: object) -> None:
            try:
                self._hear(channel, str(payload))
            except Exception:
                # A change that could not be handled is a missed change. Later heartbeats prove nothing.
                log.exception("change_not_applied")
                self._hear_no_more()
                connection.terminate()

        connection.add_termination_listener(on_end)
        beating: asyncio.Task[None] | None = None
        try:
            place = await place_of(connection, self.address)
            await self._heartbeats.connect()
            with translated(self.address):
                # In a transaction, so that a pooler sends each to one server.
                async with connection.transaction():
                    await connection.add_listener(CHANNEL, on_notification)
                    await connection.add_listener(CHANGES, on_notification)
            beating = asyncio.create_task(self._keep_proving(place))
            await asyncio.wait((gone, beating), return_when=asyncio.FIRST_COMPLETED)
            if not gone.done():
                await beating
            return broken
        finally:
            self._hear_no_more()
            if beating is not None:
                beating.cancel()
                await asyncio.gather(beating, return_exceptions=True)
            connection.terminate()

    async def _keep_proving(self, place: Place) -> None:
        """Send heartbeats until one does not arrive. Then raise `StoreUnavailable`."""
        while True:
            await self._prove(place)
            await asyncio.sleep(self._beat)

    async def _prove(self, place: Place) -> None:
        """Send a heartbeat and wait for it. Raises `StoreUnavailable` when it does not arrive."""
        self._heartbeat = secrets.token_hex(16)
        self._returned.clear()
        sent = False
        try:
            async with asyncio.timeout(self._patience):
                mark = await self._heartbeats.send(self._heartbeat)
                sent = True
                self._compare(mark)
                await self._returned.wait()
        except TimeoutError as error:
            if not sent:
                # It may have been cancelled in the middle of a transaction.
                self._heartbeats.close()
                detail = f"{self._heartbeats.address}: no heartbeat could be sent within {self._patience:g} s"
                raise StoreUnavailable(Tier.POSTGRES, detail) from error
            raise StoreUnavailable(Tier.POSTGRES, self._why_deaf(place)) from error

    def _why_deaf(self, place: Place) -> str:
        """Return the probable cause of missing heartbeats, from the places of both sessions."""
        there = self._heartbeats.place
        if there is None or place == there:
            return (
                f"{self.address}: no heartbeat came back within {self._patience:g} s: a pooler or proxy"
                " delivers no notifications, for example PgBouncer or Supavisor in transaction mode;"
                " set `postgres.listen_dsn` to an address that bypasses it"
            )
        where = f"database {place.database}"
        if place.server != there.server:
            where += " of another server"
        return (
            f"{self.address}: no heartbeat came back within {self._patience:g} s: `postgres.listen_dsn` leads"
            f" to {where}, `postgres.dsn` ({self._heartbeats.address}) to database {there.database};"
            " both must lead to the same one"
        )

    def _lose(self, detail: str) -> None:
        self.detail = detail
        if not self._lost:
            self._lost = True
            self._listener.lost(detail)

    def _compare(self, mark: int | None) -> None:
        """Report a flush for the changes that no trigger reported while the triggers were missing."""
        before, self._mark = self._mark, mark
        if self._listening and before is not None and mark != before:
            log.warning("triggers_changed", address=self.address)
            self._listener.changed(Everything(_unordered()))

    def _hear_no_more(self) -> None:
        """Drop the notifications that this connection has not yet passed to `_hear`."""
        self._listening, self._heartbeat, self._mark = False, None, None

    def _hear(self, channel: str, payload: str) -> None:
        own = channel == CHANNEL and payload == self._heartbeat
        if own:
            self._proven_at = asyncio.get_running_loop().time()
            self._returned.set()
            if not self._listening:
                self._listening, self._lost, self._pause = True, False, _FIRST_PAUSE
                self.detail = None
                self._listener.listening()
        if not self._listening:
            return
        if channel == CHANNEL:
            if _HEARTBEAT.fullmatch(payload):
                self._listener.heard(payload, own)
            return
        try:
            change = change_in(payload, *self._schemas, unordered=self._unordered)
        except ValueError:
            if not self._unreadable:
                self._unreadable = True
                log.warning("change_unreadable", channel=CHANGES, bytes=len(payload.encode()))
            change = Everything(_unordered())
        if change is not None:
            self._listener.changed(change)


def _own_tables(schema: str) -> Watch:
    async def watch() -> Watched:
        return Watched(schema)

    return watch


def change_in(payload: str, *schemas: str, unordered: Collection[str] = ()) -> Change | None:
    """Parse a trigger's payload; None if it is about the tables of other schemas.

    The versions of `unordered` schemas are of another server than those of users, and are not compared with
    them. Raises ValueError when the payload cannot be read.
    """
    json_text.check_depth(payload.encode())
    match orjson.loads(payload):
        case {"schema": str(other), **_rest} if other not in schemas:
            return None
        case {
            "schema": str(), "kind": "identities", "version": int(version),
            "identities": list(identities), "users": list(users),
        }:  # fmt: skip
            return Changed(tuple(map(_pair, identities)), tuple(map(_text, users)), _version(version))
        case {
            "schema": str(schema), "kind": "revocation", "version": int(version),
            "change": "set" | "lifted" as change,
            "revocation": {
                "kind": "jti" | "user" | "issuer" as kind, "issuer": str(issuer), "value": str(value),
                "revoked_at": int() | float() as revoked_at,
                "expires_at": int() | float() | None as expires_at,
            },
            **rest,
        }:  # fmt: skip
            expiry = None if expires_at is None else float(expires_at)
            revocation = Revocation(kind, issuer, value, float(revoked_at), expiry)
            if schema in unordered:
                version = _unordered()
                return Revoked(revocation, change == "lifted", version, _order(rest.get("order")))
            return Revoked(revocation, change == "lifted", _version(version), _order(rest.get("order")))
        case {"schema": str(schema), "kind": "all", "version": int(version)}:
            return Everything(_unordered() if schema in unordered else _version(version))
        case _:
            raise ValueError("the payload has another form")


def _unordered() -> int:
    """Return the version of a change that has no place among the others."""
    return -1 - secrets.randbelow(2**53)


def _pair(value: JSON) -> tuple[str, str]:
    match value:
        case [str(issuer), str(subject)]:
            return issuer, subject
        case _:
            raise ValueError("an identity is a list of two texts")


def _text(value: JSON) -> str:
    if not isinstance(value, str):
        raise ValueError("an id is a text")  # noqa: TRY004 -- unreadable, whatever it is
    return value


def _order(value: object) -> int:
    """Parse a number that the triggers of the first migrations do not send."""
    if value is None:
        return 0
    if not isinstance(value, int):
        raise ValueError("not a number")  # noqa: TRY004 -- unreadable, whatever it is
    return _version(value)


def _version(value: int) -> int:
    if not 0 < value <= 2**53:
        raise ValueError("not a count of changes, or a number that Redis would round")
    return value
