"""The keys of the tenants of a pattern, from an issuer on loopback."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import orjson
import pytest

from gateway.core.tokens import issuer_patterns
from gateway.issuer_keys import tenants
from gateway.issuer_keys.fetch import Fetcher, FetchError
from gateway.issuer_keys.keyring import KeyRing
from gateway.issuer_keys.sources import Discovery, PerTenant
from tests.fakes import Clock, RecordingKeyObserver
from tests.issuer_keys.issuer import Answer, IssuerServer, public_jwk, serving

ALG = "ES256"


class Rig:
    """A ring with one pattern, `entra`."""

    def __init__(self, issuer: IssuerServer, fetcher: Fetcher, listed: tuple[str, ...] | None) -> None:
        self.issuer = issuer
        self.clock = Clock()
        self.observer = RecordingKeyObserver()
        self.changes: list[tuple[str, int]] = []
        self.sleeping = asyncio.Event()
        self.ring = KeyRing(
            {"entra": PerTenant(lambda tenant: Discovery(f"{issuer.url}/{tenant}"), listed)},
            fetcher=fetcher,
            observer=self.observer,
            on_change=lambda realm, keys: self.changes.append((realm, len(keys.keys))),
            clock=self.clock,
            sleep=self._sleep,
        )

    async def _sleep(self, _: float) -> None:
        await self.sleeping.wait()
        self.sleeping.clear()

    def add(self, tenant: str, *kids: str) -> None:
        base = f"{self.issuer.url}/{tenant}"
        metadata = {"issuer": base, "jwks_uri": f"{base}/keys"}
        self.issuer.answers[f"/{tenant}/.well-known/openid-configuration"] = Answer(orjson.dumps(metadata))
        keys = {"keys": [public_jwk(kid) for kid in kids]}
        self.issuer.answers[f"/{tenant}/keys"] = Answer(orjson.dumps(keys))

    def kids(self, tenant: str) -> list[str | None] | None:
        keys = self.ring.current(f"entra/{tenant}")
        return None if keys is None else [key.kid for key in keys.keys]

    async def ask(self, tenant: str) -> bool:
        return await self.ring.refresh(f"entra/{tenant}", "any", ALG)


@asynccontextmanager
async def rigged(listed: tuple[str, ...] | None) -> AsyncIterator[Rig]:
    async with serving() as issuer, Fetcher() as fetcher:
        rig = Rig(issuer, fetcher, listed)
        try:
            yield rig
        finally:
            await rig.ring.close()


async def test_each_listed_tenant_has_its_own_keys_from_the_start() -> None:
    async with rigged(("acme", "globex")) as rig:
        rig.add("acme", "a")
        rig.add("globex", "g")
        rig.add("other", "o")
        await rig.ring.start()
        assert (rig.kids("acme"), rig.kids("globex")) == (["a"], ["g"])
        assert await rig.ask("other")
        assert rig.kids("other") is None
        assert not any("other" in path for path in rig.issuer.requests)
        status = rig.ring.status()["entra"]
        assert (status.ready, status.keys) == (True, 2)


async def test_a_tenant_that_fails_leaves_the_others_alone() -> None:
    async with rigged(("acme", "gone")) as rig:
        rig.add("acme", "a")
        await rig.ring.start()
        assert rig.kids("acme") == ["a"]
        status = rig.ring.status()
        assert (status["entra/gone"].ready, status["entra/acme"].ready, status["entra"].ready) == (
            False,
            True,
            True,
        )
        assert status["entra"].last_error == status["entra/gone"].last_error is not None


async def test_any_tenant_that_the_issuer_has_is_found_when_its_first_token_comes() -> None:
    async with rigged(None) as rig:
        rig.add("acme", "a")
        await rig.ring.start()
        assert rig.ring.status()["entra"].ready
        assert rig.kids("acme") is None
        assert await rig.ask("acme")
        assert rig.kids("acme") == ["a"]
        assert await rig.ask("acme")
        assert set(rig.observer.refreshes) == {("entra", "success")}


async def test_a_tenant_that_the_issuer_does_not_have_is_asked_for_once() -> None:
    async with rigged(None) as rig:
        rig.issuer.answers["/refused/.well-known/openid-configuration"] = Answer(b"", 400)
        rig.issuer.answers["/.well-known/oauth-authorization-server/refused"] = Answer(b"", 400)
        for tenant in ("invented", "refused"):
            for _ in range(3):
                assert await rig.ask(tenant)
            assert rig.kids(tenant) is None
            assert rig.issuer.requests[f"/{tenant}/.well-known/openid-configuration"] == 1
        rig.add("invented", "i")
        rig.clock.now += tenants.ABSENT_SECONDS
        assert await rig.ask("invented")
        assert rig.kids("invented") == ["i"]


async def test_a_tenant_with_the_metadata_of_another_does_not_exist() -> None:
    """Entra answers for a domain name with the metadata of the tenant's id."""
    async with rigged(None) as rig:
        rig.add("acme", "a")
        path = "/{}/.well-known/openid-configuration"
        rig.issuer.answers[path.format("acme.com")] = rig.issuer.answers[path.format("acme")]
        assert await rig.ask("acme.com")
        assert rig.kids("acme.com") is None


