"""The answers of the stores: stale answers, lag, outages."""

import asyncio
import time
from urllib.parse import urlsplit

import pytest

from gateway import translation
from gateway.core.model import Claims, RevocationKind, User, UserStatus
from gateway.core.revocations import Revocations
from gateway.explain.engine import Explainer
from gateway.identity.local_cache import LocalCache
from tests import tokens
from tests.explain.scene import denied, failed, outcomes
from tests.explain.world import World
from tests.harness import token, unused_port
from tests.sql import as_role
from tests.stores.cable import Cable
from tests.stores.examples import claims


def old() -> bytes:
    return token("ann", iat=int(time.time()) - 100)


def user(user_id: str, status: UserStatus = UserStatus.ACTIVE) -> User:
    return User(id=user_id, status=status)


class TestRedis:
    async def test_an_old_refusal(self, world: World) -> None:
        ann = await world.add()
        await world.remember(claims(), user(ann, UserStatus.SUSPENDED), await world.guard())
        explanation = await denied(world, token("ann"), "user_suspended", "cache_stale")
        assert failed(explanation) == ["identity.redis"]
        assert "Redis has user" in explanation.summary
        assert "for another 5 min" in explanation.summary

    async def test_an_old_admission(self, world: World) -> None:
        ann = await world.add()
        await world.sql("UPDATE users SET status = 'suspended'")
        await world.remember(claims(), user(ann), await world.guard())
        bad = token("ann")
        assert await world.decide(bad) is None
        explanation = await world.explain(bad)
        assert (explanation.decision, explanation.cause) == ("allow", "cache_stale")
        await world.apply(explanation.fix)
        assert await world.decide(bad) == "user_suspended"

    async def test_a_remembered_miss_of_a_user_who_exists(self, world: World) -> None:
        await world.add()
        await world.remember(claims(), None, await world.guard())
        await denied(world, old(), "user_not_found", "negative_cache_entry")

    async def test_an_entry_of_another_epoch_is_not_served(self, world: World) -> None:
        ann = await world.add()
        await world.remember(claims(), user(ann, UserStatus.SUSPENDED), await world.guard())
        async with world.parts() as parts:
            await parts.redis.end_epoch(1)
        explanation = await world.explain(token("ann"))
        assert (explanation.decision, explanation.cause) == ("allow", None)
        assert outcomes(explanation)["identity.redis"] == "warn"

    async def test_one_that_is_down(self, world: World) -> None:
        await world.add()
        url = world.config["redis"]["url"]
        world.config["redis"]["url"] = f"redis://127.0.0.1:{unused_port()}"
        explanation = await world.explain(token("ann"))
        assert (explanation.decision, explanation.cause) == ("allow", "store_unreachable")
        assert outcomes(explanation)["identity.redis"] == "warn"
        world.config["redis"]["url"] = url
        assert (await world.explain(token("ann"))).cause is None


class TestMemoryOfAWorker:
    async def test_an_old_refusal(self, world: World) -> None:
        ann = await world.add()
        world.local = self.remembering(user(ann, UserStatus.LOCKED))
        explanation = await denied(
            world, token("ann", jti="token-1"), "user_locked", "cache_stale", fixed=False
        )
        assert failed(explanation) == ["identity.local"]

    async def test_a_remembered_miss_of_a_user_who_exists(self, world: World) -> None:
        await world.add()
        world.local = self.remembering(None)
        bad = token("ann", jti="token-1")
        explanation = await denied(world, bad, "user_not_found", "negative_cache_entry", fixed=False)
        assert "for another 5 s" in explanation.summary
        world.local.forget_identities([(tokens.ISSUER, "ann")])
        assert await world.decide(bad) is None

    async def test_a_correct_entry_in_memory_passes(self, world: World) -> None:
        ann = await world.add()
        world.local = self.remembering(user(ann))
        explanation = await world.explain(token("ann", jti="token-1"))
        assert (explanation.decision, explanation.cause) == ("allow", None)
        assert outcomes(explanation)["identity.local"] == "pass"

    @pytest.mark.parametrize(
        ("stream", "words"),
        [
            ("postgres", "this worker does not receive the changes of Postgres: every request asks Postgres"),
            ("redis", "this worker does not receive the changes of keys in Redis: every request asks Redis"),
        ],
    )
    async def test_one_that_receives_no_changes_is_not_asked(
        self, world: World, stream: str, words: str
    ) -> None:
        await world.add()
        world.local = LocalCache(ttl=30, max_users=9, max_tokens=9, clock=time.monotonic)
        world.deaf = {stream: "h:1: no heartbeat came back"}
        explanation = await world.explain(token("ann"))
        assert (explanation.decision, explanation.cause) == ("allow", None)
        (step,) = [step for step in explanation.steps if step.name == "identity.local"]
        assert (step.outcome, step.found) == ("warn", "no valid entry")
        assert step.detail == f"{words} (h:1: no heartbeat came back)"

    async def test_one_that_is_deaf_to_postgres_does_not_believe_redis(self, world: World) -> None:
        ann = await world.add()
        await world.remember(claims(), user(ann, UserStatus.LOCKED), await world.guard())
        world.local = LocalCache(ttl=30, max_users=9, max_tokens=9, clock=time.monotonic)
        assert (await world.explain(token("ann"))).reason == "user_locked"
        world.deaf = {"postgres": "cut"}
        explanation = await world.explain(token("ann"))
        assert (explanation.decision, explanation.cause) == ("allow", None)
        assert outcomes(explanation)["identity.redis"] == "warn"

    def remembering(self, who: User | None) -> LocalCache:
        local = LocalCache(ttl=30, max_users=9, max_tokens=9, clock=time.monotonic)
        local.open()
        local.fill(local.ticket(), claims(), who, time.time(), Revocations(), 30)
        return local


