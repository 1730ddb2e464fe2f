"""How commands open Postgres and Redis, and what they report when a store does not answer."""

import asyncio
import os
import pwd
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn, TypeVar
from uuid import UUID, uuid4

from gateway.cli.config import settings_or_exit
from gateway.cli.terminal import output
from gateway.core.model import Identity, RecordUnusable, StoreUnavailable, Tier
from gateway.core.tokens.issuer_patterns import IssuerNames, is_pattern

if TYPE_CHECKING:  # the drivers take a while to import; `gateway --help` needs none of them
    from gateway.settings import Settings
    from gateway.settings.sections.model import Issuer
    from gateway.stores.postgres.database import Postgres
    from gateway.stores.postgres.directory.audit import Author
    from gateway.stores.postgres.directory.revocation_rows import RevocationRows
    from gateway.stores.postgres.directory.users import UserRecord
    from gateway.stores.postgres.source.directory.users import AnyDirectory, SourceDirectory
    from gateway.stores.redis.shared_tier import RedisTier
    from gateway.stores.system_of_record import SystemOfRecord

T = TypeVar("T")

_STATEMENT_TIMEOUT: Final = 10.0
"""Seconds; an operator waits longer than a request."""
_REDIS_TIMEOUT: Final = 2.0


@dataclass(frozen=True, slots=True)
class Stores:
    """The stores and settings of a command."""

    settings: "Settings"
    postgres: "Postgres"
    redis: "RedisTier"
    directory: "AnyDirectory"
    revocations: "RevocationRows"
    author: "Author"
    """The author of the command's changes, for the audit log."""

    @property
    def issuer_names(self) -> IssuerNames:
        """The configured issuers."""
        return IssuerNames({each.name: each.issuer for each in self.settings.issuers})

    def issuer(self, text: str) -> "Issuer":
        """Return the configured issuer with this name, realm or `iss`; exit when there is none.

        `name` and `issuer` are the realm and the `iss` of the tenant, if the text names one.
        """
        found = self.issuer_names.find(text)
        if found is None:
            names = ", ".join(each.name for each in self.settings.issuers)
            output.fail(f"no issuer `{text}` is configured", f"configured issuers: {names}")
        name, iss = found
        (configured,) = (each for each in self.settings.issuers if each.name == name.partition("/")[0])
        return configured.model_copy(update={"name": name, "issuer": iss})

    def issuer_of_users(self, text: str) -> "Issuer":
        """Return the issuer of an identity, which names a tenant if the issuer has several; or exit."""
        found = self.issuer(text)
        if is_pattern(found.issuer):
            output.fail(
                f"issuer `{text}` has several tenants, and a user belongs to one of them",
                f"write {found.name}/TENANT, or the `iss` of the tenant's tokens",
            )
        return found

    def spellings(self, text: str) -> tuple[str, str]:
        """Return the name and `iss` of an issuer, given by either; the text twice if it is not configured."""
        return self.issuer_names.find(text) or (text, text)

    async def user(self, text: str) -> "UserRecord":
        """Find a user by id, `ISSUER_NAME:SUBJECT` or e-mail address; exit unless there is exactly one."""
        from gateway.stores.postgres.directory.user_rows import IdentityAmbiguous, UserNotFound

        if self._is_uuid(text):
            try:
                return await self.directory.get(text)
            except UserNotFound as error:
                output.fail(str(error), "`gateway users list` lists the users")
        name, colon, subject = text.partition(":")
        if colon and name in (names := self.issuer_names):
            try:
                found = await self.directory.find(Identity(names[name], subject))
            except IdentityAmbiguous as error:
                output.fail(error.detail, f"give one of their ids: {', '.join(error.ids)}")
            if found is None:
                output.fail(f"no user has the identity `{subject}` of issuer {name}", "gateway users add")
            return found
        if self.settings.users.source is not None:
            with suppress(UserNotFound):
                return await self.directory.get(text)
        records = await self.directory.with_email(text) if "@" in text else []
        if not records:
            output.fail(
                f"there is no user `{text}`",
                "give an id, an e-mail address, or ISSUER_NAME:SUBJECT; `gateway users list` lists the ids",
            )
        if len(records) > 1:
            ids = ", ".join(record.user.id for record in records)
            output.fail(f"several users have the e-mail address {text}", f"give one of their ids: {ids}")
        return records[0]

    @property
    def source(self) -> "SourceDirectory | None":
        """The tables of another system that has the users; None: they are in the gateway's own."""
        from gateway.stores.postgres.source.directory.users import SourceDirectory

        return self.directory if isinstance(self.directory, SourceDirectory) else None

    async def obstacle_to_link(self, iss: str) -> str | None:
        """Return why `gateway users link` cannot link an identity of an issuer."""
        return None if self.source is None else await self.source.obstacle_to_link(Identity(iss, ""))

    async def user_id(self, text: str) -> str:
        """Return the id of a user, whose row may be gone if the text is an id; exit like `user`."""
        if self._is_uuid(text):
            return str(UUID(text))
        elsewhere, prefix = self.settings.users.source is not None, text.partition(":")[0]
        named = "@" in text or prefix in self.issuer_names
        return text if elsewhere and not named else (await self.user(text)).user.id

    def _is_uuid(self, text: str) -> bool:
        """Return whether a text can only be the id of a user in the gateway's own tables."""
        if self.settings.users.source is not None:
            return False
        try:
            UUID(text)
        except ValueError:
            return False
        return True


