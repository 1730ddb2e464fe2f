"""`gateway revocations lift`: ends a revocation that was made by mistake."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

import typer

from gateway.cli.config import DEFAULT_CONFIG, ConfigFile, Json
from gateway.cli.stores import Stores, with_stores
from gateway.cli.terminal import output
from gateway.cli.terminal.arguments import AnyUser, IssuerName, Jti, OfIssuer
from gateway.core.model import StoreUnavailable

if TYPE_CHECKING:  # the drivers take a while to import; `gateway --help` needs none of them
    from gateway.core.revocations import Revocation

lift_app: Final = typer.Typer(
    no_args_is_help=True,
    help="Lift a revocation: its tokens are admitted again, unless something else refuses them.",
)


@lift_app.command()
def jti(
    issuer: OfIssuer,
    jti: Jti,
    *,
    config: ConfigFile = DEFAULT_CONFIG,
    json: Json = False,
) -> None:
    """Lift the revocation of one token."""
    from gateway.core.revocations import Revocation

    async def work(stores: Stores) -> "tuple[Revocation, int]":
        spellings = stores.spellings(issuer)
        rows = await stores.revocations.lift("jti", issuers=spellings, value=jti, author=stores.author)
        return Revocation("jti", spellings[0], jti, 0.0), rows

    _lift(config, work, json=json)


@lift_app.command()
def user(
    user: AnyUser,
    *,
    config: ConfigFile = DEFAULT_CONFIG,
    json: Json = False,
) -> None:
    """Lift the revocation of a user's tokens. Tokens that were revoked singly stay revoked."""
    from gateway.core.revocations import Revocation

    async def work(stores: Stores) -> "tuple[Revocation, int]":
        user_id = await stores.user_id(user)
        rows = await stores.revocations.lift("user", value=user_id, author=stores.author)
        return Revocation("user", "", user_id, 0.0), rows

    _lift(config, work, json=json)


@lift_app.command()
def issuer(
    name: IssuerName,
    *,
    config: ConfigFile = DEFAULT_CONFIG,
    json: Json = False,
) -> None:
    """Lift the revocation of an issuer's tokens. Tokens that were revoked singly stay revoked."""
    from gateway.core.revocations import Revocation

    async def work(stores: Stores) -> "tuple[Revocation, int]":
        spellings = stores.spellings(name)
        rows = await stores.revocations.lift("issuer", issuers=spellings, author=stores.author)
        return Revocation("issuer", spellings[0], "", 0.0), rows

    _lift(config, work, json=json)


def _lift(config: Path, work: "Callable[[Stores], Awaitable[tuple[Revocation, int]]]", *, json: bool) -> None:
    """Delete from Postgres first, from which Redis is filled, then from Redis."""
    from gateway.stores.redis.ownership import ForeignRedis

    async def lift(stores: Stores) -> "tuple[Revocation, int, StoreUnavailable | None]":
        revocation, rows = await work(stores)
        try:
            return revocation, rows + await stores.redis.revoked.lift([revocation]), None
        except StoreUnavailable as error:
            return revocation, rows, error

    revocation, lifted, missed = with_stores(config, lift)
    if missed is not None:
        output.fail(
            f"{'lifted' if lifted else 'not recorded'} in Postgres, but {missed}",
            "gateways of this database do not use that Redis; `gateway redis claim` claims it"
            if isinstance(missed, ForeignRedis)
            else "revocations in Redis still count: repeat the command when Redis is back",
            output.UNREACHABLE,
        )
    if not lifted:
        output.fail(
            f"there is no such revocation of this {'token' if revocation.kind == 'jti' else revocation.kind}",
            "`gateway revocations list` lists the revocations",
        )
    if json:
        output.emit_json(
            {"lifted": {"kind": revocation.kind, "issuer": revocation.issuer, "value": revocation.value}}
        )
    else:
        output.out.print("lifted")
