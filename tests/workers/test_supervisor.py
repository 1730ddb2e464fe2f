"""Real processes on real sockets, as seen by a client, an operator and systemd."""

import asyncio
import os
import signal
import socket
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from gateway.admin.health import Workers
from gateway.app import Running
from gateway.core.model import JSON
from gateway.listeners import Listeners
from gateway.workers.supervisor import Supervisor
from gateway.workers.worker import Plan
from tests.harness import unused_port
from tests.sockets import OK, Exchange, RawUpstream
from tests.workers.program import Load, connected, eventually, route, running, starting


async def test_a_killed_worker_is_replaced_and_totals_never_go_down(
    tmp_path: Path, upstream: RawUpstream, dsn: str, redis_url: str
) -> None:
    async with running(tmp_path, upstream, dsn, redis_url) as program:
        first = set(program.workers())
        assert len(first) == 2
        for _ in range(20):
            assert (await program.get()).status == 200
        before = await program.metric("gateway_requests_total")
        assert before == 20
        assert await program.metric("gateway_workers") == 2

        victim = min(first)
        os.kill(victim, signal.SIGKILL)
        crash = await program.event("worker_crashed")
        assert (crash["pid"], crash["how"], crash["restart_seconds"]) == (victim, "SIGKILL", 0.1)

        async def two_again() -> bool:
            return await program.metric("gateway_workers") == 2

        await eventually(two_again)
        assert victim not in program.workers()
        assert await program.metric("gateway_worker_restarts_total") == 1
        assert await program.metric("gateway_requests_total") == before
        for _ in range(10):
            assert (await program.get()).status == 200
        assert await program.metric("gateway_requests_total") == before + 10

        # The next worker in this slot waits twice as long.
        os.kill(max(program.workers()), signal.SIGKILL)
        assert (await program.event("worker_crashed", 2))["restart_seconds"] == 0.2


async def test_waiting_connections_survive_the_death_of_their_worker(
    tmp_path: Path, upstream: RawUpstream, dsn: str, redis_url: str
) -> None:
    async with running(tmp_path, upstream, dsn, redis_url, server={"workers": 1}) as program:
        (worker,) = program.workers()
        os.kill(worker, signal.SIGSTOP)
        async with connected(program.url) as client:
            answer = asyncio.create_task(client.get())
            await asyncio.sleep(0.05)
            os.kill(worker, signal.SIGKILL)
            assert (await answer).status == 200


async def test_reload_fails_no_request_and_applies_the_new_configuration(
    tmp_path: Path, upstream: RawUpstream, dsn: str, redis_url: str
) -> None:
    async with running(tmp_path, upstream, dsn, redis_url) as program:
        load = Load(program.url)
        before = set(program.workers())
        assert (await program.get("/new/x")).status == 404
        async with load.while_running():
            await asyncio.sleep(0.2)
            program.configure(
                server={"workers": 3}, routes=[route("public", "/public/**"), route("new", "/new/**")]
            )
            program.signal(signal.SIGHUP)
            assert (await program.event("reloaded"))["workers"] == 3
            await program.event("worker_ended", 2)
            # With one worker less, one socket is closed for ever, while clients keep connecting to it.
            program.configure(server={"workers": 1})
            program.signal(signal.SIGHUP)
            await program.event("reloaded", 2)
            await program.event("worker_ended", 5)
            await asyncio.sleep(0.1)
        assert load.failed == []
        assert load.answered > 100
        assert not before & set(program.workers())
        assert len(program.workers()) == 1
        assert (await program.get("/new/x")).status == 200
        assert await program.metric("gateway_requests_total") >= load.answered
        assert await program.metric("gateway_workers") == 1
        assert await program.metric("gateway_worker_restarts_total") == 0


async def test_reload_moves_to_another_address(
    tmp_path: Path, upstream: RawUpstream, dsn: str, redis_url: str
) -> None:
    async with running(tmp_path, upstream, dsn, redis_url) as program:
        old = program.url
        program.configure(server={"listen": f"127.0.0.1:{unused_port()}"})
        program.signal(signal.SIGHUP)
        program.url = (await program.event("reloaded"))["listen"]
        assert program.url != old
        assert (await program.get()).status == 200
        await program.event("worker_ended", 2)
        with pytest.raises(ConnectionRefusedError):
            async with connected(old):
                pass


