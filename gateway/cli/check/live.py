"""`gateway check --live`: tries each dependency that the configuration names, all concurrently.

A check tries one thing and reports it in one line, a `CheckResult`. `PLANS` lists the functions that return
the checks for given settings. To add checks, write such a function in a module beside this one and add it to
`PLANS`:

    def checks(settings: Settings) -> Iterable[Check]:
        yield Check("postgres_stream", partial(_heard, settings))

A check opens and closes its own connections, and changes nothing that a gateway reads. The dependency counts
as unreachable when the check raises `StoreUnavailable`, or takes longer than `SECONDS`.
"""

import asyncio
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final, TypeAlias

from rich.text import Text

from gateway.cli.check import assertion, network, postgres, redis, sign_in, stream, users_source
from gateway.cli.check.result import Check, CheckResult
from gateway.cli.terminal import output
from gateway.core.model import StoreUnavailable

if TYPE_CHECKING:
    from gateway.settings import Settings

Plan: TypeAlias = Callable[["Settings"], Iterable[Check]]

PLANS: Final[tuple[Plan, ...]] = (
    postgres.checks,
    assertion.checks,
    users_source.checks,
    stream.checks,
    redis.checks,
    network.checks,
    sign_in.checks,
)

SECONDS: Final = 10.0
"""The time limit of one check."""

_STYLES: Final = {"pass": ("ok", "green"), "warn": ("warn", "yellow"), "fail": ("fail", "bold red")}


def try_all(settings: "Settings", tell: Callable[[CheckResult], None] = lambda _: None) -> list[CheckResult]:
    """Run all checks concurrently, and return their results in the order of `PLANS`.

    `tell` receives each result as soon as it is there.
    """
    checks = [check for plan in PLANS for check in plan(settings)]
    return asyncio.run(_try_all(checks, tell))


def try_one(check: Check) -> CheckResult:
    """Run one check."""
    return asyncio.run(_tried(check))


async def _try_all(checks: Iterable[Check], tell: Callable[[CheckResult], None]) -> list[CheckResult]:
    async def one(check: Check) -> CheckResult:
        result = await _tried(check)
        tell(result)
        return result

    return list(await asyncio.gather(*map(one, checks)))


async def _tried(check: Check) -> CheckResult:
    try:
        async with asyncio.timeout(SECONDS):
            return await check.run()
    except StoreUnavailable as error:
        return CheckResult(check.name, "fail", error.detail, unreachable=True)
    except TimeoutError:
        return CheckResult(check.name, "fail", f"no answer within {SECONDS:g} s", unreachable=True)
    except Exception as error:  # noqa: BLE001 -- a bug in one check must not hide the results of the others
        return CheckResult(check.name, "fail", f"the check itself failed: {type(error).__name__}: {error}")


def exit_code(found: Iterable[CheckResult]) -> int:
    """Return `UNREACHABLE` when a dependency is unreachable, `DENIED` when a check failed, else `OK`."""
    failed = [result for result in found if result.outcome == "fail"]
    if any(result.unreachable for result in failed):
        return output.UNREACHABLE
    return output.DENIED if failed else output.OK


def show(result: CheckResult) -> None:
    """Write one result for people: the outcome, the name, what was found, and what to do."""
    label, style = _STYLES[result.outcome]
    text = Text.assemble((f"{label:<5}", style), f"{result.name}: {output.plain(result.found)}")
    if result.fix:
        text.append(" → ", style="dim").append(output.plain(result.fix))
    output.out.print(text, soft_wrap=True)
