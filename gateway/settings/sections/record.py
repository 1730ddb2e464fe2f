"""The settings of recorded requests."""

from pathlib import Path

from gateway.settings.sections.section import Section
from gateway.settings.values import Share, Size, Timeout, duration, size


class Record(Section):
    """A share of all requests is recorded, without tokens, for `gateway replay` (docs/policy.md)."""

    sample: Share = 0.01
    """The share of requests, from 0 to 1."""
    keep: Timeout = duration("24h")
    """How long a record is kept."""
    directory: Path = Path("gateway-records")
    """Where the files are, which only the gateway's user can read."""
    max_size: Size = size("256MiB")
    """The size of all files together. The oldest are removed first."""
