"""The real gateway: the process `gateway run`, its configuration and its metrics."""

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from http.client import HTTPConnection, HTTPException
from typing import Final

from prometheus_client.parser import text_string_to_metric_families

from bench.certificates import Certificate
from bench.population import Population
from bench.processes import HOST, Process, Refused, free_port, python, status
from bench.sockets import listens
from bench.stage import Stage
from bench.tokens import AUDIENCE, ISSUER, ISSUER_NAME
from gateway.core.model import JSON
from gateway.demo.configuration import write

PREFIX: Final = "gateway:"
"""The default prefix of all keys in Redis."""
_WORKERS_SECONDS: Final = 5.0
_REQUESTS_PER_CONNECTION: Final = 1_000_000_000
"""The same as for the peers: no connection may end in the middle of a measurement."""


class Gateway:
    """A gateway of a stage. `start` may be called again once the process has ended.

    `people` are its users, by default those of the stage. Gateways with the same `prefix` share the data in
    Redis. `local_ttl` None means the default of the setting. With a `certificate`, clients speak TLS.
    `postgres` is another database than that of the stage, `source` is `users.source`. `decides`: other
    proxies may ask. `condition` is what the route requires in CEL, `limits` are those of the configuration.
    `variables` are added to its environment.
    """

    def __init__(
        self,
        stage: Stage,
        *,
        upstream: int,
        workers: int = 1,
        people: Population | None = None,
        prefix: str = PREFIX,
        local_ttl: str | None = None,
        certificate: Certificate | None = None,
        postgres: str | None = None,
        source: Mapping[str, JSON] | None = None,
        decides: bool = False,
        condition: str | None = None,
        limits: Sequence[JSON] = (),
        variables: Mapping[str, str] | None = None,
    ) -> None:
        self._variables = variables
        self.port = free_port()
        self.admin_port = free_port()
        self.decision_port = free_port() if decides else 0
        self.grpc_port = free_port() if decides else 0
        self.config = stage.folder / f"gateway-{self.port}.yaml"
        self._stage = stage
        self._workers = workers
        people = people or stage.people
        content: dict[str, JSON] = {
            "server": {
                "listen": f"{HOST}:{self.port}",
                "workers": workers,
                "limits": {"keepalive_requests": _REQUESTS_PER_CONNECTION},
                "tls": {}
                if certificate is None
                else {"certificate": str(certificate.chain), "key": str(certificate.key)},
            },
            "admin": {"listen": f"{HOST}:{self.admin_port}"},
            "issuers": [
                {
                    "name": ISSUER_NAME,
                    "issuer": ISSUER,
                    "audiences": [AUDIENCE],
                    "algorithms": [people.algorithm],
                    "keys": {"jwks_file": str(people.jwks_file)},
                }
            ],
            "postgres": {"dsn": postgres or stage.postgres, "schema": people.schema},
            **({} if source is None else {"users": {"source": dict(source)}}),
            "redis": {"url": stage.redis, "prefix": prefix},
            "cache": {} if local_ttl is None else {"local_ttl": local_ttl},
            "upstreams": {"service": {"urls": [f"http://{HOST}:{upstream}"]}},
            "routes": [
                {
                    "name": "all",
                    "match": {"path": "/**"},
                    "upstream": "service",
                    **({} if condition is None else {"require": {"condition": condition}}),
                }
            ],
            **({"limits": list(limits)} if limits else {}),
        }
        if decides:
            content["decision"] = {
                "listen": f"{HOST}:{self.decision_port}",
                "grpc_listen": f"{HOST}:{self.grpc_port}",
                "trusted_proxies": [f"{HOST}/32"],
            }
        write(self.config, content)

    @property
    def ready(self) -> bool:
        """Whether `/readyz` reports that it is ready."""
        return status(self.admin_port, "/readyz") == 200

    @property
    def lookups(self) -> Counter[str]:
        """The number of look-ups of users that each tier has answered so far. Raises Refused."""
        counted: Counter[str] = Counter()
        for labels, value in self._samples("gateway_user_lookups_total"):
            counted[labels["tier"]] += int(value)
        return counted

    @property
    def entries(self) -> Mapping[str, int]:
        """The number of entries in each of its caches. Raises Refused."""
        return {labels["cache"]: int(value) for labels, value in self._samples("gateway_cache_entries")}

    def workers(self, process: Process) -> frozenset[int]:
        """Return the process ids of its workers once all listen. Raises Refused when some do not."""
        deadline = time.monotonic() + _WORKERS_SECONDS
        while True:
            workers = frozenset(pid for pid in process.children if listens(pid, self.port))
            if len(workers) == self._workers:
                return workers
            if time.monotonic() > deadline:
                raise Refused(f"{len(workers)} of {self._workers} workers listen")
            time.sleep(0.05)

    def start(self, *, cores: frozenset[int] | None = None) -> Process:
        """Start it, by default on the proxy's core."""
        command = python("gateway", "run", "--config", self.config)
        return self._stage.run(f"gateway-{self.port}", *command, cores=cores, variables=self._variables)

    def _samples(self, name: str) -> Iterator[tuple[Mapping[str, str], float]]:
        connection = HTTPConnection(HOST, self.admin_port, timeout=5)
        try:
            connection.request("GET", "/metrics")
            text = connection.getresponse().read().decode()
        except (OSError, HTTPException) as error:
            raise Refused(f"the gateway does not report its metrics: {error!r}") from error
        finally:
            connection.close()
        for family in text_string_to_metric_families(text):
            yield from ((sample.labels, sample.value) for sample in family.samples if sample.name == name)


def share(lookups: Counter[str], tier: str) -> float:
    """Return the share of the look-ups that a tier answered; 0 if there were none."""
    return lookups[tier] / lookups.total() if lookups else 0.0
