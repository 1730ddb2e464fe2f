import asyncio
import re
import time
from collections.abc import AsyncIterator
from contextlib import suppress

import asyncpg
import orjson
import pytest
from structlog.testing import capture_logs

from gateway.core.model import JSON
from gateway.core.revocations import Revocation, Revoked
from gateway.demo.embedded import EmbeddedPostgres
from gateway.stores.postgres.change_stream.listener import (
    Change,
    Changed,
    Everything,
    PostgresStream,
    change_in,
)
from gateway.stores.postgres.migrate import migrate, migrations
from tests.stores.cable import Cable
from tests.stores.ear import Ear, Rig, rigged
from tests.stores.examples import ISS, eventually

ROW: dict[str, JSON] = {"kind": "jti", "issuer": "main", "value": "a", "revoked_at": 1, "expires_at": None}


@pytest.fixture
async def rig(dsn: str) -> AsyncIterator[Rig]:
    async with rigged(dsn) as rig:
        yield rig


class Deaf(Cable):
    """Lets everything through but notifications, as PgBouncer in transaction mode does."""

    async def _copy(
        self, source: asyncio.StreamReader, target: asyncio.StreamWriter, *, back: bool = False
    ) -> None:
        kind = await source.readexactly(1)
        if kind == b"\0":  # what the client says begins with a length
            target.write(kind)
            await super()._copy(source, target, back=back)
            return
        with suppress(asyncio.IncompleteReadError):
            while True:
                length = await source.readexactly(4)
                message = kind + length + await source.readexactly(int.from_bytes(length) - 4)
                if kind != b"A":
                    target.write(message)
                kind = await source.readexactly(1)


class TestPayloads:
    def payload(self, **changes: JSON) -> str:
        return orjson.dumps({"schema": "public", "version": 7, "kind": "all", **changes}).decode()

    def test_readable(self) -> None:
        assert change_in(self.payload(), "public") == Everything(7)
        assert change_in(self.payload(), "other") is None
        lifted: dict[str, JSON] = {"kind": "revocation", "change": "lifted", "revocation": ROW}
        assert change_in(self.payload(**lifted, order=3), "public") == Revoked(
            Revocation("jti", "main", "a", 1.0), lifted=True, version=7, order=3
        )
        # The triggers of earlier migrations know no order.
        assert change_in(self.payload(**lifted), "public") == Revoked(
            Revocation("jti", "main", "a", 1.0), lifted=True, version=7
        )
        both = self.payload(kind="identities", identities=[[ISS, "ann"]], users=["4711"])
        assert change_in(both, "public") == Changed(((ISS, "ann"),), ("4711",), 7)

    @pytest.mark.parametrize(
        "changes",
        [
            {"kind": "some"},
            {"version": None},
            {"version": -1},
            {"version": 1.5},
            {"version": 2**53 + 1},
            {"schema": None},
            {"kind": "identities", "users": []},
            {"kind": "identities", "users": [], "identities": [["a"]]},
            {"kind": "identities", "users": [], "identities": [["a", 1]]},
            {"kind": "identities", "users": [1], "identities": []},
            {"kind": "revocation", "change": "set", "revocation": {"kind": "jti"}},
            {"kind": "revocation", "change": "changed", "revocation": ROW},
            {"kind": "revocation", "change": "set", "revocation": ROW, "order": 1.5},
            {"kind": "revocation", "change": "set", "revocation": ROW, "order": 2**53 + 1},
            {"kind": "revocation", "change": "set", "revocation": {**ROW, "kind": "token"}},
            {"kind": "revocation", "change": "set", "revocation": {**ROW, "revoked_at": "Infinity"}},
        ],
    )
    def test_unreadable(self, changes: dict[str, JSON]) -> None:
        with pytest.raises(ValueError, match=r"form|two texts|id|number"):
            change_in(self.payload(**changes), "public")

    async def test_an_unreadable_payload_is_everything_and_logged_once(self, rig: Rig) -> None:
        with capture_logs() as logs:
            first, second = await rig.told("NOTIFY gateway_changes, 'hush'", "NOTIFY gateway_changes, '{}'")
        assert isinstance(first, Everything)
        assert isinstance(second, Everything)
        assert first != second
        assert [line["event"] for line in logs] == ["change_unreadable"]
        assert "hush" not in repr(logs)


