"""`gateway revoke` and `gateway revocations`: refuse valid tokens before they expire."""

import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, TypeAlias

import typer

from gateway.cli.config import DEFAULT_CONFIG, ConfigFile, Json
from gateway.cli.stores import Stores, operator, table, when, with_stores
from gateway.cli.terminal import output
from gateway.cli.terminal.arguments import AnyUser, IssuerName, Jti, OfIssuer, rfc3339, utf8
from gateway.core.model import JSON, RecordUnusable, StoreUnavailable
from gateway.core.tokens.claims import MAX_DATE, is_clean

if TYPE_CHECKING:  # the drivers take a while to import; `gateway --help` needs none of them
    from gateway.core.revocations import Revocation

revoke_app: Final = typer.Typer(
    no_args_is_help=True, help="Revoke a token, or all tokens issued so far to a user or by an issuer."
)
revocations_app: Final = typer.Typer(no_args_is_help=True, help="List, lift and prune revocations.")

Until: TypeAlias = Annotated[
    str | None,
    typer.Option(
        metavar="TIME", help="When the revocation ends: a duration such as 24h, or an RFC 3339 time."
    ),
]
Reason: TypeAlias = Annotated[
    str | None, typer.Option(help="Why, for the audit log and the list of revocations.", callback=utf8)
]


@revoke_app.command()
def token(
    token: Annotated[
        str,
        typer.Argument(
            metavar="TOKEN", help="The raw token; `-` reads it from stdin, where `ps` cannot show it."
        ),
    ],
    *,
    until: Until = None,
    reason: Reason = None,
    config: ConfigFile = DEFAULT_CONFIG,
    json: Json = False,
) -> None:
    """Revoke one token until it expires. The command does not check the signature.

    The issuer of an opaque token is asked for its `jti`; a token without one is revoked by its SHA-256.
    """
    # Bytes: text that is not UTF-8 is not a token either, and must fail like any other bad token.
    from_stdin = token == "-"  # noqa: S105 -- a marker, not a secret
    payload = _payload(
        typer.get_binary_stream("stdin").read() if from_stdin else token.encode("utf-8", "surrogateescape"),
        config,
    )
    iss, jti, exp = payload.get("iss"), payload.get("jti"), payload.get("exp")
    if not isinstance(iss, str):
        output.fail("the token names no issuer, so the gateway refuses it anyway")
    if not isinstance(jti, str) or not jti:
        output.fail(
            "the token has no `jti`, so it cannot be revoked singly",
            "revoke all tokens of the user: gateway revoke user ID",
        )
    if not is_clean(jti) or (isinstance(exp, int | float) and not 0 <= exp <= MAX_DATE):
        output.fail("the token's `jti` or `exp` is not valid, so the gateway refuses it anyway")
    ends = _instant(until)

    async def work(stores: Stores) -> "Revocation":
        configured = stores.issuer(iss)
        expires_at = ends
        if until is None and isinstance(exp, int | float) and not isinstance(exp, bool):
            expires_at = float(exp) + 2 * configured.leeway
        return await _revoke_jti(stores, configured.name, jti, expires_at, reason)

    _revoke(config, work, json=json)


@revoke_app.command()
def jti(
    issuer: OfIssuer,
    jti: Jti,
    *,
    until: Until = None,
    reason: Reason = None,
    config: ConfigFile = DEFAULT_CONFIG,
    json: Json = False,
) -> None:
    """Revoke one token by its `jti`, for the issuer's `max_lifetime`; without one, for ever."""
    ends = _instant(until)
    if not is_clean(jti):
        output.fail(
            "no token can have this `jti`: it needs at least one character, and no control characters",
            code=output.USAGE,
        )

    async def work(stores: Stores) -> "Revocation":
        configured = stores.issuer(issuer)
        expires_at = ends
        if until is None and configured.max_lifetime is not None:
            expires_at = time.time() + configured.max_lifetime + 2 * configured.leeway
        return await _revoke_jti(stores, configured.name, jti, expires_at, reason)

    _revoke(config, work, json=json)


@revoke_app.command()
def user(
    user: AnyUser,
    *,
    until: Until = None,
    reason: Reason = None,
    config: ConfigFile = DEFAULT_CONFIG,
    json: Json = False,
) -> None:
    """Revoke all tokens issued to a user so far; for ever, or until --until."""
    ends = _instant(until)

    async def work(stores: Stores) -> "Revocation":
        try:
            user_id = (await stores.user(user)).user.id
        except RecordUnusable:
            # Its row is wrong, and its tokens may be, too.
            user_id = await stores.user_id(user)
        return await stores.revocations.revoke(
            "user",
            value=user_id,
            expires_at=ends,
            reason=reason,
            revoked_by=operator(),
            author=stores.author,
        )

    _revoke(config, work, json=json)