class TestReplica:
    async def test_one_that_lags(self, world: World, replica: str) -> None:
        await world.add()
        world.config["postgres"]["replica_dsn"] = replica
        world.config["cache"]["negative_ttl"] = "100ms"
        world.watched = False  # for an entry that is gone so soon
        await world.guard()
        bad = old()
        explanation = await denied(world, bad, "user_not_found", "replica_lag", fixed=False)
        assert "identity.postgres" in failed(explanation)
        assert outcomes(explanation)["identity.primary"] == "pass"
        await world.apply(explanation.fix)
        await asyncio.sleep(0.1)
        assert await world.decide(bad) is None

    async def test_one_whose_answer_redis_repeats(self, world: World, replica: str) -> None:
        await world.add()
        world.config["postgres"]["replica_dsn"] = replica
        await world.remember(claims(), None, await world.guard())
        explanation = await world.explain(old())
        assert (explanation.reason, explanation.cause) == ("user_not_found", "replica_lag")
        assert failed(explanation) == ["identity.redis", "identity.postgres"]

    async def test_one_whose_lag_redis_knows_of(self, world: World, replica: str) -> None:
        await world.add()
        world.config["postgres"]["replica_dsn"] = replica
        await world.guard()
        async with world.parts() as parts:
            await parts.redis.bury([("main", "ann")], 2**50)
        explanation = await world.explain(old())
        assert (explanation.decision, explanation.cause) == ("allow", "replica_lag")
        assert await world.decide(old()) is None


class TestPostgres:
    async def test_one_that_is_down(self, world: World) -> None:
        await world.add()
        dsn = urlsplit(world.dsn)
        down = dsn._replace(netloc=f"{dsn.netloc.rpartition('@')[0]}@127.0.0.1:{unused_port()}", query="")
        world.config["postgres"]["dsn"] = down.geturl().replace("//@", "//")
        explanation = await denied(
            world, token("ann"), "revocation_unavailable", "store_unreachable", fixed=False
        )
        assert failed(explanation) == ["identity.postgres"]
        assert outcomes(explanation)["user"] == "skipped"
        world.config["postgres"]["dsn"] = world.dsn
        assert await world.decide(token("ann")) is None

    async def test_one_that_is_silent_is_not_waited_for_long(self, world: World) -> None:
        if urlsplit(world.dsn).hostname is None:
            pytest.skip("this Postgres is reached by a Unix socket")
        await world.add()
        async with Cable(world.dsn) as cable:
            cable.freeze()
            world.config["postgres"]["dsn"] = cable.url
            world.patience = 0.5
            began = time.monotonic()
            explanation = await world.explain(token("ann"))
            assert explanation.cause == "store_unreachable"
            assert time.monotonic() - began < 4

    async def test_one_that_redis_stands_in_for(self, world: World) -> None:
        ann = await world.add()
        await world.remember(claims(), user(ann), await world.guard())
        world.config["postgres"]["dsn"] = f"postgresql://127.0.0.1:{unused_port()}/x"
        explanation = await world.explain(token("ann"))
        assert (explanation.decision, explanation.cause) == ("allow", "store_unreachable")

    async def test_tables_that_are_not_there(self, world: World) -> None:
        world.config["postgres"]["schema"] = "fresh"
        bad = token("ann")
        explanation = await denied(world, bad, "revocation_unavailable", "store_not_migrated", fixed=False)
        await world.apply(explanation.fix)
        await denied(world, bad, "user_not_found", "user_unknown")

    @pytest.mark.parametrize("tables", ["users, identities, revocations", "revocations"])
    async def test_a_permission_that_is_not_there(self, world: World, tables: str) -> None:
        await world.add()
        role = f'gateway "role" {time.monotonic_ns()}'
        quoted = '"' + role.replace('"', '""') + '"'
        await world.sql(f"CREATE ROLE {quoted} LOGIN PASSWORD 'p'")
        try:
            await world.sql(f"GRANT SELECT ON users, identities, revocations TO {quoted}")
            await world.sql(f"REVOKE SELECT ON {tables} FROM {quoted}")  # noqa: S608 -- constant names
            login = role.replace('"', "%22").replace(" ", "%20")
            world.config["postgres"]["dsn"] = as_role(world.dsn, login, "p")
            await denied(world, token("ann"), "revocation_unavailable", "store_permission_denied")
        finally:
            await world.sql(f"DROP OWNED BY {quoted}")
            await world.sql(f"DROP ROLE {quoted}")


class _Remembers:
    """A worker's memory of a revocation that Redis has lost; it is not to be told anything."""

    def told(self, claims: Claims, user: User | None, kind: RevocationKind | None, era: bytes) -> None:  # noqa: ARG002 -- the Protocol's
        raise AssertionError("an explanation leaves no trace")

    def against(self, claims: Claims, user: User | None) -> RevocationKind | None:
        return "issuer" if claims.issuer_name == "main" and user is not None else None


async def test_revocations_that_the_worker_remembers_count(world: World) -> None:
    await world.add()
    async with world.parts() as parts:
        world.write()
        setup = translation.setup(parts.settings)
        explainer = Explainer(setup, parts.keys, parts.postgres, parts.redis, learnt_revocations=_Remembers())
        explanation = await explainer.explain(token("ann"))
    assert (explanation.decision, explanation.reason) == ("deny", "tokens_revoked_before")
