"""The choice of an endpoint, and endpoints that cannot be reached."""

import asyncio
import random
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from gateway.core.reasons import Denial
from gateway.proxy.upstream.balancer import Upstream, Upstreams
from gateway.proxy.upstream.endpoints.dial import read_origin
from gateway.proxy.upstream.options import Ejection, UpstreamRules
from tests.harness import unused_port
from tests.proxy.services import ManyUpstreams, RecordingObserver, UnixUpstream, acquire, exchange, settled
from tests.sockets import OK, RawUpstream


@pytest.fixture
async def server() -> AsyncIterator[RawUpstream]:
    async with RawUpstream() as server:
        yield server


def upstream(*urls: str, **rules: Any) -> Upstream:  # noqa: ANN401 -- those of `UpstreamRules`
    return Upstream(UpstreamRules("orders", urls, **rules))


def closed() -> str:
    return f"http://127.0.0.1:{unused_port()}"


# Connecting ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "host", "port", "tls", "authority"),
    [
        ("http://orders:9000", "orders", 9000, False, b"orders:9000"),
        ("http://orders", "orders", 80, False, b"orders"),
        ("https://orders:443", "orders", 443, True, b"orders"),
        ("https://orders:80", "orders", 80, True, b"orders:80"),
        ("http://[::1]:81", "::1", 81, False, b"[::1]:81"),
        ("unix:/run/orders.sock", "/run/orders.sock", None, False, b"localhost"),
    ],
)
def test_a_url_is_parsed(url: str, host: str, port: int | None, authority: bytes, *, tls: bool) -> None:
    origin = read_origin(url)
    assert (origin.host, origin.port, origin.tls, origin.authority) == (host, port, tls, authority)
    assert origin.is_name is (host == "orders")


async def test_a_connection_refused_is_unreachable() -> None:
    with pytest.raises(Denial, match="upstream_unreachable: connecting to orders failed: Conn") as caught:
        await acquire(upstream(closed()))
    assert isinstance(caught.value.__cause__, OSError)


async def test_a_missing_socket_is_unreachable(tmp_path: Path) -> None:
    with pytest.raises(Denial, match=r"upstream_unreachable: .*: No such file"):
        await acquire(upstream(f"unix:{tmp_path}/none.sock"))


async def test_a_unix_socket_is_connected_to(tmp_path: Path) -> None:
    async with UnixUpstream(tmp_path / "orders.sock") as server:
        service = upstream(server.url)
        first, second = await exchange(service), await exchange(service)
        assert (first.body, second.body, len(server.wires)) == (b"ok", b"ok", 1)
        service.close()


async def test_a_connection_that_is_not_accepted_times_out() -> None:
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(4):  # the queue of those who wait is full
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        service = upstream(f"http://127.0.0.1:{listener.getsockname()[1]}", connect_timeout=0.1)
        with pytest.raises(Denial, match="upstream_timeout"):
            await acquire(service)
        assert service.active == 0


async def test_upstreams_are_found_by_name(server: RawUpstream) -> None:
    upstreams = Upstreams([UpstreamRules("a", (server.url,)), UpstreamRules("b", (server.url,))])
    upstreams.start()
    assert [service.name for service in upstreams] == ["a", "b"]
    await exchange(upstreams["b"])
    assert (upstreams["a"].idle, upstreams["b"].idle) == (0, 1)
    upstreams.close()
    assert upstreams["b"].idle == 0


# Choosing ------------------------------------------------------------------------------------------


async def test_requests_are_distributed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random, "random", random.Random(1).random)  # noqa: S311 -- repeatable, not secret
    async with ManyUpstreams(3) as many:
        service = upstream(*many.urls)
        for _ in range(60):
            await exchange(service)
        assert sum(many.requests) == 60
        assert min(many.requests) >= 10
        service.close()


