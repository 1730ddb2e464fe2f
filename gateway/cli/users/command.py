"""`gateway users`: the user directory. USER is an id, an e-mail address, or ISSUER_NAME:SUBJECT."""

from collections.abc import Awaitable, Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, TypeAlias

import typer

from gateway.cli.config import DEFAULT_CONFIG, ConfigFile, Json
from gateway.cli.stores import Stores, table, when, with_stores
from gateway.cli.terminal import arguments, output
from gateway.core.model import JSON, Identity, StoreUnavailable, UserStatus
from gateway.core.tokens.claims import MAX_SUBJECT_CHARACTERS, is_clean

if TYPE_CHECKING:  # the drivers take a while to import; `gateway --help` needs none of them
    from gateway.stores.postgres.directory.users import UserChanges, UserRecord

users_app: Final = typer.Typer(
    no_args_is_help=True,
    help="The user directory. USER is an id, an e-mail address, or ISSUER_NAME:SUBJECT.",
)

UserArgument: TypeAlias = Annotated[
    str, typer.Argument(metavar="USER", help="An id, an e-mail address, or ISSUER_NAME:SUBJECT.")
]
IssuerOption: TypeAlias = Annotated[
    str, typer.Option("--issuer", help="The configured name of the issuer, or its `iss`.")
]
SubjectOption: TypeAlias = Annotated[
    str, typer.Option("--subject", help="The `sub` exactly as in the tokens.")
]
EmailOption: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--email",
        help="The user's e-mail address, by which operators find the user.",
        callback=arguments.email,
    ),
]
NameOption: TypeAlias = Annotated[
    str | None, typer.Option("--name", help="The display name.", callback=arguments.utf8)
]
TenantOption: TypeAlias = Annotated[
    str | None,
    typer.Option("--tenant", help="Tokens that claim another tenant are refused.", callback=arguments.clean),
]


class Clearable(StrEnum):
    """The optional properties of a user. Each value is the name of the option that sets it."""

    EMAIL = "email"
    NAME = "name"
    TENANT = "tenant"
    TOKENS_VALID_AFTER = "tokens-valid-after"


@users_app.command()
def add(
    *,
    issuer: IssuerOption,
    subject: SubjectOption,
    email: EmailOption = None,
    name: NameOption = None,
    tenant: TenantOption = None,
    role: Annotated[
        list[str] | None, typer.Option(help="A role; may be repeated.", callback=arguments.each_clean)
    ] = None,
    status: Annotated[
        UserStatus, typer.Option(help="Only an `active` user is admitted.")
    ] = UserStatus.ACTIVE,
    config: ConfigFile = DEFAULT_CONFIG,
    json: Json = False,
) -> None:
    """Add a user and its first identity."""

    async def work(stores: Stores) -> "UserRecord":
        return await stores.directory.add(
            Identity(stores.issuer_of_users(issuer).issuer, _subject(subject)),
            status=status,
            tenant=tenant,
            email=email,
            display_name=name,
            roles=role or (),
            author=stores.author,
        )

    _write(config, work, json=json)


@users_app.command()
def show(user: UserArgument, *, config: ConfigFile = DEFAULT_CONFIG, json: Json = False) -> None:
    """Show a user and its identities."""
    _show(with_stores(config, lambda stores: stores.user(user)), json=json)


