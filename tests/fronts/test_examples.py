"""The examples name every identity header, and those for Kubernetes can be read."""

import re
from pathlib import Path

import pytest
import yaml

from gateway import translation
from gateway.core.headers import STRIPPED
from gateway.settings import Settings
from tests.fronts.programs import EXAMPLES
from tests.settings.test_settings import BASE

_FILES = (
    "nginx/nginx.conf", "traefik/dynamic.yaml", "caddy/Caddyfile", "haproxy/gateway.lua", "envoy/http.yaml",
    "kubernetes/ingress-nginx.yaml", "kubernetes/gateway-api.yaml",
)  # fmt: skip
"""Where each front is told which headers to set."""


@pytest.mark.parametrize("name", _FILES)
def test_an_example_sets_every_identity_header_of_the_defaults(name: str) -> None:
    policy = translation.headers(Settings.model_validate(yaml.safe_load(BASE)))
    text = (EXAMPLES / name).read_text(encoding="utf-8").lower()
    for header in policy.told_names:
        assert re.search(rf"{header.decode().lower()}\b", text), header


_REMOVED_IN = {"haproxy/gateway.lua": "haproxy/haproxy.cfg"}


# ingress-nginx has annotations that set headers, and none that remove them.
@pytest.mark.parametrize("name", [name for name in _FILES if "ingress" not in name])
def test_an_example_removes_what_is_stripped_by_default(name: str) -> None:
    text = (EXAMPLES / _REMOVED_IN.get(name, name)).read_text(encoding="utf-8").lower()
    for header in STRIPPED:
        assert re.search(rf"(?<![a-z]-)(?<![a-z]){header.lower()}\b", text), header


def test_every_example_is_driven_or_listed() -> None:
    there = {str(path.relative_to(EXAMPLES)) for path in EXAMPLES.rglob("*") if path.is_file()}
    # By gRPC, the gateway tells Envoy which headers to set.
    assert there - {*_FILES} == {"traefik/traefik.yaml", "haproxy/haproxy.cfg", "envoy/grpc.yaml"}


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("kubernetes/*.yaml")), ids=lambda path: path.name)
def test_the_objects_of_kubernetes_have_a_kind_and_a_name(path: Path) -> None:
    objects = list(yaml.safe_load_all(path.read_text(encoding="utf-8")))
    assert objects
    for each in objects:
        assert each["apiVersion"]
        assert each["kind"]
        assert each["metadata"]["name"]
