"""Listening sockets that processes share and pass on."""

import errno
import socket
from contextlib import nullcontext
from pathlib import Path

import pytest

from gateway import sockets


def test_a_second_gateway_on_one_port_is_refused_but_its_own_sockets_share_it() -> None:
    (one,) = sockets.bind(("127.0.0.1", 0))
    host, port = one.getsockname()
    (two,) = sockets.beside([one])
    try:
        assert two.getsockname() == (host, port)
        one.listen()
        told = f"server.listen: 127.0.0.1:{port} cannot be listened on: Address already in use → stop"
        with pytest.raises(OSError, match=told):
            sockets.bind((host, port), "server.listen")
    finally:
        sockets.close([one, two])


def test_a_name_is_bound_at_all_of_its_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = (socket.SOCK_STREAM, socket.IPPROTO_TCP, "")
    found = [
        (socket.AF_INET, *stream, ("127.0.0.1", 0)),
        (socket.AF_INET, *stream, ("127.0.0.2", 0)),
        (socket.AF_INET, *stream, ("127.0.0.1", 0)),
    ]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    bound = sockets.bind(("gateway.test", 0))
    try:
        assert [one.getsockname()[0] for one in bound] == ["127.0.0.1", "127.0.0.2"]
    finally:
        sockets.close(bound)


def test_all_addresses_are_those_of_both_families() -> None:
    bound = sockets.bind(("::", 0))
    port = bound[0].getsockname()[1]
    try:
        assert sockets.url("http", bound) == f"http://[::1]:{port}"
        for one in bound:
            one.listen()
        for host, peer in (("127.0.0.1", "127.0.0.1"), ("::1", "::1")):
            with socket.create_connection((host, port)):
                (taken,) = (taken for one in bound for taken in sockets.take_queue(one))
                with taken:
                    assert taken.getpeername()[0] == peer
        # Neither family is left to another gateway.
        for host in ("0.0.0.0", "127.0.0.1", "::", "::1"):  # noqa: S104 -- on purpose
            with pytest.raises(OSError, match="Address already in use"):
                sockets.bind((host, port))
    finally:
        sockets.close(bound)


@pytest.mark.parametrize(("times", "fits"), [(5, True), (99, False)])
def test_a_free_port_is_free_for_both_families(
    monkeypatch: pytest.MonkeyPatch, times: int, fits: bool
) -> None:
    """The port that the system picks for one may be taken for the other."""
    taken, unpatched = iter(range(times)), socket.socket.bind

    def bind(one: socket.socket, address: tuple[str, int]) -> None:
        if one.family == socket.AF_INET and next(taken, None) is not None:
            raise OSError(errno.EADDRINUSE, "Address already in use")
        unpatched(one, address)

    monkeypatch.setattr(socket.socket, "bind", bind)
    with nullcontext() if fits else pytest.raises(OSError, match="Address already in use"):
        sockets.close(sockets.bind(("::", 0)))


def test_one_family_is_not_bound_when_the_other_is_taken() -> None:
    (taken,) = sockets.bind(("0.0.0.0", 0))  # noqa: S104 -- on purpose
    port = taken.getsockname()[1]
    try:
        taken.listen()
        with pytest.raises(
            OSError, match=rf"listen: :::{port} cannot be listened on: Address already in use"
        ):
            sockets.bind(("::", port), "listen")
    finally:
        taken.close()
    sockets.close(sockets.bind(("::", port)))


def test_connections_that_wait_are_taken_and_new_ones_refused_before_the_socket_closes() -> None:
    (listener,) = sockets.bind(("127.0.0.1", 0))
    address = listener.getsockname()
    listener.listen()
    with socket.create_connection(address) as early:
        sockets.refuse(listener)
        with socket.socket() as late:
            late.settimeout(0.2)
            with pytest.raises(TimeoutError):
                late.connect(address)
        (taken,) = sockets.take_queue(listener)
        listener.close()
        with taken:
            early.sendall(b"served")
            assert taken.recv(16) == b"served"


def test_a_unix_socket_that_is_in_use_stays_and_an_abandoned_one_goes(tmp_path: Path) -> None:
    path = tmp_path / "front.sock"
    (first,) = sockets.bind(path)
    first.listen()
    with pytest.raises(OSError, match=f"unix:{path} cannot be listened on"):
        sockets.bind(path)
    assert sockets.beside([first]) == (first,)

    sockets.close([first])
    assert path.exists()
    (second,) = sockets.bind(path)
    assert sockets.url("http", [second]) == f"unix:{path}"
    sockets.remove(path)
    assert not path.exists()
    sockets.close([second])


def test_a_file_that_is_no_socket_is_not_removed(tmp_path: Path) -> None:
    file = tmp_path / "precious"
    file.write_text("data")

    with pytest.raises(OSError, match="in use"):
        sockets.bind(file)

    assert file.read_text() == "data"


def test_a_host_that_does_not_exist_is_named() -> None:
    with pytest.raises(
        OSError, match=r"^admin.listen: gateway.invalid is not a known host → write an address"
    ):
        sockets.bind(("gateway.invalid", 0), "admin.listen")


def test_an_address_of_another_machine_is_named() -> None:
    told = r"^the address: 192.0.2.1:0 cannot be listened on: .* → write an address of this machine"
    with pytest.raises(OSError, match=told):
        sockets.bind(("192.0.2.1", 0))


def test_urls_reach_a_socket_that_listens_everywhere() -> None:
    for host, expected in (("0.0.0.0", "127.0.0.1"), ("127.0.0.1", "127.0.0.1")):  # noqa: S104 -- on purpose
        (one,) = sockets.bind((host, 0))
        assert sockets.url("https", [one]) == f"https://{expected}:{one.getsockname()[1]}"
        sockets.close([one])