class TestStream:
    async def test_heartbeats_return_and_those_of_others_are_received(self, dsn: str) -> None:
        one, two = Ear(), Ear()
        streams = [PostgresStream(dsn, "public", ear, connect_timeout=2, beat=0.02) for ear in (one, two)]
        for stream in streams:
            stream.start()

        async def both() -> bool:
            return all({own for _, own in ear.heartbeats} == {True, False} for ear in (one, two))

        await eventually(both)
        assert all(re.fullmatch("[0-9a-f]{32}", heartbeat) for heartbeat, _ in one.heartbeats)
        assert one.events == two.events == ["listening"]
        assert [stream.up for stream in streams] == [True, True]
        for stream in streams:
            await stream.close()
        assert [stream.up for stream in streams] == [False, False]
        assert one.events == ["listening"]

    async def test_an_invalid_heartbeat_is_ignored(self, rig: Rig) -> None:
        await rig.db.execute("NOTIFY gateway_heartbeats, 'x'")
        await rig.settle()
        assert "x" not in dict(rig.ear.heartbeats)

    async def test_a_link_that_is_cut_is_noticed_at_once_and_made_again(self, dsn: str) -> None:
        async with Cable(dsn) as cable:
            ear = Ear()
            stream = PostgresStream(cable.url, "public", ear, connect_timeout=2, beat=60)
            stream.start()
            await ear.has("listening")
            await cable.pull()
            await ear.has("listening", "lost")
            await asyncio.sleep(0.4)
            assert len(ear.details) == 1  # attempts that fail are not told
            await cable.plug()
            await ear.has("listening", "lost", "listening")
            db = await asyncpg.connect(dsn)
            assert len(await Rig(db, ear).told("TRUNCATE revocations")) == 1
            await db.close()
            await stream.close()

    async def test_a_frozen_link_is_noticed_by_its_heartbeat(self, dsn: str) -> None:
        async with Cable(dsn) as cable:
            ear = Ear()
            stream = PostgresStream(
                cable.url, "public", ear, beats_dsn=dsn, connect_timeout=1, beat=0.05, patience=0.5
            )
            stream.start()
            await ear.has("listening")
            cable.freeze()
            started = asyncio.get_running_loop().time()
            await ear.has("listening", "lost")
            assert asyncio.get_running_loop().time() - started < 1.5
            assert "no heartbeat came back within 0.5 s" in ear.details[0]
            cable.thaw()
            await ear.has("listening", "lost", "listening")
            await stream.close()

    async def test_a_process_that_slept_does_not_trust_its_memory(self, dsn: str) -> None:
        ear = Ear()
        stream = PostgresStream(dsn, "public", ear, connect_timeout=2, beat=0.05, patience=0.5)
        stream.start()
        await ear.has("listening")
        time.sleep(0.6)  # noqa: ASYNC251 -- as SIGSTOP does
        assert not stream.up
        await stream.close()

    async def test_the_defaults_notice_within_two_seconds(self, dsn: str) -> None:
        async with Cable(dsn) as cable:
            ear = Ear()
            stream = PostgresStream(cable.url, "public", ear, connect_timeout=1)
            stream.start()
            await ear.has("listening")
            cable.freeze()
            started = asyncio.get_running_loop().time()
            await ear.has("listening", "lost")
            assert 1 < asyncio.get_running_loop().time() - started < 2.3
            await stream.close()

    async def test_a_proxy_that_delivers_no_notifications_is_never_trusted(self, dsn: str) -> None:
        async with Deaf(f"{dsn}?sslmode=disable") as proxy:
            ear = Ear()
            stream = PostgresStream(proxy.url, "public", ear, connect_timeout=1, beat=0.05, patience=0.5)
            stream.start()
            await ear.has("lost")
            assert "postgres.listen_dsn" in ear.details[0]
            await asyncio.sleep(0.5)
            assert ear.events == ["lost"]
            await stream.close()

    async def test_missing_and_disabled_triggers_are_noticed(self, empty_dsn: str) -> None:
        await migrate(empty_dsn, known=migrations()[:1])
        ear = Ear()
        stream = PostgresStream(empty_dsn, "public", ear, connect_timeout=1, beat=0.02)
        stream.start()
        await ear.has("lost")
        assert "missing or disabled on" in ear.details[0]
        await migrate(empty_dsn)
        await ear.has("lost", "listening")
        db = await asyncpg.connect(empty_dsn)
        await db.execute("ALTER TABLE users DISABLE TRIGGER ALL")
        await ear.has("lost", "listening", "lost")
        await db.execute("ALTER TABLE users ENABLE TRIGGER ALL")
        await ear.has("lost", "listening", "lost", "listening")
        await db.close()
        await stream.close()

    async def test_a_server_that_is_down_at_first_is_found_later(
        self, dsn: str, postgres_server: EmbeddedPostgres
    ) -> None:
        postgres_server.stop()
        ear = Ear()
        stream = PostgresStream(dsn, "public", ear, connect_timeout=1)
        stream.start()
        await ear.has("lost")
        assert ear.details == [f"{stream.address}: connection refused"]
        postgres_server.start()
        await ear.has("lost", "listening")
        postgres_server.stop()
        await ear.has("lost", "listening", "lost")
        postgres_server.start()
        await ear.has("lost", "listening", "lost", "listening")
        await stream.close()

    async def test_a_change_that_could_not_be_handled_ends_the_trust(
        self, rig: Rig, caplog: pytest.LogCaptureFixture
    ) -> None:
        def defective(_: Change) -> None:
            raise ZeroDivisionError

        rig.ear.on_change = defective
        with capture_logs() as logs:
            await rig.db.execute("TRUNCATE revocations")
            await rig.ear.has("listening", "lost", "listening")
        assert [line["event"] for line in logs] == ["change_not_applied"]
        assert not caplog.records

    async def test_nor_does_what_came_with_it_prove_anything(self, rig: Rig) -> None:
        def defective(_: Change) -> None:
            raise ZeroDivisionError

        rig.ear.on_change = defective
        mark = "0" * 32
        with capture_logs():
            await rig.db.execute(f"BEGIN; TRUNCATE revocations; NOTIFY gateway_heartbeats, '{mark}'; COMMIT")
            await rig.ear.has("listening", "lost", "listening")
        assert (mark, False) not in rig.ear.heartbeats
