"""The engine behind `gateway explain`, `POST /v1/explain` and the console's Explain page.

The decision and its reason are the pipeline's own: the engine runs it on the request. Then the engine asks
each part of the pipeline by itself, also after the first that fails, for what was expected and what was
found. The problems are findings, and the finding that accounts for the decision is the root cause.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final

from gateway.core.model import Auth, Claims, Header, Identity, Request, Route, StoreUnavailable
from gateway.core.reasons import Denial
from gateway.core.tokens.issuer_patterns import is_pattern
from gateway.explain import pasted
from gateway.explain.answer import Cause, Explanation, Fix
from gateway.explain.evidence import stores as evidence
from gateway.explain.evidence.issuer_clocks import IssuerClocks
from gateway.explain.evidence.keys import ColdKeys
from gateway.explain.evidence.users import Users
from gateway.explain.provisioning_dry_run import ProvisioningDryRun
from gateway.explain.setup import Introspector, Keys, Setup
from gateway.explain.steps import limits, route
from gateway.explain.steps.stores import clock, revocation, tiers
from gateway.explain.steps.token import claims as claim_steps
from gateway.explain.steps.token import credential, reading
from gateway.explain.steps.users import missing_user, user
from gateway.explain.trail import Trail
from gateway.explain.verdict import ANY_ROUTE, ColdResolver, Verdict, cold_tiers, judge, request_for
from gateway.explain.wording import sql_literal
from gateway.identity.local_cache import LocalCache
from gateway.identity.tiers import LearntRevocations
from gateway.limits.operators import Budgets
from gateway.stores.postgres.database import Postgres
from gateway.stores.postgres.directory.user_rows import UserRecord
from gateway.stores.redis.shared_tier import RedisTier


class Explainer:
    """Explains how the gateway decides on a token. It changes nothing, and sends the token nowhere.

    Only an opaque token is sent to its issuer, as for a request (`introspector`).

    It fetches missing keys, as for a request, and keeps them only for the one explanation. If it runs in a
    worker, `local` and `learnt_revocations` are that worker's memory, `deaf` returns the stores whose change
    stream it does not receive, and why, and `never_found` returns the paths of an issuer's `claims` at which
    none of its tokens had a claim. `users` is where users are; by default in `postgres`. `clocks` has what
    the tokens of this worker showed of the issuers' clocks. `budgets` tells what limits have
    left. `clock` returns Unix seconds. The caller opens and closes what it passes in.
    """

    def __init__(
        self,
        setup: Setup,
        keys: Keys,
        postgres: Postgres,
        redis: RedisTier,
        *,
        local: LocalCache | None = None,
        learnt_revocations: LearntRevocations | None = None,
        deaf: Callable[[], Mapping[str, str]] = dict,
        introspector: Introspector | None = None,
        never_found: Callable[[str], Sequence[str]] = lambda _: (),
        users: Users | None = None,
        clocks: IssuerClocks | None = None,
        budgets: Budgets | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._setup = setup
        self._never_found = never_found
        self._keys = keys
        self._postgres = postgres
        self._redis = redis
        self._local = local
        self._learnt_revocations = learnt_revocations
        self._deaf = deaf
        self._introspector = introspector
        self._users = users or Users(postgres)
        self._clocks = clocks
        self._budgets = budgets
        self._clock = clock

    @property
    def setup(self) -> Setup:
        """The settings that explanations are about."""
        return self._setup

    @property
    def users(self) -> Users:
        """Where the users are."""
        return self._users

    @property
    def clocks(self) -> IssuerClocks | None:
        """What tokens showed of the issuers' clocks."""
        return self._clocks

    async def explain(
        self, token: str | bytes, *, method: str | None = None, url: str | None = None
    ) -> Explanation:
        """Explain a token, alone or, with a URL or path, in a request of a method, by default GET.

        The token may be part of a header or a curl command: `gateway.explain.pasted` tells which request
        that is. If a URL was pasted with it and a route is there for it, that is the request. Problems
        are findings, not exceptions, also when a store is down or keys are not available.
        """
        given = pasted.read(token)
        request = None if url is None else request_for(method or "GET", url)
        if request is None and given.asked is not None:
            shown = request_for(*given.asked)
            request = shown if route.is_known(self._setup, shown) else None
        trail = Trail(self._setup, self._clock(), self._never_found, self._users.source, self._clocks)
        keys, deaf = ColdKeys(self._keys), self._deaf()
        async with cold_tiers(
            self._setup,
            self._users.record,
            self._redis,
            self._local,
            lambda: trail.now,
            self._learnt_revocations,
            hears="postgres" not in deaf,
        ) as resolver:
            dry_run = ProvisioningDryRun(self._setup, self._users)

            async def judged(headers: tuple[Header, ...]) -> Verdict:
                return await judge(
                    headers, request, self._setup, keys, resolver, dry_run, trail.now, self._introspector
                )

            verdict = meant = await judged(given.headers)
            if given.found and verdict.denial is not None:
                meant = await judged(((b"Authorization", b"Bearer " + given.token),))
            trail.request = request
            credential.check(trail, given, verdict.denial, meant.denial)
            over = await self._take(trail, keys, given.token, request, meant, resolver, deaf)
            if verdict.denial is None and over is not None:
                verdict = replace(verdict, denial=over)
        return _in_shadow(self._setup, verdict, _explanation(trail, verdict))

    async def _take(
        self,
        trail: Trail,
        keys: ColdKeys,
        raw: bytes,
        request: Request | None,
        verdict: Verdict,
        resolver: ColdResolver,
        deaf: Mapping[str, str],
    ) -> Denial | None:
        """Take the steps; return the denial of a limit, which is asked when all else admits the request."""
        taken = ANY_ROUTE if request is None else route.check(trail, request) or ANY_ROUTE
        read = await reading.read(trail, keys, raw, self._introspector)
        claims = None if read is None else claim_steps.check(trail, read)
        if claims is None:
            return None
        await self._ask_stores(trail, claims, taken, verdict, resolver, deaf)
        admitted = verdict.resolution if verdict.denial is None else None
        if admitted is None or request is None or self._budgets is None:
            return None
        return await limits.check(trail, claims, taken, admitted, self._budgets, request)

    async def _ask_stores(
        self,
        trail: Trail,
        claims: Claims,
        taken: Route,
        verdict: Verdict,
        resolver: ColdResolver,
        deaf: Mapping[str, str],
    ) -> None:
        trail.remedies.server = await self._users.server()
        said = await evidence.gather(claims, verdict.resolution, resolver, self._users, self._redis)
        revocation.check(trail, claims, said)
        tiers.local(trail, said, deaf if self._local is not None else None)
        await tiers.check(trail, claims, said, taken, self._users)
        await clock.check(trail, self._users.postgres, claims.issuer_name)
        if isinstance(said.record, StoreUnavailable):
            trail.skip_rest("Postgres did not return the user")
        elif (record := said.record or await self._of_configured_spelling(trail, claims)) is None:
            await self._without_user(trail, claims, taken)
        else:
            await _ask_directory(trail, claims, record, taken, self._users)

    async def _without_user(self, trail: Trail, claims: Claims, taken: Route) -> None:
        dry_run = ProvisioningDryRun(self._setup, self._users)
        try:
            await missing_user.check(trail, claims, taken, dry_run, self._users)
        except StoreUnavailable as error:
            # Postgres answered just before.
            trail.blame(None, Cause.STORE_UNREACHABLE, f"Postgres cannot be used: {error.detail}")
            trail.skip_rest(error.detail)

    async def _of_configured_spelling(self, trail: Trail, claims: Claims) -> UserRecord | None:
        """Find the user whose identity has the configured spelling of the `iss`, not the token's."""
        configured = next(each.issuer for each in self._setup.issuers if each.name == claims.issuer_name)
        if configured == claims.issuer or is_pattern(configured):
            return None
        try:
            record = await self._users.directory.find(Identity(configured, claims.subject))
        except StoreUnavailable:
            return None
        if record is not None and self._users.source is None:
            change = f"issuer = {sql_literal(claims.issuer)}"
            command = trail.commands.update("identities", change, issuer=configured)
            advice = "The identities have the other spelling, too: also change it there."
            trail.amend(Cause.ISSUER_ALMOST_CONFIGURED, advice, command)
        return record


