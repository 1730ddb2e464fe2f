"""`gateway assertion`: the keys that sign who a user is (docs/signed-identity.md)."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

import typer

from gateway.cli.config import DEFAULT_CONFIG, ConfigFile, Json, settings_or_exit
from gateway.cli.stores import Stores, with_stores
from gateway.cli.terminal import output
from gateway.core.model import JSON

if TYPE_CHECKING:  # the drivers take a while to import; `gateway --help` needs none of them
    from gateway.assertion.keys import KeyStore
    from gateway.core.assertion import SigningKey
    from gateway.settings.sections.model import Assertion

T = TypeVar("T")

assertion_app: Final = typer.Typer(no_args_is_help=True, help="The keys that sign the identity of users.")


@assertion_app.command()
def rotate(*, config: ConfigFile = DEFAULT_CONFIG, json: Json = False) -> None:
    """Publish a new key, which all gateways sign with after `assertion.publish_ahead`.

    The earlier key stays published until nothing that it has signed is valid.
    """
    from gateway.core.assertion import new_pem

    async def work(store: "KeyStore", rules: "Assertion", stores: Stores | None) -> "list[SigningKey]":
        if stores is not None:
            from gateway.stores.postgres.directory.audit import AuditLog

            await AuditLog(stores.postgres).record(stores.author, "assertion.rotate", "assertion")
        await store.add(new_pem(rules.algorithm), rules.algorithm, rules.publish_ahead, rotate=True)
        return list(await store.load())

    keys, _ = _with_keys(config, work)
    newest = max(keys, key=lambda key: key.signs_from)
    if json:
        output.emit_json({"kid": newest.kid, "algorithm": newest.algorithm, "signs_from": _at(newest)})
    else:
        output.out.print(f"published {newest.kid} ({newest.algorithm}), which signs from {_at(newest)}")


@assertion_app.command()
def keys(*, config: ConfigFile = DEFAULT_CONFIG, json: Json = False) -> None:
    """List the published keys, and which one signs."""
    from gateway.core import assertion

    async def work(store: "KeyStore", _: "Assertion", __: Stores | None) -> "list[SigningKey]":
        return list(await store.load())

    held, rules = _with_keys(config, work)
    now = time.time()
    signs = assertion.signing(held, now)
    rows: list[dict[str, JSON]] = [
        {
            "kid": key.kid,
            "algorithm": key.algorithm,
            "signs_from": _at(key),
            "state": "signs" if key is signs else "waits" if key.signs_from > now else "verifies",
        }
        for key in assertion.published(held, now, rules.ttl)
    ]
    if json:
        output.emit_json({"keys": [*rows]})
    else:
        for row in rows:
            output.out.print(f"{row['kid']}  {row['algorithm']}  {row['state']}  from {row['signs_from']}")


def _at(key: "SigningKey") -> str:
    return datetime.fromtimestamp(key.signs_from, UTC).isoformat(timespec="seconds")


def _with_keys(
    config: Path, work: "Callable[[KeyStore, Assertion, Stores | None], Awaitable[T]]"
) -> "tuple[T, Assertion]":
    """Run `work` with the keys and the settings; of stores that are needed for them, with these, too."""
    from gateway.assertion.key_file import KeyFile

    rules = settings_or_exit(config).assertion
    if rules is None:
        output.fail(
            "`assertion` is not configured, so no identity is signed", "write assertion: {}", output.USAGE
        )
    if rules.key_file is not None:
        try:
            return asyncio.run(_awaited(work(KeyFile(rules.key_file), rules, None))), rules
        except OSError as error:
            output.fail(str(error), "run the command as the user of the gateway", output.USAGE)

    async def in_postgres(stores: Stores) -> T:
        from gateway.stores.postgres.assertion_keys import AssertionKeyRows

        return await work(AssertionKeyRows(stores.postgres), rules, stores)

    return with_stores(config, in_postgres), rules


async def _awaited(work: Awaitable[T]) -> T:
    return await work