@users_app.command("list")
def list_(
    *,
    status: Annotated[UserStatus | None, typer.Option(help="Only users with this status.")] = None,
    tenant: Annotated[str | None, typer.Option(help="Only users of this tenant.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="The largest number of users.")] = 50,
    after: Annotated[str | None, typer.Option(metavar="ID", help="Start after this user.")] = None,
    config: ConfigFile = DEFAULT_CONFIG,
    json: Json = False,
) -> None:
    """List users, oldest first."""
    from gateway.stores.postgres.directory.user_rows import UserIdMalformed

    try:
        records = with_stores(
            config,
            lambda stores: stores.directory.page(status=status, tenant=tenant, after=after, limit=limit),
        )
    except UserIdMalformed as error:
        output.fail(f"--after: {error}", "give `next` of the page before", output.USAGE)
    last = records[-1].user.id if len(records) == limit else None
    if json:
        output.emit_json({"users": [_document(record) for record in records], "next": last})
        return
    table(
        ("id", "status", "tenant", "e-mail", "name", "roles", "identities"),
        (
            (
                record.user.id,
                record.user.status,
                record.user.tenant,
                record.user.email,
                record.user.display_name,
                ", ".join(record.user.roles),
                ", ".join(f"{identity.subject} @ {identity.issuer}" for identity in record.identities),
            )
            for record in records
        ),
    )
    if last is not None:
        output.out.print(f"More may follow: --after {last}", markup=False)


@users_app.command()
def link(
    user: UserArgument,
    *,
    issuer: IssuerOption,
    subject: SubjectOption,
    source: Annotated[
        str | None,
        typer.Option("--from", metavar="USER", help="The user who has the identity now; the identity moves."),
    ] = None,
    config: ConfigFile = DEFAULT_CONFIG,
    json: Json = False,
) -> None:
    """Add an identity to a user. With --from, move the identity from another user."""

    async def work(stores: Stores) -> "UserRecord":
        record = await stores.user(user)
        target = record.user.id
        identity = Identity(stores.issuer_of_users(issuer).issuer, _subject(subject))
        if source is None:
            return await stores.directory.link(target, identity, author=stores.author)
        owner = (await stores.user(source)).user.id
        return await stores.directory.move(identity, source=owner, target=target, author=stores.author)

    _write(config, work, json=json)


@users_app.command()
def change(
    user: UserArgument,
    *,
    email: EmailOption = None,
    name: NameOption = None,
    tenant: TenantOption = None,
    add_role: Annotated[
        list[str] | None,
        typer.Option(help="A role to add; may be repeated.", callback=arguments.each_clean),
    ] = None,
    remove_role: Annotated[list[str] | None, typer.Option(help="A role to remove; may be repeated.")] = None,
    tokens_valid_after: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Refuse tokens issued at or before this RFC 3339 time."),
    ] = None,
    clear: Annotated[
        list[Clearable] | None, typer.Option(help="A property to remove; may be repeated.")
    ] = None,
    config: ConfigFile = DEFAULT_CONFIG,
    json: Json = False,
) -> None:
    """Change the given properties of a user."""
    cleared = set(clear or ())
    given = dict(zip(Clearable, (email, name, tenant, tokens_valid_after), strict=True))
    for each in cleared:
        if given[each] is not None:
            output.fail(
                f"--{each} and --clear {each} exclude each other", "give only one of them", output.USAGE
            )
    changes: UserChanges = {}
    if email is not None or Clearable.EMAIL in cleared:
        changes["email"] = email
    if name is not None or Clearable.NAME in cleared:
        changes["display_name"] = name
    if tenant is not None or Clearable.TENANT in cleared:
        changes["tenant"] = tenant
    if tokens_valid_after is not None or Clearable.TOKENS_VALID_AFTER in cleared:
        changes["tokens_valid_after"] = _instant(tokens_valid_after)
    added, removed = add_role or [], remove_role or []
    if not changes and not added and not removed:
        output.fail("there is nothing to change", "gateway users change --help", output.USAGE)

    async def work(stores: Stores) -> "UserRecord":
        record = await stores.user(user)
        user_id, before = record.user.id, record.user.roles
        if not added and not removed:
            return await stores.directory.change(user_id, changes, author=stores.author)
        kept = [role for role in before if role not in removed]
        with_roles: UserChanges = {**changes, "roles": tuple(dict.fromkeys([*kept, *added]))}
        # Do not overwrite a change of roles that another operator makes meanwhile.
        return await stores.directory.change(
            user_id, with_roles, expected=lambda found: found.user.roles == before, author=stores.author
        )

    _write(config, work, json=json)


@users_app.command()
def suspend(user: UserArgument, *, config: ConfigFile = DEFAULT_CONFIG, json: Json = False) -> None:
    """Suspend a user: the gateway refuses it until it is activated."""
    _set_status(config, user, UserStatus.SUSPENDED, json=json)


@users_app.command()
def activate(user: UserArgument, *, config: ConfigFile = DEFAULT_CONFIG, json: Json = False) -> None:
    """Activate a pending, suspended or locked user."""
    _set_status(config, user, UserStatus.ACTIVE, json=json)


@users_app.command()
def lock(user: UserArgument, *, config: ConfigFile = DEFAULT_CONFIG, json: Json = False) -> None:
    """Lock a user, for example after too many wrong passwords."""
    _set_status(config, user, UserStatus.LOCKED, json=json)


@users_app.command()
def delete(user: UserArgument, *, config: ConfigFile = DEFAULT_CONFIG, json: Json = False) -> None:
    """Mark a user as deleted. It is refused, keeps its identities, and can be restored."""

    async def work(stores: Stores) -> "UserRecord":
        record = await stores.user(user)
        return await stores.directory.delete(record.user.id, author=stores.author)

    _write(config, work, json=json)


@users_app.command()
def restore(user: UserArgument, *, config: ConfigFile = DEFAULT_CONFIG, json: Json = False) -> None:
    """Restore a deleted user: it is active again."""

    async def work(stores: Stores) -> "UserRecord":
        record = await stores.user(user)
        return await stores.directory.restore(record.user.id, author=stores.author)

    _write(config, work, json=json)


def _set_status(config: Path, user: str, status: UserStatus, *, json: bool) -> None:
    async def work(stores: Stores) -> "UserRecord":
        record = await stores.user(user)
        return await stores.directory.change(record.user.id, {"status": status}, author=stores.author)

    _write(config, work, json=json)


def _write(config: Path, work: "Callable[[Stores], Awaitable[UserRecord]]", *, json: bool) -> None:
    """Change a user in Postgres, then delete it from Redis, so that the change counts at once."""
    from gateway.stores.postgres.directory.user_rows import (
        ChangeRefused,
        IdentityMissing,
        IdentityTaken,
        StatusRefused,
        UserChanged,
    )

    async def change(stores: Stores) -> "tuple[UserRecord, StoreUnavailable | None, float]":
        record = await work(stores)
        names = stores.issuer_names.by_iss
        cached = [(names[i.issuer], i.subject) for i in record.identities if i.issuer in names]
        try:
            if stores.source is not None:
                # Redis belongs to a database that the change itself may not have asked.
                await stores.postgres.identify()
            await stores.redis.forget_users(cached)
        except StoreUnavailable as error:
            return record, error, stores.settings.cache.user_ttl
        return record, None, 0.0

    try:
        record, missed, seconds = with_stores(config, change)
    except IdentityTaken as error:
        output.fail(str(error), f"gateway users show {error.user_id}")
    except IdentityMissing as error:
        output.fail(str(error), "give the user who has the identity as --from")
    except UserChanged as error:
        output.fail(str(error), "repeat the command")
    except ChangeRefused as error:
        output.fail(str(error))
    except StatusRefused as error:
        advice = (
            "gateway users restore"
            if error.status is UserStatus.DELETED
            else "only a deleted user can be restored"
        )
        output.fail(str(error), advice)
    _show(record, json=json)
    if missed is not None:
        output.fail(
            f"saved in Postgres, but {missed}",
            f"gateways that reach Redis may use the old user for up to {seconds:g} s",
            output.UNREACHABLE,
        )


def _instant(text: str | None) -> float | None:
    if text is None:
        return None
    moment = arguments.rfc3339(text)
    if moment is None:
        output.fail(
            "--tokens-valid-after is not an RFC 3339 time", "for example 2030-01-31T12:00:00Z", output.USAGE
        )
    return moment.timestamp()


def _subject(subject: str) -> str:
    """Refuse a subject that no token can have."""
    if len(subject) > MAX_SUBJECT_CHARACTERS or not is_clean(subject):
        output.fail(
            f"a subject has 1 to {MAX_SUBJECT_CHARACTERS} characters, none of them a control character",
            code=output.USAGE,
        )
    return subject


def _show(record: "UserRecord", *, json: bool) -> None:
    document = _document(record)
    if json:
        output.emit_json(document)
        return
    rows = [(key, _cell(value)) for key, value in document.items() if key != "identities"]
    rows += [("identity", f"{identity.subject} @ {identity.issuer}") for identity in record.identities]
    table(("user", ""), rows)


def _cell(value: JSON) -> str:
    match value:
        case None:
            return "–"
        case list():
            return ", ".join(map(str, value))
        case dict():
            return ", ".join(f"{key}={item}" for key, item in value.items())
        case _:
            return str(value)


def _document(record: "UserRecord") -> dict[str, JSON]:
    user = record.user
    return {
        "id": user.id,
        "status": user.status.value,
        "tenant": user.tenant,
        "email": user.email,
        "display_name": user.display_name,
        "roles": list(user.roles),
        "attributes": dict(user.attributes),
        "tokens_valid_after": when(user.tokens_valid_after),
        "created_at": when(record.created_at),
        "updated_at": when(record.updated_at),
        "deleted_at": when(record.deleted_at),
        "identities": [{"issuer": i.issuer, "subject": i.subject} for i in record.identities],
    }
