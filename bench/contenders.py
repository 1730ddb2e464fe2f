"""Who is measured: the gateway and its peers, each told to do the same as far as it can.

All forward over kept connections to the same upstream and drop the token. nginx checks nothing: it
is what forwarding alone costs. HAProxy verifies signature, algorithm, issuer, audience and expiry
of every token anew. Envoy does so too, or remembers verified tokens when it has its cache.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from bench.gateways import Gateway
from bench.processes import HOST, Process, Refused, free_port, status
from bench.programs import PROGRAMS, path_of
from bench.runs import Contender
from bench.stage import USERS, Stage
from bench.tokens import AUDIENCE, ISSUER

NGINX: Final = "nginx, no auth"
GATEWAY: Final = "gateway"
GATEWAY_NEW_HEADS: Final = "gateway, every head its own"
HAPROXY: Final = "HAProxy"
ENVOY_CACHED: Final = "Envoy, token cache"
ENVOY: Final = "Envoy, no cache"

_NGINX: Final = """\
daemon off;
worker_processes 1;
pid {folder}/nginx-{port}.pid;
error_log stderr;
events {{ worker_connections 8192; }}
http {{
  access_log off;
  keepalive_requests 1000000000;
  keepalive_timeout 1h;
  client_max_body_size 0;
  client_body_temp_path {folder}/nginx-body;
  proxy_temp_path {folder}/nginx-proxy;
  fastcgi_temp_path {folder}/nginx-fastcgi;
  uwsgi_temp_path {folder}/nginx-uwsgi;
  scgi_temp_path {folder}/nginx-scgi;
  upstream service {{
    server {host}:{upstream};
    keepalive 256;
    keepalive_requests 1000000000;
  }}
  server {{
    listen {host}:{port} backlog=4096;
    location / {{
      proxy_pass http://service;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_set_header Authorization "";
      proxy_request_buffering off;
      proxy_max_temp_file_size 0;
    }}
  }}
}}
"""

_HAPROXY: Final = """\
global
  nbthread 1
  maxconn 8192
defaults
  mode http
  option http-keep-alive
  http-reuse always
  timeout connect 5s
  timeout client 1m
  timeout server 1m
frontend front
  bind {host}:{port}
  http-request set-var(txn.token) http_auth_bearer
  http-request set-var(txn.alg) var(txn.token),jwt_header_query('$.alg')
  http-request set-var(txn.exp) var(txn.token),jwt_payload_query('$.exp','int')
  http-request set-var(txn.now) date()
  http-request deny deny_status 401 unless {{ var(txn.alg) -m str RS256 }}
  http-request deny deny_status 401 unless {{ var(txn.token),jwt_payload_query('$.iss') -m str {issuer} }}
  http-request deny deny_status 401 unless {{ var(txn.token),jwt_payload_query('$.aud') -m str {audience} }}
  http-request deny deny_status 401 unless {{ var(txn.exp),sub(txn.now) -m int gt 0 }}
  http-request deny deny_status 401 unless {{ var(txn.token),jwt_verify(txn.alg,"{pem}") -m int 1 }}
  http-request del-header Authorization
  default_backend service
backend service
  server one {host}:{upstream}
