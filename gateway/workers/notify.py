"""Reports the state of the service to systemd (sd_notify(3)): datagrams to the socket NOTIFY_SOCKET."""

import os
import socket
import time
from collections.abc import Mapping


class Notifier:
    """Sends the state of the service to systemd, if systemd has asked for it."""

    def __init__(self, env: Mapping[str, str] = os.environ) -> None:
        name = env.get("NOTIFY_SOCKET", "")
        # A leading @ stands for the NUL of an abstract address.
        self._address = "\0" + name[1:] if name.startswith("@") else name

    def ready(self, status: str) -> None:
        """Report that the service serves, after its start or a reload."""
        self._send(f"READY=1\nMAINPID={os.getpid()}\nSTATUS={status}")

    def reloading(self) -> None:
        # CLOCK_MONOTONIC in microseconds, so that systemd tells this reload from an earlier one.
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}\nSTATUS=reloading")

    def stopping(self) -> None:
        self._send("STOPPING=1\nSTATUS=finishing the requests in flight")

    def _send(self, state: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as notify:
                notify.sendto(state.encode(), self._address)
        except OSError:
            # A failure of the service manager must not stop the gateway.
            return