async def test_a_bad_configuration_changes_nothing_and_is_reported(
    tmp_path: Path, upstream: RawUpstream, dsn: str, redis_url: str
) -> None:
    async with running(tmp_path, upstream, dsn, redis_url) as program:
        good, workers = program.config.read_text(), program.workers()

        program.config.write_text(good + "\nserver2: {}\ncache: {user_ttl: long}\n")
        program.signal(signal.SIGHUP)
        problems = (await program.event("reload_refused"))["problems"]
        assert len(problems) == 2
        assert "server2: is not a setting" in problems[0]
        assert "cache.user_ttl: must be a duration" in problems[1]

        # Valid, but no worker can serve with it.
        program.config.write_text(good)
        program.configure(server={"tls": {"certificate": "/nowhere.pem", "key": "/nowhere.pem"}})
        program.signal(signal.SIGHUP)
        assert "No such file" in (await program.event("reload_refused", 2))["problems"][0]

        with socket.create_server(("127.0.0.1", 0)) as taken:
            program.configure(
                server={
                    "tls": {"certificate": None, "key": None},
                    "listen": f"127.0.0.1:{taken.getsockname()[1]}",
                }
            )
            program.signal(signal.SIGHUP)
            assert "cannot be listened on" in (await program.event("reload_refused", 3))["problems"][0]

        async def unchanged() -> bool:
            return program.workers() == workers

        # The workers of the refused generation have ended soon after.
        await eventually(unchanged)
        assert (await program.get()).status == 200


def test_a_bug_while_a_configuration_is_applied_ends_no_worker() -> None:
    def serve(_: Listeners, __: Workers) -> AbstractAsyncContextManager[Running]:
        raise AssertionError("no worker is to be started")

    def reread() -> Plan:
        raise RuntimeError

    nowhere = ("127.0.0.1", 0)
    supervisor = Supervisor(Plan(1, nowhere, nowhere, 0, 0, serve), reread, lambda _: None)
    supervisor._announced = True
    try:
        with capture_logs() as events:
            supervisor._reload()
    finally:
        supervisor._close_own()
    assert [event["event"] for event in events] == ["reload_failed", "reload_refused"]
    assert events[-1]["problems"] == ["the gateway failed to apply it: RuntimeError"]


async def test_sigterm_finishes_the_requests_in_flight(
    tmp_path: Path, upstream: RawUpstream, dsn: str, redis_url: str
) -> None:
    release = asyncio.Event()

    async def slow(exchange: Exchange) -> None:
        if exchange.request.target != b"/public/idle":
            await exchange.read_body()
            await release.wait()
        await exchange.send(OK)

    upstream.behave(slow)
    async with (
        running(tmp_path, upstream, dsn, redis_url, server={"shutdown_delay": "2s"}) as program,
        connected(program.url) as waiting,
        connected(program.url) as uploading,
        connected(program.url) as idle,
    ):
        assert (await idle.get("/public/idle")).status == 200
        slow_answer = asyncio.create_task(waiting.get())
        uploading.writer.write(
            b"POST /public/x HTTP/1.1\r\nHost: gateway.test\r\nContent-Length: 6\r\n\r\nabc"
        )
        await eventually(lambda: _arrived(upstream, 3))

        program.signal(signal.SIGTERM)
        await program.event("stopping")

        async def draining() -> bool:
            status, answer = await program.readyz()
            return (status, answer["status"]) == (503, "draining")

        await eventually(draining)
        # Until load balancers notice, all requests are served.
        async with connected(program.url) as late:
            answer = await late.get("/public/idle")
            assert (answer.status, answer.values(b"connection")) == (200, [])

        async def refused() -> bool:
            try:
                async with connected(program.url):
                    return False
            except OSError:
                return True

        await eventually(refused)
        # The client could not know about the stop: it gets an answer, with `Connection: close`.
        answer = await idle.get("/public/idle")
        assert (answer.status, answer.values(b"connection")) == (200, [b"close"])
        # On a separate connection: a worker without requests in flight closes its idle connections.
        assert await draining()

        uploading.writer.write(b"def")
        release.set()
        answer = await slow_answer
        assert (answer.status, answer.content) == (200, b"ok")
        assert answer.values(b"connection") == [b"close"]
        assert (await uploading.answer()).status == 200
        assert [request.body for request in upstream.requests if request.line.startswith(b"POST")] == [
            b"abcdef"
        ]
        assert await program.ended() == 0


async def _arrived(upstream: RawUpstream, number: int) -> bool:
    return len(upstream.requests) >= number


async def test_requests_that_take_too_long_are_cut_off(
    tmp_path: Path, upstream: RawUpstream, dsn: str, redis_url: str
) -> None:
    upstream.behave(lambda _: asyncio.sleep(60))
    async with (
        running(tmp_path, upstream, dsn, redis_url, server={"drain_timeout": "200ms"}) as program,
        connected(program.url) as client,
    ):
        answer = asyncio.create_task(client.get())
        await eventually(lambda: _arrived(upstream, 1))
        program.signal(signal.SIGTERM)
        with pytest.raises(ConnectionError):
            await answer
        assert await program.ended() == 0


async def test_a_second_signal_ends_all_workers_at_once(
    tmp_path: Path, upstream: RawUpstream, dsn: str, redis_url: str
) -> None:
    upstream.behave(lambda _: asyncio.sleep(60))
    async with (
        running(tmp_path, upstream, dsn, redis_url) as program,
        connected(program.url) as client,
    ):
        answer = asyncio.create_task(client.get())
        await eventually(lambda: _arrived(upstream, 1))
        program.signal(signal.SIGTERM)
        await program.event("stopping")
        await asyncio.sleep(0.3)
        assert program.process.returncode is None
        program.signal(signal.SIGINT)
        async with asyncio.timeout(2):
            assert await program.process.wait() == 0
        with pytest.raises(ConnectionError):
            await answer