def with_stores(config: Path, work: Callable[[Stores], Awaitable[T]]) -> T:
    """Run `work` with the configured stores; exit with `UNREACHABLE` when a store does not answer."""
    settings = settings_or_exit(config)
    try:
        return asyncio.run(_with_stores(settings, work))
    except StoreUnavailable as error:
        refuse(error)


async def _with_stores(settings: "Settings", work: Callable[[Stores], Awaitable[T]]) -> T:
    from gateway.builders import directories
    from gateway.stores.postgres.database import Postgres
    from gateway.stores.postgres.directory.audit import Author
    from gateway.stores.postgres.directory.revocation_rows import RevocationRows

    redis = redis_tier(settings, timeout=_REDIS_TIMEOUT)
    postgres = Postgres(
        settings.postgres.dsn.get_secret_value(),
        schema=settings.postgres.schema_name,
        pool_max=1,
        connect_timeout=settings.postgres.connect_timeout,
        statement_timeout=_STATEMENT_TIMEOUT,
        prepared_statements=settings.postgres.prepared_statements,
        heard=redis.ownership.heard,
        tls_strict=settings.postgres.tls.strict,
    )
    author = Author(f"cli:{operator()}", uuid4().hex)
    try:
        async with AsyncExitStack() as stack:
            directory = directories.user_directory(
                settings, postgres, stack, statement_timeout=_STATEMENT_TIMEOUT
            )
            revocations = RevocationRows(postgres)
            return await work(Stores(settings, postgres, redis, directory, revocations, author))
    finally:
        await postgres.close()
        with suppress(StoreUnavailable):
            await redis.close()


def postgres_tier(
    settings: "Settings", *, pool_max: int = 1, heard: "Callable[[SystemOfRecord], None] | None" = None
) -> "Postgres":
    """Return Postgres as `gateway run` opens it. `heard` is told which database it is."""
    from gateway.stores.postgres.database import Postgres

    postgres = settings.postgres
    return Postgres(
        postgres.dsn.get_secret_value(),
        replica_dsn=None if postgres.replica_dsn is None else postgres.replica_dsn.get_secret_value(),
        schema=postgres.schema_name,
        pool_max=pool_max,
        connect_timeout=postgres.connect_timeout,
        statement_timeout=postgres.statement_timeout,
        tls_strict=postgres.tls.strict,
        prepared_statements=postgres.prepared_statements,
        heard=heard,
    )


def redis_tier(settings: "Settings", *, timeout: float, read_only: bool = False) -> "RedisTier":
    """Return Redis as a command opens it. `timeout` is in seconds; `read_only`: it claims no owner."""
    from gateway import translation
    from gateway.stores.postgres.hosts import place_of
    from gateway.stores.redis.shared_tier import RedisTier

    return RedisTier(
        settings.redis.url.get_secret_value(),
        prefix=settings.redis.prefix,
        timeout=timeout,
        connect_timeout=settings.redis.connect_timeout,
        place=place_of(settings.postgres.dsn.get_secret_value(), settings.postgres.schema_name),
        users_from=translation.users_from(settings),
        tls_strict=settings.redis.tls.strict,
        read_only=read_only,
    )


