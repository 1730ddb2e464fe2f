"""`gateway explain`: why a token is refused or admitted."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Annotated, Final, Literal, NoReturn

import typer

from gateway.cli import arguments, output
from gateway.cli.config import DEFAULT_CONFIG, ConfigFile, Json, settings_or_exit
from gateway.core.model import StoreUnavailable
from gateway.core.reasons import CATALOGUE, Group

if TYPE_CHECKING:  # the drivers take a while to import; `gateway --help` needs none of them
    from gateway.explain import Explainer, Explanation, Step
    from gateway.settings import Settings

_SEARCH_SECONDS: Final = 10.0
"""Seconds for a search of users in tables of another system."""
_REDIS_TIMEOUT: Final = 1.0
_MARGIN: Final = 28
"""Columns for the outcome and the name of a step."""
_STYLES: Final = {"pass": "green", "fail": "bold red", "warn": "yellow", "skipped": "dim"}


def explain(
    token: arguments.PastedToken = None,
    *,
    method: Annotated[
        str | None,
        typer.Option(
            "--method",
            "-X",
            metavar="METHOD",
            help="The request's method; GET by default.",
            callback=arguments.method,
        ),
    ] = None,
    url: Annotated[
        str | None, typer.Option(metavar="URL", help="The request's URL or path: may this token call it?")
    ] = None,
    denied: Annotated[
        str | None,
        typer.Option(
            "--request",
            metavar="ID",
            help="Without a token: explain a denied request by its id, as far as the running gateway knows.",
            callback=arguments.clean,
        ),
    ] = None,
    config: ConfigFile = DEFAULT_CONFIG,
    json: Json = False,
) -> None:
    """Explain how the gateway decides on a token: the decision, the root cause, the fix, and each step."""
    if denied is not None:
        if token is not None or method is not None or url is not None:
            output.fail(
                "--request needs nothing else", "the gateway knows the request by its id", output.USAGE
            )
        _explain_denied(denied, config, json=json)
    if method is not None and url is None:
        output.fail("--method needs --url", "both select the route", output.USAGE)
    text = arguments.token_text(token, "explain")
    settings = settings_or_exit(config)
    explanation = asyncio.run(_explain(settings, config, text, method, url))
    if json:
        output.emit_json(explanation.to_json())
    else:
        _show(explanation)
    raise typer.Exit(_exit_code(explanation))


def _explain_denied(request_id: str, config: Path, *, json: bool) -> NoReturn:
    """Show what the running gateway knows of a denied request, and exit."""
    from gateway.cli.denied import explain_denied

    explanation = asyncio.run(explain_denied(settings_or_exit(config).admin, request_id))
    if json:
        output.emit_json(explanation.to_json())
    else:
        _show(explanation)
    raise typer.Exit(_exit_code(explanation))


async def _explain(
    settings: "Settings", config: Path, token: str | bytes, method: str | None, url: str | None
) -> "Explanation":
    async with _explainer(settings, config) as explainer:
        return await explainer.explain(token, method=method, url=url)


@asynccontextmanager
async def _explainer(settings: "Settings", config: Path) -> "AsyncIterator[Explainer]":
    """Build the engine from the same parts as a worker. It shares none of them with a worker."""
    from gateway import translation
    from gateway.builders import directories
    from gateway.explain import Explainer
    from gateway.issuer_keys.introspection import Introspector
    from gateway.issuer_keys.keyring import KeyRing
    from gateway.stores.postgres.database import Postgres
    from gateway.stores.postgres.hosts import place_of
    from gateway.stores.redis.shared_tier import RedisTier

    replica = settings.postgres.replica_dsn
    redis = RedisTier(
        settings.redis.url.get_secret_value(),
        prefix=settings.redis.prefix,
        timeout=_REDIS_TIMEOUT,
        connect_timeout=settings.redis.connect_timeout,
        place=place_of(settings.postgres.dsn.get_secret_value(), settings.postgres.schema_name),
        users_from=translation.users_from(settings),
        tls_strict=settings.redis.tls.strict,
        # The command changes nothing: only a gateway claims a Redis without an owner.
        read_only=True,
    )
    postgres = Postgres(
        settings.postgres.dsn.get_secret_value(),
        replica_dsn=None if replica is None else replica.get_secret_value(),
        schema=settings.postgres.schema_name,
        pool_max=3,
        connect_timeout=settings.postgres.connect_timeout,
        statement_timeout=settings.postgres.statement_timeout,
        prepared_statements=settings.postgres.prepared_statements,
        heard=redis.ownership.heard,
        tls_strict=settings.postgres.tls.strict,
    )
    with suppress(StoreUnavailable):
        # Postgres must be identified before the owner of Redis can be compared with it.
        await postgres.identify()
    try:
        made = translation.fetcher(settings.jwks)
    except OSError as error:
        output.fail(str(error), "correct the file, or its path", output.USAGE)
    async with made as fetcher:
        keys = KeyRing(
            {issuer.name: translation.key_source(issuer) for issuer in settings.issuers},
            fetcher=fetcher,
            observer=_Unobserved(),
            max_stale=settings.jwks.max_stale,
        )
        opaque = translation.opaque_issuers(settings.issuers)
        introspector = Introspector(opaque, fetcher=fetcher, observer=_Unobserved()) if opaque else None
        try:
            async with AsyncExitStack() as stack:
                look_ups = directories.user_source(settings)
                if look_ups is not None:
                    stack.push_async_callback(look_ups.close)
                operators = directories.user_directory(
                    settings, postgres, stack, statement_timeout=_SEARCH_SECONDS
                )
                users = directories.users_explained(postgres, look_ups, operators)
                setup = replace(translation.setup(settings), config=str(config))
                yield Explainer(setup, keys, postgres, redis, introspector=introspector, users=users)
        finally:
            if introspector is not None:
                await introspector.close()
            await keys.close()
            await postgres.close()
            with suppress(StoreUnavailable):
                await redis.close()


class _Unobserved:
    """An observer of keys and introspections that does nothing: a command has no metrics."""

    def jwks_refreshed(self, issuer: str, result: Literal["success", "failure"]) -> None: ...

    def introspected(
        self, issuer: str, result: Literal["active", "inactive", "failure"], seconds: float
    ) -> None: ...


def _exit_code(explanation: "Explanation") -> int:
    if explanation.decision == "allow":
        return output.OK
    reason = CATALOGUE[explanation.reason or ""]
    return output.UNREACHABLE if reason.group is Group.OURS else output.DENIED


def _show(explanation: "Explanation") -> None:
    """Write the steps, then the decision, and the fix last, so that it stays visible."""
    from rich.text import Text

    for step in explanation.steps:
        _show_step(step)
    allowed = explanation.decision == "allow"
    heading = Text(
        "ALLOW" if allowed else f"DENY  {explanation.reason}", "bold green" if allowed else "bold red"
    )
    if explanation.cause is not None:
        heading.append(f"  cause: {explanation.cause}", "bold yellow" if allowed else "bold red")
    output.out.print()
    output.out.print(heading)
    output.out.print(Text(output.plain(explanation.summary)))
    fix = explanation.fix
    if fix is None:
        return
    output.out.print(Text.assemble(("\nFix: ", "bold"), output.plain(fix.text)))
    # Unchanged and in one line each, for pasting; they have no control characters.
    for line in (fix.command, fix.config):
        if line is not None:
            output.out.print(Text(f"    {line}", "bold cyan"), soft_wrap=True)


def _show_step(step: "Step") -> None:
    """Write a step in one line; add what was expected if the step did not pass."""
    from rich.text import Text

    found, detail = step.found, step.detail
    if step.outcome in {"fail", "warn"}:
        said = [found, f"expected: {step.expected}", detail]
    else:
        said = ["; ".join(text for text in (found, detail) if text)]
    lines = [
        line
        for text in said
        if text
        for line in wrap(output.plain(text), max(20, output.out.width - _MARGIN), replace_whitespace=False)
    ]
    for place, line in enumerate(lines or [""]):
        head = f"{step.outcome:<9}", f"{step.name:<{_MARGIN - 9}}"
        outcome, name = head if place == 0 else (" " * 9, " " * (_MARGIN - 9))
        output.out.print(Text.assemble((outcome, _STYLES[step.outcome]), name, line), soft_wrap=True)