async def test_the_less_busy_of_two_is_chosen() -> None:
    async with ManyUpstreams(2) as many:
        service = upstream(*many.urls)
        connections = []
        for number in range(1, 41):
            connections.append(await acquire(service))
            busy = [endpoint.pool.active for endpoint in service._choices]
            assert sorted(busy) == [number // 2, (number + 1) // 2]
        for connection in connections:
            connection.owner.release(connection)


async def test_a_full_endpoint_is_passed_over() -> None:
    async with ManyUpstreams(10) as many:
        service = upstream(*many.urls, max_connections=1, connect_timeout=0.05)
        connections = [await acquire(service) for _ in range(10)]
        assert [endpoint.pool.active for endpoint in service._choices] == [1] * 10
        with pytest.raises(Denial, match="overloaded"):
            await acquire(service)
        for connection in connections:
            connection.owner.release(connection)


# Retries -------------------------------------------------------------------------------------------


async def test_a_connection_that_fails_is_opened_to_another_endpoint(server: RawUpstream) -> None:
    observer = RecordingObserver()
    rules = UpstreamRules("orders", (closed(), server.url), ejection=Ejection(failures=0))
    service = Upstream(rules, observer)
    for _ in range(20):
        assert (await exchange(service, fresh=True)).body == b"ok"
    assert 1 <= len(observer.retries) <= 20
    assert set(observer.retries) == {("orders", "connect_failed")}
    service.close()


async def test_three_endpoints_are_tried_and_no_more() -> None:
    observer = RecordingObserver()
    service = Upstream(UpstreamRules("orders", tuple(closed() for _ in range(6))), observer)
    with pytest.raises(Denial, match="upstream_unreachable"):
        await acquire(service)
    assert len(observer.retries) == 2


async def test_a_single_endpoint_is_tried_once() -> None:
    observer = RecordingObserver()
    service = Upstream(UpstreamRules("orders", (closed(),)), observer)
    with pytest.raises(Denial, match="upstream_unreachable"):
        await acquire(service)
    assert observer.retries == []


async def test_the_budget_bounds_the_attempts() -> None:
    observer = RecordingObserver()
    rules = UpstreamRules("orders", (closed(), closed()), ejection=Ejection(failures=0))
    service = Upstream(rules, observer)
    for _ in range(100):
        with pytest.raises(Denial, match="upstream_unreachable"):
            await acquire(service)
    assert len(observer.retries) == 30  # 3 a second over 10 seconds: more than a fifth of 100


async def test_without_a_budget_there_are_no_retries(server: RawUpstream) -> None:
    service = upstream(closed(), server.url, retry_budget=0.0, ejection=Ejection(failures=0))
    failed = 0
    for _ in range(30):
        try:
            await exchange(service, fresh=True)
        except Denial:
            failed += 1
    assert failed
    service.close()


# Ejection ------------------------------------------------------------------------------------------


async def test_an_unreachable_endpoint_is_ejected_and_restored(server: RawUpstream) -> None:
    observer = RecordingObserver()
    port = unused_port()
    rules = UpstreamRules(
        "orders", (f"http://127.0.0.1:{port}", server.url), ejection=Ejection(2, base_time=0.2)
    )
    service = Upstream(rules, observer)
    while not service.ejected:
        await exchange(service, fresh=True)
    assert (service.healthy, service.ejected) == (1, 1)
    before = len(observer.retries)
    for _ in range(20):
        await exchange(service, fresh=True)
    assert len(observer.retries) == before
    back = await asyncio.start_server(_answering, "127.0.0.1", port)
    try:
        await asyncio.sleep(0.2)
        bodies = {(await exchange(service, fresh=True)).body for _ in range(40)}
        assert bodies == {b"ok", b"back"}
        assert (service.healthy, service.ejected) == (2, 0)
    finally:
        service.close()
        back.close()


async def _answering(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\nback")
    writer.close()


@pytest.mark.parametrize(
    "answer", [b"", b"SSH-2.0-OpenSSH\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nab"]
)
async def test_an_endpoint_whose_responses_are_broken_is_ejected(server: RawUpstream, answer: bytes) -> None:
    async with RawUpstream() as broken:
        broken.answer(answer, close=True)
        service = upstream(broken.url, server.url, ejection=Ejection(2, base_time=60.0))
        while not service.ejected:
            with suppress(Denial):
                await exchange(service, fresh=True)
        assert len(broken.requests) == 2
        for _ in range(10):
            assert (await exchange(service)).body == b"ok"
        service.close()


async def test_a_500_ejects_no_endpoint(server: RawUpstream) -> None:
    server.answer(b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n")
    service = upstream(server.url, server.url.replace("127.0.0.1", "127.0.0.2"), ejection=Ejection(1))
    await asyncio.gather(*(exchange(service) for _ in range(4)), return_exceptions=True)
    assert not service._choices[0].outlier_detection.ejected(asyncio.get_running_loop().time())
    service.close()


async def test_a_kept_connection_that_closes_when_it_is_used_ejects_no_endpoint(server: RawUpstream) -> None:
    service = upstream(server.url, ejection=Ejection(1))
    for _ in range(3):
        server.answer(OK)
        await exchange(service, fresh=True)
        server.answer(rst=True)
        with pytest.raises(Denial, match="upstream_protocol_error"):
            await exchange(service)
    assert service.ejected == 0


async def test_when_all_are_ejected_the_one_that_failed_longest_ago_is_used() -> None:
    async with ManyUpstreams(2) as many:
        many.servers[0].answer(close=True)
        many.servers[1].answer(close=True)
        service = upstream(*many.urls, ejection=Ejection(1, base_time=60.0))
        for _ in range(2):  # the first failure of each
            with pytest.raises(Denial):
                await exchange(service)
        before = many.requests
        for _ in range(4):
            with pytest.raises(Denial):
                await exchange(service)
        assert [after - first for after, first in zip(many.requests, before, strict=True)] == [2, 2]
        # The first good answer ends the ejection.
        many.servers[0].answer(OK)
        many.servers[1].answer(OK)
        assert (await exchange(service)).body == b"ok"
        assert (service.healthy, service.ejected) == (1, 1)
        service.close()


# Names ---------------------------------------------------------------------------------------------


class FakeDns:
    """Answers look-ups as the test sets it."""

    def __init__(self, *addresses: str) -> None:
        self.addresses: Sequence[str] = addresses
        self.failing = False
        self.asked: list[tuple[str, int]] = []

    def was_asked_since(self, before: int) -> bool:
        """Return whether a look-up that began after `before` others has been answered."""
        return len(self.asked) > before + 2

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        self.asked.append((host, port))
        await asyncio.sleep(0)
        if self.failing:
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return self.addresses


def named(dns: FakeDns, port: int, **rules: Any) -> Upstream:  # noqa: ANN401 -- those of `UpstreamRules`
    return Upstream(UpstreamRules("orders", (f"http://orders.test:{port}",), **rules), resolve=dns)


def addresses(service: Upstream) -> list[str]:
    return [endpoint.address for endpoint in service._choices]


async def test_the_first_requests_share_the_look_up_of_a_name(server: RawUpstream) -> None:
    dns = FakeDns("127.0.0.1")
    service = named(dns, server.port)
    answers = await asyncio.gather(*(exchange(service) for _ in range(10)))
    assert [answer.body for answer in answers] == [b"ok"] * 10
    assert dns.asked == [("orders.test", server.port)]
    service.close()


async def test_each_address_of_a_name_is_an_endpoint(server: RawUpstream) -> None:
    # All of 127/8 is this host. The second address refuses, because the server listens on the first.
    service = named(FakeDns("127.0.0.1", "127.0.0.2"), server.port)
    for _ in range(10):
        assert (await exchange(service, fresh=True)).body == b"ok"
    assert addresses(service) == ["127.0.0.1", "127.0.0.2"]
    service.close()


async def test_a_name_is_looked_up_again(server: RawUpstream) -> None:
    dns = FakeDns("127.0.0.1")
    service = named(dns, server.port, dns_ttl=0.02, keep_alive=60.0)
    service.start()
    await exchange(service)
    assert service.idle == 1
    dns.addresses = ("127.0.0.2", "127.0.0.1")
    await settled(lambda: addresses(service) == ["127.0.0.1", "127.0.0.2"])
    assert service.idle == 1  # an address that stays keeps its connections
    dns.addresses = ("127.0.0.2",)
    await settled(lambda: addresses(service) == ["127.0.0.2"])
    assert service.idle == 0
    await settled(lambda: server.wires[0].ended)
    service.close()


async def test_an_exchange_may_finish_after_its_address_has_gone(server: RawUpstream) -> None:
    dns = FakeDns("127.0.0.1")
    service = named(dns, server.port, dns_ttl=0.02)
    service.start()
    connection = await acquire(service)
    dns.addresses = ("127.0.0.2",)
    await settled(lambda: addresses(service) == ["127.0.0.2"])
    assert connection.transport is not None
    assert service.active == 1
    connection.owner.release(connection)
    assert service.active == 0
    service.close()


async def test_a_look_up_that_fails_keeps_the_addresses(server: RawUpstream) -> None:
    dns = FakeDns("127.0.0.1")
    service = named(dns, server.port, dns_ttl=0.01)
    service.start()
    await exchange(service)
    for wrong in ("failing", "empty"):
        dns.failing, dns.addresses = wrong == "failing", ()
        asked = len(dns.asked)
        await settled(partial(dns.was_asked_since, asked))
        assert addresses(service) == ["127.0.0.1"]
        assert (await exchange(service)).body == b"ok"
    service.close()


async def test_a_name_without_an_address_is_unreachable_until_it_has_one(server: RawUpstream) -> None:
    dns = FakeDns("127.0.0.1")
    dns.failing = True
    service = named(dns, server.port)
    with pytest.raises(Denial, match="upstream_unreachable: looking up orders found no address"):
        await acquire(service)
    dns.failing = False
    assert (await exchange(service)).body == b"ok"
    service.close()


async def test_a_look_up_that_takes_too_long_is_unreachable() -> None:
    async def never(_: str, __: int) -> Sequence[str]:
        await asyncio.Event().wait()
        raise AssertionError

    service = Upstream(UpstreamRules("orders", ("http://orders.test",), connect_timeout=0.05), resolve=never)
    with pytest.raises(Denial, match="upstream_unreachable: looking up orders took too long"):
        await acquire(service)
    service.close()


async def test_the_systems_resolver_is_used(server: RawUpstream) -> None:
    service = upstream(server.url.replace("127.0.0.1", "localhost"))
    for _ in range(5):
        assert (await exchange(service, fresh=True)).body == b"ok"
    service.close()
    with pytest.raises(Denial, match="upstream_unreachable"):
        await acquire(upstream("http://no-such-host.invalid:80"))
