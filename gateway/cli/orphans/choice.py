"""Which field of an export has the subjects: the one with known identities, else the issuer's claim."""

from functools import partial
from typing import Final

from gateway.cli.stores import Stores
from gateway.cli.terminal import output
from gateway.reconcile.exports.export import Export

_SAMPLE: Final = 1_000
"""Records whose subjects are looked up. They stay in memory until they are read."""


async def choose_field(
    export: Export, stores: Stores, iss: str, *, or_email: bool = False, quiet: bool = False
) -> None:
    """Choose the field, and unless `quiet` say on stderr which one it is.

    Raises `BadExport` and `StoreUnavailable`.
    """
    from gateway.reconcile.orphans import count_known

    count = partial(count_known, stores.postgres) if stores.source is None else stores.source.count_known
    known: list[int] = []
    if not export.is_certain:
        known = [await count(iss, each) for each in export.sample(_SAMPLE)]
    export.choose(known, or_email=or_email)
    if quiet:
        return
    what = "an export" if export.provider is None else f"an export of {export.provider}"
    if export.by_email:
        output.warn(
            f"this is {what} without subjects: e-mail addresses are compared with those of the users",
            export.advice,
        )
    elif export.provider is not None or len(export.candidates) > 1:
        output.err.print(
            f"This is {what}; its subjects are in `{export.field}`.", markup=False, soft_wrap=True
        )
