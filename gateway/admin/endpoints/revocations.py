"""`/v1/revocations`: valid tokens that are refused before they expire."""

import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime

from aiohttp import web

from gateway.admin.api import models
from gateway.admin.api.operations import Answer, Operation, author_of, json, reads, takes
from gateway.admin.api.problems import FieldError, RequestRefused, invalid, not_found
from gateway.admin.api.write_through import WriteThrough
from gateway.admin.endpoints.users import issuer_called
from gateway.core.model import JSON, Credential, Issuer
from gateway.core.reasons import INTROSPECTION_UNAVAILABLE, Denial
from gateway.core.revocations import Revocation
from gateway.core.tokens import jws as tokens
from gateway.core.tokens import token_types
from gateway.core.tokens.claims import MAX_DATE, is_clean
from gateway.core.tokens.issuer_patterns import IssuerNames
from gateway.explain import pasted
from gateway.explain.changes import Lift
from gateway.explain.fixes.applying import Applier, NothingToLift
from gateway.issuer_keys.introspection import Introspector
from gateway.stores.postgres.directory.revocation_rows import RevocationRows, place
from gateway.stores.postgres.directory.user_rows import UserIdMalformed, UserNotFound
from gateway.stores.postgres.source.directory.users import AnyDirectory


class Revocations:
    """`issuers` are the configured issuers by name; `introspector` asks those of opaque tokens.

    `applier` lifts revocations, as for a fix.
    """

    def __init__(
        self,
        rows: RevocationRows,
        directory: AnyDirectory,
        write_through: WriteThrough,
        applier: Applier,
        issuers: Mapping[str, Issuer],
        introspector: Introspector | None = None,
    ) -> None:
        self._rows = rows
        self._directory = directory
        self._write_through = write_through
        self._applier = applier
        self._issuers = issuers
        self._introspector = introspector
        self._types = token_types.known_to(issuers.values())
        self._iss = {name: issuer.issuer for name, issuer in issuers.items()}

    def operations(self) -> list[Operation]:
        return [
            reads("GET", "/revocations", self.list_revocations, models.RevocationSearch,
                  "List revocations, the latest first", Answer(model=models.RevocationPage)),
            takes("POST", "/revocations", self.revoke, models.NoParams, models.NewRevocation,
                  "Revoke a token, or all tokens issued so far to a user or by an issuer",
                  Answer(201, models.Revocation)),
            takes("POST", "/revocations/token", self.revoke_token, models.NoParams, models.TokenRevocation,
                  "Revoke the token that is given; the issuer of an opaque token is asked for its `jti`",
                  Answer(201, models.Revocation)),
            reads("DELETE", "/revocations", self.lift, models.RevocationParams,
                  "Lift a revocation: its tokens are admitted again, unless something else refuses them",
                  Answer(204), refusals=(404,)),
        ]  # fmt: skip

    async def list_revocations(self, _: web.Request, params: models.RevocationSearch) -> web.Response:
        after = None
        if params.after is not None:
            instant, _dot, digest = params.after.partition(".")
            after = int(instant), digest
        found = await self._rows.latest(expired=params.expired, after=after, limit=params.limit + 1)
        page = found[: params.limit]
        cursor = None
        if len(found) > len(page):
            instant_, digest = place(page[-1])
            cursor = f"{instant_}.{digest}"
        return json(models.RevocationPage(items=[models.Revocation.of(row) for row in page], next=cursor))

    async def revoke(
        self, request: web.Request, _: models.NoParams, new: models.NewRevocation
    ) -> web.Response:
        wanted = self._named(new)
        if new.issuer is not None:
            wanted = replace(wanted, issuer=issuer_called(new.issuer, self._iss)[0])
        if wanted.kind == "user":
            wanted = replace(wanted, value=await self._existing(wanted.value))
        return await self._revoke(request, wanted, self._end(new.until, wanted), new.reason)

    async def revoke_token(
        self, request: web.Request, _: models.NoParams, new: models.TokenRevocation
    ) -> web.Response:
        payload = await self._payload(pasted.read(new.token).token)
        iss, jti, exp = payload.get("iss"), payload.get("jti"), payload.get("exp")
        if not isinstance(iss, str) or IssuerNames(self._iss).find(iss) is None:
            raise invalid(
                FieldError("token", "Its issuer is not configured, so the gateway refuses it anyway")
            )
        if not isinstance(jti, str) or not is_clean(jti):
            raise invalid(
                FieldError("token", "It has no valid `jti`, so it cannot be revoked alone: revoke the user's")
            )
        wanted = Revocation("jti", issuer_called(iss, self._iss)[0], jti, 0.0)
        end = self._end(new.until, wanted)
        if new.until is None and isinstance(exp, int | float) and not isinstance(exp, bool):
            end = float(exp) + 2 * self._issuers[wanted.issuer.partition("/")[0]].leeway
            if not time.time() < end <= MAX_DATE:
                raise invalid(FieldError("token", "It has expired, so the gateway refuses it anyway"))
        return await self._revoke(request, wanted, end, new.reason)

    async def _payload(self, raw: bytes) -> Mapping[str, JSON]:
        """Return the claims of a token, not verified; what its issuer says of one that is opaque."""
        introspector = self._introspector
        try:
            issuer = None if introspector is None else introspector.issuer_of(raw)
            if introspector is not None and issuer is not None:
                return (await introspector.introspect(issuer, Credential.of(raw))).payload
            return tokens.parse(raw, self._types).payload
        except Denial as denial:
            if denial.reason is INTROSPECTION_UNAVAILABLE:
                raise RequestRefused(
                    503,
                    "store_unavailable",
                    f"The issuer {denial.issuer}, which knows this token, does not answer",
                    headers={"Retry-After": "5"},
                ) from denial
            raise invalid(
                FieldError("token", f"The gateway refuses it anyway: {denial.reason.title}")
            ) from denial

    async def _revoke(
        self, request: web.Request, wanted: Revocation, end: float | None, reason: str | None
    ) -> web.Response:
        author = author_of(request)
        row = await self._rows.revoke(
            wanted.kind,
            issuer=wanted.issuer,
            value=wanted.value,
            expires_at=end,
            reason=reason,
            revoked_by=author.actor,
            author=author,
        )
        await self._write_through.revoked(row)
        return json(models.Revocation.of(row), status=201)

    async def lift(self, request: web.Request, params: models.RevocationParams) -> web.Response:
        wanted = self._named(params)
        try:
            await self._applier.lift(Lift(wanted.kind, wanted.issuer, wanted.value), author_of(request))
        except NothingToLift as error:
            raise not_found("This revocation does not exist") from error
        return web.Response(status=204)

    def _named(self, given: models.NewRevocation | models.RevocationParams) -> Revocation:
        """Return the revocation that a request names, in the form of its row; the issuer as given.

        Raises `RequestRefused`.
        """
        needs_issuer, needs_value = given.kind != "user", given.kind != "issuer"
        if (given.issuer is not None) is not needs_issuer:
            raise invalid(FieldError("issuer", _presence(given.kind, needed=needs_issuer)))
        if (given.value is not None) is not needs_value:
            raise invalid(FieldError("value", _presence(given.kind, needed=needs_value)))
        value = given.value or ""
        if given.kind == "user":
            try:
                value = self._directory.id_in(value)
            except UserIdMalformed as error:
                raise invalid(FieldError("value", "This must be the id of a user")) from error
        return Revocation(given.kind, given.issuer or "", value, 0.0)

    async def _existing(self, user_id: str) -> str:
        """Return the id of a user as its row has it. Raises `RequestRefused` if there is none."""
        try:
            return (await self._directory.get(user_id)).user.id
        except UserNotFound as error:
            raise invalid(FieldError("value", "There is no user with this id")) from error

    def _end(self, until: datetime | None, wanted: Revocation) -> float | None:
        """Return when a revocation ends: for a token, when every token of its age has expired."""
        now = time.time()
        if until is not None:
            end = until.timestamp()
            if not now < end <= MAX_DATE:
                raise invalid(FieldError("until", "This must be in the future, and before the year 10000"))
            return end
        if wanted.kind == "jti":
            issuer = self._issuers[wanted.issuer.partition("/")[0]]
            if issuer.max_lifetime is not None:
                return now + issuer.max_lifetime + 2 * issuer.leeway
        return None


def _presence(kind: str, *, needed: bool) -> str:
    return f"A revocation of kind `{kind}` {'needs' if needed else 'must not have'} this field"
