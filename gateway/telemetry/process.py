"""The usual metrics of a process, by the names that Prometheus's client libraries give them.

They are read from /proc at each scrape. Where there is no /proc, there are none.
"""

import os
import time
from pathlib import Path
from typing import Final

from gateway.telemetry.series import Counter, Gauge

_STAT: Final = Path("/proc/self/stat")
_FILES: Final = Path("/proc/self/fd")


class ProcessMetrics:
    """CPU time, memory and open files. Several processes are added up; the start is that of the oldest."""

    def __init__(self) -> None:
        self.cpu = Counter("process_cpu_seconds", "CPU time, user and system.")
        self.resident_memory = Gauge(
            "process_resident_memory_bytes", "Memory in use. Workers share a part, which counts for each."
        )
        self.virtual_memory = Gauge("process_virtual_memory_bytes", "Virtual memory.")
        self.open_files = Gauge("process_open_fds", "Open file descriptors.")
        self.max_files = Gauge(
            "process_max_fds", "File descriptors that one process may open.", together="min"
        )
        self.started = Gauge("process_start_time_seconds", "When the oldest process started.", together="min")

    def read(self) -> None:
        """Take the present values."""
        try:
            # The name of the program is in brackets, and may have spaces.
            fields = _STAT.read_text(encoding="utf-8").rpartition(")")[2].split()
            open_files = sum(1 for _ in _FILES.iterdir())
        except OSError:
            return
        ticks = os.sysconf("SC_CLK_TCK")
        self.cpu.values[()] = (int(fields[11]) + int(fields[12])) / ticks
        self.virtual_memory.values[()] = float(fields[20])
        self.resident_memory.values[()] = float(fields[21]) * os.sysconf("SC_PAGE_SIZE")
        self.open_files.values[()] = float(open_files)
        self.max_files.values[()] = float(os.sysconf("SC_OPEN_MAX"))
        self.started.values.setdefault((), time.time() - _uptime() + int(fields[19]) / ticks)


def _uptime() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)
