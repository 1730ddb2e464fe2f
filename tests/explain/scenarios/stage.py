"""A gateway's parts on real stores, opened once for many scenarios. Each scenario has subjects of its own."""

import copy
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from gateway import translation
from gateway.core import policy
from gateway.core.model import JSON, Header
from gateway.core.provisioning import claims_read
from gateway.core.reasons import Denial
from gateway.core.routes import RouteTable
from gateway.explain import Explainer, Explanation
from gateway.explain.verdict import ANY_ROUTE, request_for
from gateway.identity.local_cache import LocalCache
from gateway.identity.resolver import IdentityResolver
from gateway.issuer_keys.fetch import Fetcher
from gateway.issuer_keys.keyring import KeyRing
from gateway.pipeline import Pipeline
from gateway.settings import Settings
from gateway.verifier import TokenVerifier
from tests.explain.world import Parts, World
from tests.fakes import FakeBlacklist, FakeSharedTier, RecordingKeyObserver


class Stage(World):
    """Decides and explains requests with stores that stay open."""

    def __init__(self, folder: Path, dsn: str, redis_url: str) -> None:
        super().__init__(folder, dsn, redis_url)
        self.folder = folder
        self._given = copy.deepcopy(self.config)
        self._open: Parts | None = None

    @asynccontextmanager
    async def opened(self) -> AsyncIterator["Stage"]:
        """Keep the stores open."""
        async with self.parts() as parts:
            self._open = parts
            self.write()
            yield self
            self._open = None

    @property
    def open(self) -> Parts:
        """The stores."""
        assert self._open is not None
        return self._open

    def reset(self, changes: Mapping[str, JSON] | None = None) -> None:
        """Return to the first configuration, with some changes."""
        self.config = copy.deepcopy(self._given)
        for path, value in (changes or {}).items():
            self.set(path, value)
        self.write()

    @asynccontextmanager
    async def _setting(self) -> AsyncIterator[tuple[Any, KeyRing, Parts]]:
        parts = self._open
        assert parts is not None
        settings = Settings.model_validate(self.config)
        async with Fetcher(timeout=self.patience) as fetcher:
            keys = KeyRing(
                {issuer.name: translation.key_source(issuer) for issuer in settings.issuers},
                fetcher=fetcher,
                observer=RecordingKeyObserver(),
            )
            try:
                yield replace(translation.setup(settings), config=str(self.file)), keys, parts
            finally:
                await keys.close()

    async def verdict(
        self, headers: tuple[Header, ...], *, method: str = "GET", url: str | None = None
    ) -> str | None:
        """Return the code with which a request with these fields is refused; None if it is admitted."""
        async with self._setting() as (setup, keys, parts):
            local = LocalCache(ttl=30, max_users=9, max_tokens=9, clock=time.monotonic)
            tiers = IdentityResolver(
                local, parts.redis, parts.postgres, FakeBlacklist(FakeSharedTier()), believes=lambda _: True
            )
            pipeline = Pipeline(
                RouteTable((ANY_ROUTE,) if url is None else setup.routes),
                TokenVerifier(
                    setup.issuers,
                    keys,
                    clock=time.time,
                    claims_read=claims_read(setup.issuers) | policy.claims_read(setup.routes),
                ),
                tiers,
                translation.headers(Settings.model_validate(self.config)),
                None,
            )
            request = request_for(method, "/" if url is None else url)
            try:
                await pipeline.admit(replace(request, headers=(*request.headers, *headers)))
            except Denial as denial:
                return denial.reason.code
            finally:
                await tiers.close()
            return None

    async def told(
        self, pasted: str | bytes, *, method: str | None = None, url: str | None = None
    ) -> Explanation:
        """Explain what was pasted."""
        async with self._setting() as (setup, keys, parts):
            explainer = Explainer(setup, keys, parts.postgres, parts.redis)
            return await explainer.explain(pasted, method=method, url=url)
