"""The check of signed identity: that the keys can be read, and made where there are none yet."""

import time
from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Final

from gateway.assertion.key_file import KeyFile
from gateway.cli.check.postgres import grant
from gateway.cli.check.result import Check, CheckResult
from gateway.cli.stores import advice_for_postgres, postgres_tier
from gateway.core import assertion
from gateway.core.model import StoreUnavailable
from gateway.stores.postgres.assertion_keys import FUNCTIONS, AssertionKeyRows
from gateway.stores.postgres.directory.diagnostics import Diagnostics

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gateway.core.assertion import SigningKey
    from gateway.settings import Settings

_NAME: Final = "assertion_keys"


def checks(settings: "Settings") -> Iterable[Check]:
    """Return the check, if identities are signed."""
    if settings.assertion is not None:
        yield Check(_NAME, partial(_keys, settings))


async def _keys(settings: "Settings") -> CheckResult:
    rules = settings.assertion
    if rules is not None and rules.key_file is not None:
        try:
            return _found(await KeyFile(rules.key_file).load(), str(rules.key_file))
        except OSError as error:
            return CheckResult(_NAME, "fail", str(error), "run the check as the user of the gateway")
    postgres = postgres_tier(settings)
    try:
        allowed = await Diagnostics(postgres).may_execute(*FUNCTIONS)
        if allowed is None:
            wanted = " and ".join(FUNCTIONS)
            return CheckResult(_NAME, "fail", f"Postgres has not {wanted}", "run `gateway migrate`")
        if not allowed:
            fix = await grant(postgres, settings, *FUNCTIONS)
            return CheckResult(_NAME, "fail", "its role may not read and make the keys", fix)
        return _found(await AssertionKeyRows(postgres).load(), postgres.address)
    except StoreUnavailable as error:
        return CheckResult(_NAME, "fail", error.detail, *advice_for_postgres(error, "postgres.dsn"))
    finally:
        await postgres.close()


def _found(keys: "Sequence[SigningKey]", place: str) -> CheckResult:
    signs = assertion.signing(keys, time.time())
    if signs is None:
        return CheckResult(_NAME, "pass", f"{place}: no key yet; the first gateway that starts makes one")
    return CheckResult(_NAME, "pass", f"{place}: {len(keys)} of them; {signs.kid} ({signs.algorithm}) signs")
