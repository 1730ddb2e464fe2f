"""`/v1/issuers` and `/v1/caches`: the keys and the caches, and how to refresh them."""

from collections.abc import Callable, Mapping

from aiohttp import web

from gateway.admin.api import models, reports
from gateway.admin.api.operations import Answer, Operation, author_of, json, reads
from gateway.admin.api.problems import RequestRefused, not_found
from gateway.admin.api.write_through import WriteThrough
from gateway.admin.endpoints.overview import Overview, SeenPaths
from gateway.admin.health import Workers
from gateway.core.model import Issuer
from gateway.core.tokens.jws import HMAC_ALGORITHMS, VerificationKey
from gateway.issuer_keys.keyring import KeyRing
from gateway.stores.postgres.directory.audit import AuditLog


class Issuers:
    """The configured issuers, by name, and their keys."""

    def __init__(
        self,
        issuers: Mapping[str, Issuer],
        keys: KeyRing,
        audit: AuditLog,
        overview: Overview,
        workers: Workers | None,
    ) -> None:
        self._issuers = issuers
        self._overview = overview
        self._keys = keys
        self._audit = audit
        self._workers = workers

    def operations(self) -> list[Operation]:
        return [
            reads("GET", "/issuers", self.list_issuers, models.NoParams,
                  "List the configured issuers and their keys", Answer(model=reports.Issuers)),
            reads("POST", "/issuers/{name}/refresh", self.refresh_issuer, reports.IssuerParams,
                  "Reload an issuer's keys in every worker", Answer(model=reports.Issuer),
                  refusals=(404,)),
        ]  # fmt: skip

    async def list_issuers(self, _: web.Request, __: models.NoParams) -> web.Response:
        seen = await self._overview.claim_paths()
        return json(reports.Issuers([self._issuer(issuer, seen) for issuer in self._issuers.values()]))

    async def refresh_issuer(self, request: web.Request, params: reports.IssuerParams) -> web.Response:
        issuer = self._issuers.get(params.name)
        if issuer is None:
            raise not_found(f"This issuer is not configured. Configured issuers: {', '.join(self._issuers)}")
        await self._audit.record(author_of(request), "issuer.refresh", f"issuer:{issuer.name}")
        if self._workers is not None:
            await self._workers.refresh_keys(issuer.name)
        await self._keys.reload(issuer.name)
        status = self._keys.status_of(issuer.name)
        if status.last_error is not None:
            left = "the keys loaded before stay in use" if status.ready else "there are no keys"
            raise RequestRefused(503, "keys_not_loaded", f"{status.last_error}; {left}")
        return json(self._issuer(issuer, await self._overview.claim_paths()))

    def _issuer(self, issuer: Issuer, seen: SeenPaths) -> reports.Issuer:
        status, keys = self._keys.status_of(issuer.name), self._keys.current(issuer.name)
        return reports.Issuer(
            name=issuer.name,
            issuer=issuer.issuer,
            audiences=None if issuer.audiences is None else sorted(issuer.audiences),
            algorithms=sorted(issuer.algorithms),
            ready=status.ready,
            keys=[] if keys is None else [_key(key) for key in keys.keys],
            age_seconds=status.age,
            last_error=status.last_error,
            skipped=list(status.skipped),
            paths=[
                reports.ClaimPath.model_validate(
                    {
                        "setting": setting,
                        "path": path,
                        "found": (issuer.name, path) in seen.found if issuer.name in seen.issuers else None,
                    }
                )
                for setting, path in issuer.claims.by_setting()
            ],
            tenants=sorted(issuer.tenants) if isinstance(issuer.tenants, frozenset) else issuer.tenants,
        )


def _key(key: VerificationKey) -> reports.Key:
    # With the hash of a secret, guesses could be checked.
    secret = bool(key.algorithms & HMAC_ALGORITHMS)
    return reports.Key(
        kid=key.kid, algorithms=sorted(key.algorithms), thumbprint=None if secret else key.thumbprint
    )


class Caches:
    """The caches. `trusted` tells whether the gateway answers from them."""

    def __init__(
        self, overview: Overview, audit: AuditLog, write_through: WriteThrough, trusted: Callable[[], bool]
    ) -> None:
        self._overview = overview
        self._audit = audit
        self._write_through = write_through
        self._trusted = trusted

    def operations(self) -> list[Operation]:
        return [
            reads("GET", "/caches", self.count_entries, models.NoParams, "Count the entries of the caches",
                  Answer(model=reports.Caches)),
            reads("POST", "/cache/flush", self.flush_caches, models.NoParams,
                  "Let every gateway forget users, negative entries and revocation verdicts, in Redis, too",
                  Answer(204)),
        ]  # fmt: skip

    async def count_entries(self, _: web.Request, __: models.NoParams) -> web.Response:
        entries = (await self._overview.numbers()).caches
        return json(
            reports.Caches(
                tokens=entries["tokens"],
                users=entries["users"],
                negative=entries["negative"],
                verdicts=entries["verdicts"],
                trusted=self._trusted(),
            )
        )

    async def flush_caches(self, request: web.Request, _: models.NoParams) -> web.Response:
        await self._write_through.flushed(await self._audit.flush(author_of(request)))
        return web.Response(status=204)