def operator() -> str:
    """Return the operating system's user by uid. Environment variables such as USER can be forged."""
    uid = os.geteuid()
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"  # in a container, the user may have no name


def refuse(error: StoreUnavailable, setting: str = "postgres.dsn") -> NoReturn:
    """Report which store does not answer, where, why, and what to do; exit with `UNREACHABLE`.

    `setting` names the DSN of Postgres.
    """
    address, _, why = error.detail.partition(": ")
    if isinstance(error, RecordUnusable):
        output.fail(error.detail, code=output.USAGE)
    if error.store is Tier.REDIS:
        output.unreachable("Redis", address, why, "start it, or correct redis.url")
    from asyncpg import ClientConfigurationError, DataError, PostgresError

    from gateway.stores.postgres.errors import advice_for, said
    from gateway.stores.postgres.source.database import SourceRefused

    if isinstance(error, SourceRefused):
        output.fail(f"Postgres at {address}: {why}", "gateway check --live", output.UNREACHABLE)
    cause = error.__cause__
    if isinstance(cause, ClientConfigurationError):
        output.fail(f"{setting}: {why}", f"correct {setting}", output.USAGE)
    if isinstance(cause, DataError):
        output.fail("Postgres cannot hold a value of this command", "write it as UTF-8 text", output.USAGE)
    if isinstance(cause, PostgresError):
        why, advice = said(cause), _advice(cause, setting) or advice_for(cause)
        output.fail(f"Postgres at {address} did not run the command: {why}", advice, output.UNREACHABLE)
    if not isinstance(cause, OSError):
        output.fail(
            f"Postgres at {address} did not run the command: {why}",
            _advice(cause, setting),
            output.UNREACHABLE,
        )
    output.unreachable(
        "Postgres",
        address,
        why,
        _advice(cause, setting) or f"start it, or correct {setting}",
    )


def advice_for_postgres(error: StoreUnavailable, setting: str) -> tuple[str | None, bool]:
    """Return what to do, if the error does not say it, and whether Postgres did not answer at all.

    `setting` names the DSN.
    """
    from gateway.stores.postgres.errors import advice_for, is_silence

    cause = error.__cause__
    if not is_silence(cause):
        return None, False
    advice = _advice(cause, setting) or advice_for(cause)
    return advice or f"start it, or correct {setting}", True


def _advice(cause: BaseException | None, setting: str) -> str | None:
    """Return what to change when starting Postgres does not help."""
    from ssl import SSLError

    from asyncpg import InvalidAuthorizationSpecificationError, InvalidCatalogNameError

    if isinstance(cause, InvalidAuthorizationSpecificationError):
        return f"correct user and password in {setting}, or let the server accept them"
    if isinstance(cause, InvalidCatalogNameError):
        return f"create the database, for example with createdb, or correct its name in {setting}"
    if isinstance(cause, FileNotFoundError):
        return f"start it, or correct the paths (socket, sslrootcert, sslcert) in {setting}"
    # The driver has no exception type for a server without TLS.
    if isinstance(cause, SSLError) or "SSL upgrade" in str(cause):
        return f"correct sslmode or sslrootcert in {setting}, or turn on `ssl` in the server"
    return None


def when(seconds: float | None) -> str | None:
    """Return a Unix time as RFC 3339 in UTC."""
    if seconds is None:
        return None
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    except (ValueError, OverflowError, OSError):
        return str(seconds)  # Postgres has `infinity`, and years that Python has not


def table(headings: Iterable[str], rows: Iterable[Iterable[str | None]]) -> None:
    """Write a table for people, without the control characters that a terminal would obey."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    drawn = Table(*headings, box=box.SIMPLE_HEAD)
    for row in rows:
        drawn.add_row(*(Text(output.plain(cell or ""), overflow="fold") for cell in row))
    output.out.print(drawn)
