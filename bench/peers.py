"""The proxies beside the gateway, with configurations as similar as possible.

All forward over kept connections to the same upstream and drop the token. nginx checks nothing, so it shows
the cost of forwarding alone. HAProxy, and nginx with a JWT module, verify signature, algorithm, issuer,
audience and expiry of every token again. Envoy does so too; with its cache, it remembers verified tokens.

With a certificate, their clients speak TLS.
"""

from pathlib import Path
from typing import Final

from bench.certificates import Certificate
from bench.processes import HOST, Process
from bench.stage import USERS, Stage
from bench.tokens import AUDIENCE, ISSUER

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
    listen {host}:{port} backlog=4096{listen};
{server}
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

_NGINX_TLS: Final = """\
    ssl_certificate {certificate.chain};
    ssl_certificate_key {certificate.key};
    ssl_session_tickets on;
    ssl_conf_command Options KTLS;
"""
_NGINX_JWT: Final = """\
    auth_jwt "bench";
    auth_jwt_key_file {jwks};
    auth_jwt_require_header alg eq json="RS256";
    auth_jwt_require_claim iss eq json="{issuer}";
    auth_jwt_require_claim aud eq json="{audience}";
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
  bind {host}:{port}{bind}
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
    - {transport}filters:
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


_ENVOY_TLS: Final = """\
transport_socket:
        name: envoy.transport_sockets.tls
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
          common_tls_context:
            tls_certificates:
            - certificate_chain: {{filename: {certificate.chain}}}
              private_key: {{filename: {certificate.key}}}
      """


def start_nginx(
    stage: Stage,
    port: int,
    program: str,
    *,
    upstream: int | None = None,
    certificate: Certificate | None = None,
    jwt: bool = False,
) -> Process:
    """Start an nginx that forwards. `jwt`: it verifies tokens with the module of the wheel."""
    server = "" if certificate is None else _NGINX_TLS.format(certificate=certificate)
    if jwt:
        server += _NGINX_JWT.format(jwks=stage.people.jwks_file, issuer=ISSUER, audience=AUDIENCE)
    configuration = _NGINX.format(
        folder=stage.folder, host=HOST, port=port, upstream=upstream or stage.upstream, server=server,
        listen="" if certificate is None else " ssl",
    )  # fmt: skip
    file = _written(stage, f"nginx-{port}.conf", configuration)
    return stage.run(f"nginx-{port}", program, "-p", stage.folder, "-c", file)


def start_haproxy(
    stage: Stage, port: int, program: str, *, certificate: Certificate | None = None
) -> Process:
    """Start an HAProxy that verifies every token again."""
    configuration = _HAPROXY.format(
        host=HOST, port=port, upstream=stage.upstream, pem=stage.pem_file, issuer=ISSUER, audience=AUDIENCE,
        bind="" if certificate is None else f" ssl crt {certificate.both}",
    )  # fmt: skip
    name = f"haproxy-{port}"
    return stage.run(name, program, "-db", "-f", _written(stage, f"{name}.cfg", configuration))


def start_envoy(
    stage: Stage, port: int, program: str, *, cached: bool, certificate: Certificate | None = None
) -> Process:
    """Start an Envoy that verifies every token again, or remembers the verified ones."""
    name = f"envoy-{port}"
    # Large enough for every token: the default is 100.
    cache = f"                  jwt_cache_config: {{jwt_cache_size: {2 * USERS}}}" if cached else ""
    configuration = _ENVOY.format(
        host=HOST, port=port, upstream=stage.upstream, jwks=stage.people.jwks_file,
        issuer=ISSUER, audience=AUDIENCE, cache=cache,
        transport="" if certificate is None else _ENVOY_TLS.format(certificate=certificate),
    )  # fmt: skip
    file = _written(stage, f"{name}.yaml", configuration)
    return stage.run(
        name, program, "-c", file, "--concurrency", "1", "--disable-hot-restart", "--log-level", "warning"
    )


def _written(stage: Stage, name: str, content: str) -> Path:
    path = stage.folder / name
    path.write_text(content)
    return path
