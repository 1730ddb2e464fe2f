"""`server.reload: watch`: a changed file is a reload."""

import asyncio
import os
import socket
import time
from pathlib import Path

import yaml

from gateway.workers.file_watch import INTERVAL, RETRY, FileWatch
from tests.sockets import RawUpstream
from tests.workers.program import Program, eventually, route, running


class TestFileWatch:
    def test_a_change_counts_when_it_stays(self, tmp_path: Path) -> None:
        file = tmp_path / "file"
        file.write_text("one")
        watch, now = FileWatch((file,)), time.monotonic()
        assert not watch.has_changed(now + INTERVAL)
        file.write_text("two, half")
        assert not watch.has_changed(now + 2 * INTERVAL)
        file.write_text("two")
        assert not watch.has_changed(now + 3 * INTERVAL)
        assert watch.has_changed(now + 4 * INTERVAL)
        assert not watch.has_changed(now + 5 * INTERVAL)

    def test_a_change_that_is_taken_back_is_no_reload(self, tmp_path: Path) -> None:
        file = tmp_path / "file"
        file.write_text("one")
        watch, now = FileWatch((file,)), time.monotonic()
        file.write_text("two")
        assert not watch.has_changed(now + INTERVAL)
        file.write_text("one")
        assert not watch.has_changed(now + 2 * INTERVAL)
        assert not watch.has_changed(now + 3 * INTERVAL)

    def test_a_file_that_is_gone_is_a_change(self, tmp_path: Path) -> None:
        file = tmp_path / "file"
        file.write_text("one")
        watch, now = FileWatch((file,)), time.monotonic()
        file.unlink()
        assert not watch.has_changed(now + INTERVAL)
        assert watch.has_changed(now + 2 * INTERVAL)

    def test_a_reload_refused_for_an_outage_is_tried_again(self, tmp_path: Path) -> None:
        """The file does not change again when the outage is over, and no signal comes."""
        file = tmp_path / "file"
        file.write_text("one")
        watch, now = FileWatch((file,)), time.monotonic()
        file.write_text("two")
        assert not watch.has_changed(now + INTERVAL)
        assert (watch.has_changed(now + 2 * INTERVAL), watch.again) == (True, False)
        watch.retry(now)
        assert not watch.has_changed(now + RETRY - 1)
        assert (watch.has_changed(now + RETRY), watch.again) == (True, True)
        assert not watch.has_changed(now + 2 * RETRY)
        # Another content does not wait for that, and takes its place.
        watch.retry(now + 2 * RETRY)
        file.write_text("three")
        assert not watch.has_changed(now + 2 * RETRY + INTERVAL)
        assert (watch.has_changed(now + 2 * RETRY + 2 * INTERVAL), watch.again) == (True, False)
        assert not watch.has_changed(now + 4 * RETRY)

    def test_a_pipe_is_left_to_who_reads_the_configuration(self, tmp_path: Path) -> None:
        """As in `gateway run --config <(sops --decrypt gateway.yaml)`: it can be read once."""
        pipe = tmp_path / "pipe"
        os.mkfifo(pipe)
        ends = os.open(pipe, os.O_RDWR)
        try:
            os.write(ends, b"issuers: []")
            watch, now = FileWatch((pipe,)), time.monotonic()
            assert not watch.has_changed(now + INTERVAL)
            assert os.read(ends, 100) == b"issuers: []"
        finally:
            os.close(ends)

    def test_no_files_are_never_looked_at(self) -> None:
        watch = FileWatch(())
        assert watch.next_at is None
        assert not watch.has_changed(time.monotonic() + 1e6)


async def test_a_config_map_that_is_swapped_is_a_reload(
    tmp_path: Path, upstream: RawUpstream, dsn: str, redis_url: str
) -> None:
    async with running(
        tmp_path, upstream, dsn, redis_url, server={"workers": 1, "reload": "watch"}
    ) as program:
        assert (await program.get("/new/x")).status == 404
        assert await program.metric("gateway_config_reloads_total") == 0
        started = await program.metric("gateway_config_last_reload_success_timestamp_seconds")
        # As Kubernetes mounts a ConfigMap: the file is a link through a folder that is swapped.
        text = program.config.read_text()
        for name in ("one", "two"):
            (tmp_path / name).mkdir()
            (tmp_path / name / "gateway.yaml").write_text(text)
        data = tmp_path / "..data"
        data.symlink_to(tmp_path / "one")
        program.config.unlink()
        program.config.symlink_to(data / "gateway.yaml")
        await asyncio.sleep(2.5 * INTERVAL)
        assert program.events("configuration_changed") == []
        program.config = tmp_path / "two" / "gateway.yaml"
        program.configure(routes=[route("public", "/public/**"), route("new", "/new/**")])
        swapped = tmp_path / "..data_tmp"
        swapped.symlink_to(tmp_path / "two")
        swapped.replace(data)
        await program.event("reloaded")
        # A worker of before may still take a connection in this moment.
        await eventually(lambda: _answers(program, "/new/x", 200))
        await eventually(lambda: _counted(program, 1))
        assert await program.metric("gateway_config_last_reload_success_timestamp_seconds") > started
        good = program.config.read_text()
        # A mistake changes nothing, and is reported once.
        program.config.write_text("nonsense: {}\n")
        await program.event("reload_refused")
        await asyncio.sleep(2.5 * INTERVAL)
        assert len(program.events("reload_refused")) == 1
        assert (await program.get("/new/x")).status == 200
        # What is refused does not end the watching, whatever it says of it.
        with socket.create_server(("127.0.0.1", 0)) as taken:
            other = yaml.safe_load(good)
            other["server"] |= {"reload": "signal", "listen": f"127.0.0.1:{taken.getsockname()[1]}"}
            program.config.write_text(yaml.safe_dump(other))
            await eventually(lambda: _times(program, "reload_refused", 2))
        program.config.write_text(good)
        await eventually(lambda: _times(program, "reloaded", 2))


async def _answers(program: Program, path: str, status: int) -> bool:
    return (await program.get(path)).status == status


async def _times(program: Program, event: str, times: int) -> bool:
    return len(program.events(event)) == times


async def _counted(program: Program, times: int) -> bool:
    count = await program.metric("gateway_config_reloads_total")
    return bool(count == times)