async def test_an_issuer_that_is_away_says_nothing_about_a_tenant() -> None:
    async with rigged(None) as rig:
        rig.issuer.answers["/acme/.well-known/openid-configuration"] = Answer(b"", 503)
        assert not await rig.ask("acme")
        rig.add("acme", "a")
        assert await rig.ask("acme")
        assert rig.kids("acme") == ["a"]


async def test_invented_tenants_cost_a_bounded_number_of_fetches() -> None:
    async with rigged(None) as rig:
        heard = await asyncio.gather(*(rig.ask(f"invented-{n}") for n in range(100)))
        assert heard.count(True) == tenants.BURST
        assert sum(rig.issuer.requests.values()) == 2 * tenants.BURST  # OpenID Connect, then OAuth
        rig.clock.now += tenants.REFILL_SECONDS
        rig.add("acme", "a")
        assert await rig.ask("acme")


async def test_requests_for_one_new_tenant_share_a_fetch() -> None:
    async with rigged(None) as rig:
        rig.add("acme", "a")
        assert all(await asyncio.gather(*(rig.ask("acme") for _ in range(50))))
        assert rig.issuer.requests["/acme/keys"] == 1


async def test_the_number_of_tenants_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tenants, "MAX_TENANTS", 2)
    async with rigged(None) as rig:
        for tenant in ("a", "b", "c"):
            rig.add(tenant, tenant)
            assert await rig.ask(tenant)
        assert [rig.kids(tenant) for tenant in ("a", "b", "c")] == [None, ["b"], ["c"]]
        # What the forgotten keys have verified is forgotten with them.
        assert rig.changes[-1] == ("entra/a", 0)
        assert await rig.ask("a")
        assert rig.kids("a") == ["a"]
    assert issuer_patterns.MAX_TENANTS == 1000


async def test_keys_of_a_tenant_are_kept_fresh() -> None:
    async with rigged(None) as rig:
        rig.add("acme", "a")
        assert await rig.ask("acme")
        rig.add("acme", "new")
        rig.sleeping.set()
        await eventually(lambda: rig.kids("acme") == ["new"])
        rig.add("acme", "newest")
        await rig.ring.reload("entra")
        assert rig.kids("acme") == ["newest"]


async def test_a_look_loads_one_tenant_or_all_that_are_listed() -> None:
    async with rigged(("acme", "globex")) as rig:
        rig.add("acme", "a")
        rig.add("globex", "g")
        assert [key.kid for key in (await rig.ring.look("entra/acme")).keys.keys] == ["a"]
        assert [key.kid for key in (await rig.ring.look("entra")).keys.keys] == ["a", "g"]
    async with rigged(None) as rig:
        assert (await rig.ring.look("entra")).keys.keys == ()
        with pytest.raises(FetchError):
            await rig.ring.look("entra/invented")


async def eventually(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 -- nothing tells
            await asyncio.sleep(0.001)