"""

_ENVOY: Final = """\
static_resources:
  listeners:
  - address: {{socket_address: {{address: {host}, port_value: {port}}}}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: front
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes: [{{match: {{prefix: /}}, route: {{cluster: service}}}}]
          http_filters:
          - name: envoy.filters.http.jwt_authn
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication
              providers:
                bench:
                  issuer: {issuer}
                  audiences: [{audience}]
                  local_jwks: {{filename: {jwks}}}
{cache}
              rules: [{{match: {{prefix: /}}, requires: {{provider_name: bench}}}}]
          - name: envoy.filters.http.router
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
  clusters:
  - name: service
    type: STATIC
    load_assignment:
      cluster_name: service
      endpoints:
      - lb_endpoints:
        - endpoint: {{address: {{socket_address: {{address: {host}, port_value: {upstream}}}}}}}
"""  # noqa: E501 -- the names of Envoy's types


@dataclass(frozen=True, slots=True)
class Missing:
    """A proxy that is not installed."""

    title: str
    program: str

    def __str__(self) -> str:
        program = PROGRAMS[self.program]
        return f"{self.title}: skipped, {program.title} is not installed; {program.source} brings it"


@contextmanager
def contenders(stage: Stage) -> Iterator[tuple[list[Contender], list[Missing]]]:
    """Start everyone who is installed, and see that each lets in and keeps out whom it should.

    Raises Refused when one does not start, or does not do its job.
    """
    with ExitStack() as stack:
        running, missing = [], []
        for title, new_heads in ((GATEWAY, False), (GATEWAY_NEW_HEADS, True)):
            gateway = Gateway(stage, upstream=stage.upstream)
            process = stack.enter_context(gateway.start())
            running.append(Contender(title, gateway.port, process, gateway, new_heads))
        peers: list[tuple[str, str, Callable[[Stage, int, str], Process]]] = [
            (NGINX, "nginx", partial(start_nginx, upstream=stage.upstream)),
            (HAPROXY, "haproxy", _start_haproxy),
            (ENVOY_CACHED, "envoy", partial(start_envoy, cached=True)),
            (ENVOY, "envoy", partial(start_envoy, cached=False)),
        ]
        for title, name, start in peers:
            program = path_of(name)
            if program is None:
                missing.append(Missing(title, name))
                continue
            port = free_port()
            running.append(Contender(title, port, stack.enter_context(start(stage, port, program))))
        for contender in running:
            contender.process.until(partial(serves, contender.port, stage.people.tokens[0]))
            _examine(contender, stage)
        yield running, missing


def start_nginx(stage: Stage, port: int, program: str, *, upstream: int) -> Process:
    """Start an nginx that forwards, without looking at tokens."""
    configuration = _NGINX.format(folder=stage.folder, host=HOST, port=port, upstream=upstream)
    file = _written(stage, f"nginx-{port}.conf", configuration)
    return stage.run(f"nginx-{port}", program, "-p", stage.folder, "-c", file)


def _start_haproxy(stage: Stage, port: int, program: str) -> Process:
    configuration = _HAPROXY.format(
        host=HOST, port=port, upstream=stage.upstream, pem=stage.pem_file, issuer=ISSUER, audience=AUDIENCE
    )
    return stage.run("haproxy", program, "-db", "-f", _written(stage, "haproxy.cfg", configuration))


def start_envoy(stage: Stage, port: int, program: str, *, cached: bool) -> Process:
    """Start an Envoy that verifies every token anew, or remembers those that it has verified."""
    name = "envoy-cached" if cached else "envoy"
    # Room for every token: the cache's own default is 100.
    cache = f"                  jwt_cache_config: {{jwt_cache_size: {2 * USERS}}}" if cached else ""
    configuration = _ENVOY.format(
        host=HOST, port=port, upstream=stage.upstream, jwks=stage.people.jwks_file,
        issuer=ISSUER, audience=AUDIENCE, cache=cache,
    )  # fmt: skip
    file = _written(stage, f"{name}.yaml", configuration)
    return stage.run(
        name, program, "-c", file, "--concurrency", "1", "--disable-hot-restart", "--log-level", "warning"
    )


def _written(stage: Stage, name: str, content: str) -> Path:
    path = stage.folder / name
    path.write_text(content)
    return path


def serves(port: int, token: str) -> bool:
    """Whether a proxy lets a token in."""
    return status(port, token=token) == 200


def _examine(contender: Contender, stage: Stage) -> None:
    if contender.title == NGINX:
        return
    for what, token in (("no token", None), ("a forged token", stage.forged)):
        answer = status(contender.port, token=token)
        if answer != 401:
            raise Refused(f"{contender.title} answered a request with {what} with {answer}, not 401")
