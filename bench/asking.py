"""Proxies that ask the gateway for decisions, with the examples of `deploy/front-doors`."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.processes import HOST, Process
from bench.stage import Stage

_EXAMPLES: Final = Path(__file__).parent.parent / "deploy" / "front-doors"
# As for the other proxies: no log of requests, connections that stay, and files in a folder of ours.
_HTTP: Final = """\
http {{
  access_log off;
  keepalive_requests 1000000000;
  keepalive_timeout 1h;
  client_body_temp_path {folder}/asking-body;
  proxy_temp_path {folder}/asking-proxy;
  fastcgi_temp_path {folder}/asking-fastcgi;
  uwsgi_temp_path {folder}/asking-uwsgi;
  scgi_temp_path {folder}/asking-scgi;"""


@dataclass(frozen=True, slots=True)
class Together:
    """A proxy and the gateway that it asks: their costs are added."""

    front: Process
    gateway: Process

    @property
    def cpu_seconds(self) -> float:
        return self.front.cpu_seconds + self.gateway.cpu_seconds

    @property
    def user_seconds(self) -> float:
        return self.front.user_seconds + self.gateway.user_seconds

    def until(self, ready: Callable[[], bool]) -> None:
        self.front.until(ready)

    @property
    def resident_bytes(self) -> int:
        return self.front.resident_bytes + self.gateway.resident_bytes


def start_nginx(stage: Stage, port: int, program: str, decision: int) -> Process:
    """Start an nginx that asks at the port `decision` with `auth_request`."""
    text = (_EXAMPLES / "nginx" / "nginx.conf").read_text(encoding="utf-8")
    text = text.replace("http {", _HTTP.format(folder=stage.folder), 1)
    text = text.replace("keepalive 64;", "keepalive 256;\n    keepalive_requests 1000000000;")
    text = text.replace("listen 8080", f"listen {HOST}:{port} backlog=4096")
    text = text.replace("gateway:8081", f"{HOST}:{decision}").replace(
        "service:9000", f"{HOST}:{stage.upstream}"
    )
    text = text.replace("events {}", "events { worker_connections 8192; }")
    file = stage.folder / f"asking-{port}.conf"
    file.write_text(text)
    settings = f"daemon off; worker_processes 1; pid {stage.folder}/asking-{port}.pid; error_log stderr;"
    return stage.run(
        f"asking-{port}", program, "-p", stage.folder, "-e", "stderr", "-g", settings, "-c", file
    )


def start_envoy(stage: Stage, port: int, program: str, decision: int, *, grpc: bool) -> Process:
    """Start an Envoy that asks at the port `decision`, by gRPC or over HTTP."""
    text = (_EXAMPLES / "envoy" / ("grpc.yaml" if grpc else "http.yaml")).read_text(encoding="utf-8")
    for name, own, new in (
        ("gateway", 8082 if grpc else 8081, decision),
        ("service", 9000, stage.upstream),
        ("0.0.0.0", 8080, port),  # noqa: S104 -- replaced
    ):
        text = text.replace(f"address: {name}, port_value: {own}", f"address: {HOST}, port_value: {new}")
    file = stage.folder / f"asking-{port}.yaml"
    file.write_text(text)
    flags = ("--concurrency", "1", "--disable-hot-restart", "--log-level", "warning")
    return stage.run(f"asking-{port}", program, "-c", file, *flags)
