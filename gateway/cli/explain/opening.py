"""Opens what `gateway explain` needs: the same parts as a worker has, shared with none."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from gateway.cli.stores import postgres_tier, redis_tier
from gateway.cli.terminal import output
from gateway.core.model import StoreUnavailable

if TYPE_CHECKING:  # the drivers take a while to import; `gateway --help` needs none of them
    from gateway.explain import Explainer, Explanation
    from gateway.settings import Settings

_SEARCH_SECONDS: Final = 10.0
"""Seconds for a search of users in tables of another system."""
_REDIS_TIMEOUT: Final = 1.0


async def explained(
    settings: "Settings", config: Path, token: str | bytes, method: str | None, url: str | None
) -> "Explanation":
    """Explain a token with stores of its own."""
    async with _explainer(settings, config) as explainer:
        return await explainer.explain(token, method=method, url=url)


@asynccontextmanager
async def _explainer(settings: "Settings", config: Path) -> "AsyncIterator[Explainer]":
    """Build the engine from the same parts as a worker. It shares none of them with a worker."""
    from gateway import translation
    from gateway.builders import directories, limiting
    from gateway.explain import Explainer
    from gateway.issuer_keys.introspection import Introspector
    from gateway.issuer_keys.keyring import KeyRing

    # The command changes nothing: only a gateway claims a Redis without an owner.
    redis = redis_tier(settings, timeout=_REDIS_TIMEOUT, read_only=True)
    postgres = postgres_tier(settings, pool_max=3, heard=redis.ownership.heard)
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
                budgets = await stack.enter_async_context(limiting.budgets_seen(settings, redis, postgres))
                yield Explainer(
                    setup, keys, postgres, redis, introspector=introspector, users=users, budgets=budgets
                )
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
