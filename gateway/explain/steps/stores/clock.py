"""Which clock is wrong, if a clock is the likely cause."""

import time
from contextlib import suppress

from gateway.core.clock_skew import AGREES, Skew, whose
from gateway.core.model import StoreUnavailable
from gateway.explain.answer import Cause
from gateway.explain.trail import Trail
from gateway.explain.wording import listed, span
from gateway.stores.postgres.database import Postgres
from gateway.stores.postgres.directory.diagnostics import Diagnostics


async def check(trail: Trail, postgres: Postgres, issuer_name: str) -> None:
    """Compare this machine's clock with that of Postgres, and with the tokens of the issuers."""
    if not any(found.cause is Cause.CLOCK_SKEW for found in trail.findings):
        return
    off: float | None = None
    with suppress(StoreUnavailable):
        off = await Diagnostics(postgres).clock() - time.time()
    skew = None if trail.clocks is None else trail.clocks.skew(issuer_name)
    if skew is not None and trail.clocks is not None and not skew.agrees:
        if _is_here(trail):
            off = None
        trail.amend(Cause.CLOCK_SKEW, _of_tokens(skew, trail.clocks.others(issuer_name), off), None)
    elif off is not None:
        trail.amend(Cause.CLOCK_SKEW, _of_postgres(off), None)


def told(skew: Skew) -> str:
    """Return what the tokens of an issuer show of its clock."""
    seen = f"as of its last {skew.tokens} tokens that this worker verified"
    if skew.agrees:
        return f"the issuer's clock agrees with ours, {seen}"
    return f"the issuer's clock is {span(skew.seconds)} {_side(skew.seconds)} ours, {seen}"


def _of_tokens(skew: Skew, others: dict[str, Skew], off: float | None) -> str:
    """Say how far the clocks are from each other, and whose is wrong."""
    found = told(skew)
    found = found[0].upper() + found[1:]
    witnesses = [*(["Postgres"] if off is not None else []), *sorted(others)]
    match whose(skew.seconds, others.values(), off):
        case "issuer":
            return f"{found}; ours agrees with {_agreeing(others, off, 0.0)}, so the issuer's is wrong."
        case "ours":
            return (
                f"{found}; it agrees with {_agreeing(others, off, skew.seconds)}, so the gateway's is wrong:"
                f" {span(skew.seconds)} {_side(-skew.seconds)} theirs."
            )
        case _:
            heard = f" ({listed(witnesses)})" if witnesses else ""
            return f"{found}. Whose clock is wrong cannot be told from here{heard}."


def _agreeing(others: dict[str, Skew], off: float | None, with_what: float) -> str:
    """Return the clocks that are so far ahead of ours."""
    names = [
        f"issuer {name}" for name, each in sorted(others.items()) if abs(each.seconds - with_what) <= AGREES
    ]
    if off is not None and abs(off - with_what) <= AGREES:
        names.insert(0, "Postgres")
    return " and ".join(["those of " + ", ".join(names)] if len(names) > 1 else [f"that of {names[0]}"])


def _is_here(trail: Trail) -> bool:
    """Return whether Postgres runs on this machine, so that it has the same clock."""
    login = trail.setup.postgres
    return login is not None and login.address.startswith(("/", "127.", "localhost", "[::1]", "::1"))


def _side(ahead: float) -> str:
    return "ahead of" if ahead > 0 else "behind"


def _of_postgres(off: float) -> str:
    if abs(off) <= AGREES:
        return (
            "The clock of Postgres agrees with the gateway's, so the issuer's is the likelier one to be"
            " wrong."
        )
    return (
        f"The gateway's clock is {span(off)} {_side(-off)} that of Postgres, so the gateway's is the likelier"
        " one to be wrong."
    )