@revoke_app.command()
def issuer(
    name: IssuerName,
    *,
    until: Until = None,
    reason: Reason = None,
    config: ConfigFile = DEFAULT_CONFIG,
    json: Json = False,
) -> None:
    """Revoke all tokens that an issuer has issued so far; for ever, or until --until."""
    ends = _instant(until)

    async def work(stores: Stores) -> "Revocation":
        return await stores.revocations.revoke(
            "issuer",
            issuer=stores.issuer(name).name,
            expires_at=ends,
            reason=reason,
            revoked_by=operator(),
            author=stores.author,
        )

    _revoke(config, work, json=json)


@revocations_app.command("list")
def list_(
    *,
    expired: Annotated[
        bool, typer.Option("--expired", help="Also list revocations that have ended.")
    ] = False,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="The largest number of revocations.")] = 100,
    config: ConfigFile = DEFAULT_CONFIG,
    json: Json = False,
) -> None:
    """List revocations, the latest first."""
    rows = with_stores(config, lambda stores: stores.revocations.latest(expired=expired, limit=limit))
    if json:
        output.emit_json({"revocations": [_document(row) for row in rows]})
        return
    _table(*rows)


@revocations_app.command()
def prune(*, config: ConfigFile = DEFAULT_CONFIG, json: Json = False) -> None:
    """Delete the rows of revocations that have ended."""
    pruned = with_stores(config, lambda stores: stores.revocations.prune(author=stores.author))
    if json:
        output.emit_json({"pruned": pruned})
        return
    output.out.print(f"{pruned} deleted")


async def _revoke_jti(
    stores: Stores, issuer: str, jti: str, expires_at: float | None, reason: str | None
) -> "Revocation":
    return await stores.revocations.revoke(
        "jti",
        issuer=issuer,
        value=jti,
        expires_at=expires_at,
        reason=reason,
        revoked_by=operator(),
        author=stores.author,
    )


def _revoke(config: Path, work: "Callable[[Stores], Awaitable[Revocation]]", *, json: bool) -> None:
    """Write to Postgres, the durable store, then to Redis, so that the revocation counts at once."""
    from gateway.stores.redis.ownership import ForeignRedis

    async def write(stores: Stores) -> "tuple[Revocation, StoreUnavailable | None]":
        revocation = await work(stores)
        try:
            await stores.redis.revoked.revoke([revocation])
        except StoreUnavailable as error:
            return revocation, error
        return revocation, None

    revocation, missed = with_stores(config, write)
    if json:
        output.emit_json(_document(revocation))
    else:
        _table(revocation)
    if missed is not None:
        output.fail(
            f"recorded in Postgres, but {missed}",
            "gateways of this database do not use that Redis, and apply the revocation at once;"
            " `gateway redis claim` claims it"
            if isinstance(missed, ForeignRedis)
            else "gateways that reach Redis apply the revocation within 30 s, others at once;"
            " repeat the command to be sure",
            output.UNREACHABLE,
        )


def _payload(raw: bytes, config: Path) -> Mapping[str, JSON]:
    from gateway.cli.revocations import opaque
    from gateway.core.reasons import TOKEN_MALFORMED, Denial
    from gateway.core.tokens.jws import parse

    raw = raw.strip().removeprefix(b"Bearer ")
    try:
        return parse(raw).payload
    except Denial as denial:
        if denial.reason is TOKEN_MALFORMED and (claims := opaque.described(config, raw)) is not None:
            return claims
        output.fail(f"the gateway would not accept this token: {denial.reason.title}")


def _instant(until: str | None) -> float | None:
    """Read --until: a duration from now, or an RFC 3339 time with its offset; in the future."""
    if until is None:
        return None
    from pydantic_core import PydanticCustomError

    from gateway.settings.values import parse_duration

    try:
        instant = time.time() + parse_duration(until)
    except PydanticCustomError:
        moment = rfc3339(until)
        if moment is None:
            output.fail(
                "--until is neither a duration nor a time",
                "write 30m, 24h or 2030-01-31T12:00:00Z",
                output.USAGE,
            )
        instant = moment.timestamp()
    if instant > MAX_DATE:
        output.fail("--until is later than the year 9999", "omit it to revoke for ever", output.USAGE)
    if instant <= time.time():
        output.fail("--until is in the past, so nothing would be revoked", code=output.USAGE)
    return instant


def _table(*rows: "Revocation") -> None:
    table(
        ("kind", "issuer", "value", "revoked at", "until", "reason", "by"),
        (
            (
                row.kind,
                row.issuer,
                row.value,
                when(row.revoked_at),
                when(row.expires_at) or "for ever",
                row.reason,
                row.revoked_by,
            )
            for row in rows
        ),
    )


def _document(row: "Revocation") -> dict[str, JSON]:
    return {
        "kind": row.kind,
        "issuer": row.issuer,
        "value": row.value,
        "revoked_at": when(row.revoked_at),
        "expires_at": when(row.expires_at),
        "reason": row.reason,
        "revoked_by": row.revoked_by,
    }
