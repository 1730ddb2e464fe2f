"""The keys of all gateways: in a file, and while their store fails."""

import asyncio
import json
import stat
from collections.abc import Sequence
from pathlib import Path

import pytest

from gateway.assertion.key_file import KeyFile
from gateway.assertion.keys import AssertionKeys
from gateway.core.assertion import SigningKey, new_pem
from gateway.core.model import StoreUnavailable, Tier


class Store:
    """A `KeyStore` that can fail."""

    def __init__(self) -> None:
        self.keys: list[SigningKey] = []
        self.now = 1000.0
        self.down = False
        self.loaded = asyncio.Event()

    async def load(self) -> Sequence[SigningKey]:
        self.loaded.set()
        if self.down:
            raise StoreUnavailable(Tier.POSTGRES, "refused")
        return self.keys

    async def add(self, pem: str, algorithm: str, ahead: float, *, rotate: bool) -> None:
        if rotate or not self.keys or self.keys[-1].algorithm != algorithm:
            self.keys = [*self.keys, SigningKey(pem, algorithm, self.now + (ahead if self.keys else 0.0))]


def keys_of(store: Store, told: list[str | None], algorithm: str = "ES256") -> AssertionKeys:
    return AssertionKeys(
        store, algorithm=algorithm, ttl=300.0, ahead=0.04, clock=lambda: store.now, report=told.append
    )


async def until_loaded(store: Store) -> None:
    """Wait until the store has been asked, and what it said has been taken."""
    async with asyncio.timeout(10):
        for _ in range(2):
            store.loaded.clear()
            await store.loaded.wait()


async def test_the_first_gateway_makes_the_key_and_all_use_it() -> None:
    store, told = Store(), list[str | None]()
    one, other = keys_of(store, told), keys_of(store, told)
    assert one.signing() is None
    assert one.published() is None
    await one.start()
    await other.start()
    (key,) = store.keys
    assert one.signing() is other.signing() is key
    assert json.loads(one.published() or b"")["keys"] == [dict(key.jwk)]
    await one.close()
    await other.close()
    assert told == []


async def test_a_new_key_is_published_by_all_before_any_signs_with_it() -> None:
    store, told = Store(), list[str | None]()
    keys = keys_of(store, told)
    await keys.start()
    old = keys.signing()
    await store.add(new_pem("ES256"), "ES256", 100.0, rotate=True)
    await until_loaded(store)
    assert keys.signing() is old
    assert len(json.loads(keys.published() or b"")["keys"]) == 2
    store.now += 100.0
    assert keys.signing() is store.keys[1]
    assert len(json.loads(keys.published() or b"")["keys"]) == 2
    await keys.close()


async def test_an_outage_is_reported_once_and_changes_nothing() -> None:
    store, told = Store(), list[str | None]()
    keys = keys_of(store, told)
    await keys.start()
    key = keys.signing()
    store.down = True
    await until_loaded(store)
    assert keys.signing() is key
    failures = [keys.failure]
    store.down = False
    await until_loaded(store)
    await keys.close()
    assert [*failures, keys.failure] == ["postgres is unavailable: refused", None]
    assert told == ["postgres is unavailable: refused", None]


async def test_a_gateway_that_starts_in_an_outage_gets_its_keys_later() -> None:
    store, told = Store(), list[str | None]()
    store.down = True
    keys = keys_of(store, told)
    await keys.start()
    assert keys.signing() is None
    store.down = False
    await until_loaded(store)
    assert keys.signing() is not None
    await keys.close()


async def test_another_algorithm_gets_its_key_once() -> None:
    store, told = Store(), list[str | None]()
    first = keys_of(store, told)
    await first.start()
    second = keys_of(store, told, "EdDSA")
    await second.start()
    await until_loaded(store)
    await until_loaded(store)
    assert [key.algorithm for key in store.keys] == ["ES256", "EdDSA"]
    signing = second.signing()
    assert signing is not None
    assert signing.algorithm == "ES256", "the new key is published first"
    await first.close()
    await second.close()


# In a file --------------------------------------------------------------------------------------------


async def test_a_file_is_made_for_its_user_alone(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    store = KeyFile(path)
    assert await store.load() == []
    await store.add(new_pem("ES256"), "ES256", 60.0, rotate=False)
    await store.add(new_pem("ES256"), "ES256", 60.0, rotate=False)
    (key,) = await store.load()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    await store.add(new_pem("EdDSA"), "EdDSA", 60.0, rotate=True)
    old, new = await store.load()
    assert (old, new.algorithm) == (key, "EdDSA")
    assert new.signs_from >= old.signs_from + 60
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


async def test_a_file_forgets_keys_that_are_no_longer_published(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    entries = [
        {"alg": "ES256", "signs_from": signs_from, "pem": new_pem("ES256")} for signs_from in (1.0, 2.0, 3.0)
    ]
    path.write_text(json.dumps({"keys": entries}))
    await KeyFile(path).add(new_pem("ES256"), "ES256", 60.0, rotate=True)
    assert min(key.signs_from for key in await KeyFile(path).load()) == 3.0
    assert len(await KeyFile(path).load()) == 2


async def test_many_processes_make_one_key(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"

    def add() -> None:
        asyncio.run(KeyFile(path).add(new_pem("ES256"), "ES256", 60.0, rotate=False))

    await asyncio.gather(*(asyncio.to_thread(add) for _ in range(8)))
    assert len(await KeyFile(path).load()) == 1


async def test_a_file_that_may_only_be_read_is_good_enough(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    await KeyFile(path).add(new_pem("ES256"), "ES256", 60.0, rotate=False)
    lock = path.with_name("keys.json.lock")
    lock.unlink()
    # Nothing is made beside a file whose newest key fits.
    await KeyFile(path).add(new_pem("ES256"), "ES256", 60.0, rotate=False)
    assert not lock.exists()


@pytest.mark.parametrize(
    "text", ["", "[]", '{"keys": [{}]}', '{"keys": [{"alg": "ES256", "pem": "PRIVATE"}]}']
)
async def test_another_file_is_refused_and_not_shown(tmp_path: Path, text: str) -> None:
    path = tmp_path / "keys.json"
    path.write_text(text)
    with pytest.raises(OSError, match=r"assertion\.key_file: .*keys\.json") as caught:
        await KeyFile(path).load()
    assert "PRIVATE" not in str(caught.value)


async def test_a_folder_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"assertion\.key_file: .*cannot be made: No such file"):
        await KeyFile(tmp_path / "none" / "keys.json").add(new_pem("ES256"), "ES256", 60.0, rotate=False)