def _runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


async def test_workers_without_a_supervisor_finish_their_requests_and_end(
    tmp_path: Path, upstream: RawUpstream, dsn: str, redis_url: str
) -> None:
    release = asyncio.Event()

    async def slow(exchange: Exchange) -> None:
        await release.wait()
        await exchange.send(OK)

    upstream.behave(slow)
    async with (
        running(tmp_path, upstream, dsn, redis_url) as program,
        connected(program.url) as client,
    ):
        workers = program.workers()
        answer = asyncio.create_task(client.get())
        await eventually(lambda: _arrived(upstream, 1))
        program.signal(signal.SIGKILL)
        # Longer than the worker waits for the supervisor.
        await asyncio.sleep(2.5)
        assert any(map(_runs, workers))
        release.set()
        assert (await answer).status == 200

        async def gone() -> bool:
            return not any(map(_runs, workers))

        await eventually(gone)
        assert "Traceback" not in program.stderr.read_text()


async def test_the_front_listens_on_unix_sockets(
    tmp_path: Path, upstream: RawUpstream, dsn: str, redis_url: str
) -> None:
    front, admin = tmp_path / "front.sock", tmp_path / "admin.sock"
    # The socket file that a killed gateway left behind.
    with socket.socket(socket.AF_UNIX) as abandoned:
        abandoned.bind(str(front))
    server: dict[str, JSON] = {"listen": f"unix:{front}"}
    admin_section: dict[str, JSON] = {"listen": f"unix:{admin}"}
    async with running(tmp_path, upstream, dsn, redis_url, server=server, admin=admin_section) as program:
        assert (program.url, program.admin_url) == (f"unix:{front}", f"unix:{admin}")
        load = Load(program.url)
        async with load.while_running(4):
            program.signal(signal.SIGHUP)
            await program.event("worker_ended", 2)
        assert load.failed == []
        assert load.answered
        assert (await program.readyz())[0] == 200
        program.signal(signal.SIGTERM)
        assert await program.ended() == 0
        assert not front.exists()
        assert not admin.exists()


async def test_systemd_gets_the_state_of_the_service(
    tmp_path: Path, upstream: RawUpstream, dsn: str, redis_url: str
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.setblocking(False)
        loop = asyncio.get_running_loop()

        async def told() -> dict[str, str]:
            async with asyncio.timeout(10):
                datagram = await loop.sock_recv(manager, 4096)
            return dict(line.split("=", 1) for line in datagram.decode().splitlines())

        env = {"NOTIFY_SOCKET": str(tmp_path / "notify")}
        async with running(tmp_path, upstream, dsn, redis_url, env=env, server={"workers": 1}) as program:
            started = await told()
            assert (started["READY"], started["MAINPID"]) == ("1", str(program.pid))
            program.signal(signal.SIGHUP)
            reloading = await told()
            assert reloading["RELOADING"] == "1"
            assert int(reloading["MONOTONIC_USEC"]) > 0
            assert (await told())["READY"] == "1"
            program.config.write_text("")
            program.signal(signal.SIGHUP)
            assert (await told())["RELOADING"] == "1"
            assert (await told())["READY"] == "1"
            program.signal(signal.SIGTERM)
            assert (await told())["STOPPING"] == "1"
            assert await program.ended() == 0


async def test_a_port_in_use_ends_the_start(
    tmp_path: Path, upstream: RawUpstream, dsn: str, redis_url: str
) -> None:
    with socket.socket() as taken:
        # Even if the other socket would share it.
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        async with starting(tmp_path, upstream, dsn, redis_url, server={"listen": listen}) as program:
            assert await program.ended() == 2
            assert f"server.listen: {listen} cannot be listened on" in program.stderr.read_text()


async def test_a_first_worker_that_cannot_start_ends_the_start(
    tmp_path: Path, upstream: RawUpstream, dsn: str, redis_url: str
) -> None:
    tls: dict[str, JSON] = {"certificate": str(tmp_path / "none.pem"), "key": str(tmp_path / "none.pem")}
    async with starting(tmp_path, upstream, dsn, redis_url, server={"tls": tls}) as program:
        assert await program.ended() == 2
        assert "cannot start" in program.stderr.read_text()
        assert f"server.tls: {tmp_path}/none.pem cannot be read: No such file" in program.stderr.read_text()


async def test_all_output_is_json_lines(
    tmp_path: Path, upstream: RawUpstream, dsn: str, redis_url: str
) -> None:
    async with running(tmp_path, upstream, dsn, redis_url) as program:
        listening = await program.event("listening")
        assert listening["listen"] == program.url
        for line in program.stderr.read_text().splitlines():
            assert line.startswith("{"), line
