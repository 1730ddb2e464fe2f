import socket
from pathlib import Path

from gateway.workers.notify import Notifier


def test_an_abstract_address_is_reached() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("")  # the kernel picks an abstract name
        name = manager.getsockname().decode()

        Notifier({"NOTIFY_SOCKET": "@" + name[1:]}).stopping()

        assert manager.recv(4096).startswith(b"STOPPING=1\n")


def test_systemd_need_not_listen(tmp_path: Path) -> None:
    Notifier({}).ready("serving")
    Notifier({"NOTIFY_SOCKET": str(tmp_path / "gone")}).ready("serving")
