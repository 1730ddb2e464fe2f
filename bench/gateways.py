"""The gateway as it is run: the `gateway run` process, its configuration, and how to wait for it."""

from pathlib import Path
from typing import Final

from bench.processes import HOST, Process, free_port, python, status
from bench.stage import EMPTY_SCHEMA, Stage
from bench.tokens import AUDIENCE, ISSUER
from gateway.core.model import JSON
from gateway.demo.configuration import write

STUBBED_TITLE: Final = "gateway, users in a dict"


class Gateway:
    """A gateway of a stage; `start` may be called again once the process has ended.

    With `stubbed`, users come from a dict inside the process (bench/stubbed.py). Its stores are up,
    and know none of the users: should the stub not be in place, nothing would pass.
    """

    def __init__(self, stage: Stage, *, upstream: int, workers: int = 1, stubbed: bool = False) -> None:
        self.port = free_port()
        self.admin_port = free_port()
        self.config = stage.folder / f"gateway-{self.port}.yaml"
        self._stage = stage
        self._stubbed = stubbed
        self._upstream = upstream
        self.configure(workers=workers)

    def configure(self, *, workers: int) -> None:
        """Write the configuration file."""
        stage = self._stage
        content: dict[str, JSON] = {
            "server": {"listen": f"{HOST}:{self.port}", "workers": workers},
            "admin": {"listen": f"{HOST}:{self.admin_port}"},
            "issuers": [
                {
                    "name": "bench",
                    "issuer": ISSUER,
                    "audiences": [AUDIENCE],
                    "algorithms": ["RS256"],
                    "keys": {"jwks_file": str(stage.jwks_file)},
                }
            ],
            "postgres": {"dsn": stage.postgres, "schema": EMPTY_SCHEMA if self._stubbed else "public"},
            "redis": {"url": stage.redis, "prefix": "stubbed:" if self._stubbed else "gateway:"},
            "upstreams": {"service": {"urls": [f"http://{HOST}:{self._upstream}"]}},
            "routes": [{"name": "all", "match": {"path": "/**"}, "upstream": "service"}],
        }
        write(self.config, content)

    @property
    def command(self) -> tuple[str | Path, ...]:
        if self._stubbed:
            return python("bench.stubbed", "run", "--config", self.config)
        return python("gateway", "run", "--config", self.config)

    @property
    def ready(self) -> bool:
        """Whether it says that it takes requests and has all that it needs."""
        return status(self.admin_port, "/readyz") == 200

    def start(self) -> Process:
        return self._stage.run(f"gateway-{self.port}", *self.command)
