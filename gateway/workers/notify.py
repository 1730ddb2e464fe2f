"""Telling systemd how the service is (sd_notify(3)): datagrams to the socket that NOTIFY_SOCKET names."""

import os
import socket
import time
from collections.abc import Mapping


class Notifier:
    """Sends the state of the service to systemd; silent when systemd did not ask for it."""

    def __init__(self, env: Mapping[str, str] = os.environ) -> None:
        name = env.get("NOTIFY_SOCKET", "")
        # A leading @ stands for the NUL of an abstract address.
        self._address = "\0" + name[1:] if name.startswith("@") else name

    def ready(self, status: str) -> None:
        """Say that the service serves, after its start or a reload."""
        self._send(f"READY=1\nMAINPID={os.getpid()}\nSTATUS={status}")

    def reloading(self) -> None:
        # CLOCK_MONOTONIC in microseconds, so that systemd tells this reload from an earlier one.
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}\nSTATUS=reloading")

    def stopping(self) -> None:
        self._send("STOPPING=1\nSTATUS=finishing what is in flight")

    def _send(self, state: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as notify:
                notify.sendto(state.encode(), self._address)
        except OSError:
            # The service manager's trouble is no reason for ours.
            return