async def _ask_directory(
    trail: Trail, claims: Claims, record: UserRecord, taken: Route, users: Users
) -> None:
    try:
        await user.check(trail, claims, record, taken, users)
    except StoreUnavailable as error:
        # Postgres answered just before.
        trail.blame(None, Cause.STORE_UNREACHABLE, f"Postgres cannot be used: {error.detail}")
        trail.skip_rest(error.detail)


_ADMITTED: Final = {
    None: "The token is valid, and its user is admitted.",
    "forwarded": "The token is valid. No user is behind it, and the route forwards it without one.",
    "created": "The token is valid. No user is behind it: the request creates one.",
}


def _explanation(trail: Trail, verdict: Verdict) -> Explanation:
    denial = verdict.denial
    public = verdict.route is not None and verdict.route.auth is Auth.NONE
    root = None if public else trail.root(denial)
    cause = None if root is None or root.cause is None else root.cause.value
    fix = None if root is None else root.fix
    if denial is None:
        summary = "The route needs no token." if public else _ADMITTED[verdict.newcomer]
        if root is not None:
            summary = f"The request is admitted, but there is a problem. {root.summary}."
        return Explanation("allow", None, cause, summary, fix, trail.steps())
    reason = denial.reason
    if root is None:
        detail = denial.detail or reason.title
        return Explanation("deny", reason.code, cause, f"{detail}.", Fix(reason.hint), trail.steps())
    summary = f"{root.summary}."
    if root.reason not in (None, reason):
        summary = f"{reason.title}, and a new one would be refused, too. {summary}"
    return Explanation("deny", reason.code, cause, summary, fix, trail.steps())


def _in_shadow(setup: Setup, verdict: Verdict, explanation: Explanation) -> Explanation:
    """Return the explanation of a request that passes, although it would be refused."""
    denial, route = verdict.denial, verdict.route or ANY_ROUTE
    if denial is None or setup.shadow is None or not setup.shadow.covers(denial.reason, route, denial.issuer):
        return explanation
    summary = f"The request passes, because of `mode: shadow`, and is counted. Else: {explanation.summary}"
    return replace(explanation, decision="allow", summary=summary)
