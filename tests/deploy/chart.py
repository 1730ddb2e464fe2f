"""The chart with many values: what Helm renders of each, as objects."""

import json
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

import yaml

ROOT: Final = Path(__file__).parent.parent.parent
CHART: Final = ROOT / "deploy" / "helm" / "gateway"
Values: TypeAlias = dict[str, Any]
"""Values of the chart, or a part of a Kubernetes object: YAML."""

CONFIG: Final[Values] = {
    "issuers": [{"name": "main", "issuer": "https://idp.example.com/", "audiences": ["orders-api"]}],
    "upstreams": {"orders": {"urls": ["http://orders.shop.svc:8000"]}},
    "routes": [{"name": "orders", "match": {"path": "/orders/**"}, "upstream": "orders"}],
}
BASE: Final[Values] = {"existingSecret": "gateway", "config": CONFIG}
_PEER: Final[Values] = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}

GOOD: Final[dict[str, Values]] = {
    "base": {},
    "without a Secret": {
        "existingSecret": "",
        "config": {"postgres": {"dsn": "postgresql://gateway@db/gateway"}, "redis": {"url": "redis://redis"}},
    },
    "DSN by extraEnv": {
        "existingSecret": "",
        "extraEnv": [
            {
                "name": "GATEWAY_POSTGRES__DSN",
                "valueFrom": {"secretKeyRef": {"name": "db-app", "key": "uri"}},
            },
            {"name": "GATEWAY_REDIS__URL", "value": "redis://redis:6379/0"},
        ],
    },
    "password by ${NAME}": {
        "existingSecret": "",
        "config": {
            "postgres": {"dsn": "postgresql://gateway:${PASSWORD}@db/gateway"},
            "redis": {"url": "redis://redis?password=${PASSWORD}"},
        },
        "extraEnv": [{"name": "PASSWORD", "valueFrom": {"secretKeyRef": {"name": "db", "key": "password"}}}],
    },
    "all keys of the Secret": {
        "secretKeys": {
            "postgresDsn": "dsn",
            "redisUrl": "url",
            "adminToken": "token",
            "migrationDsn": "owner",
        }
    },
    "TLS": {"tls": {"existingSecret": "gateway-tls"}, "service": {"port": 443}},
    "decisions": {
        "decision": {"enabled": True, "grpc": True},
        "config": {"decision": {"trusted_proxies": ["10.0.0.0/8"]}},
    },
    "autoscaling": {
        "autoscaling": {
            "enabled": True,
            "targetMemoryUtilizationPercentage": 80,
            "metrics": [
                {
                    "type": "Pods",
                    "pods": {
                        "metric": {"name": "x"},
                        "target": {"type": "AverageValue", "averageValue": "1"},
                    },
                }
            ],
            "behavior": {"scaleDown": {"stabilizationWindowSeconds": 600}},
        }
    },
    "budget of a number": {"deployment": {"replicas": 3}, "podDisruptionBudget": {"minAvailable": 2}},
    "budget of a percentage": {"podDisruptionBudget": {"minAvailable": "50%"}},
    "one replica": {"deployment": {"replicas": 1}, "podDisruptionBudget": {"maxUnavailable": 1}},
    "no budget": {"podDisruptionBudget": {"enabled": False}, "deployment": {"replicas": 1}},
    "no pods": {"deployment": {"replicas": 0}},
    "long drain": {"shutdown": {"preStopSeconds": 5, "delaySeconds": 20, "drainSeconds": 300}},
    "long grace": {"deployment": {"terminationGracePeriodSeconds": 600}},
    "restart": {"reload": "restart"},
    "load balancer": {
        "service": {
            "type": "LoadBalancer",
            "loadBalancerClass": "internal",
            "loadBalancerSourceRanges": ["10.0.0.0/8"],
            "externalTrafficPolicy": "Local",
            "annotations": {"a": "b"},
            "labels": {"c": "d"},
        }
    },
    "ingress": {
        "ingress": {
            "enabled": True,
            "className": "nginx",
            "annotations": {"a": "b"},
            "hosts": [
                {"host": "api.example.com"},
                {"host": "b.example.com", "paths": [{"path": "/x", "pathType": "Exact"}]},
            ],
            "tls": [{"hosts": ["api.example.com"], "secretName": "api-tls"}],
        }
    },
    "route": {
        "httpRoute": {
            "enabled": True,
            "parentRefs": [{"name": "front", "namespace": "edge", "sectionName": "https"}],
            "hostnames": ["api.example.com"],
        }
    },
    "network policy": {
        "networkPolicy": {
            "enabled": True,
            "clients": [_PEER],
            "fronts": [_PEER],
            "monitoring": [_PEER],
            "restrictEgress": True,
            "egress": [{"to": [_PEER], "ports": [{"port": 5432, "protocol": "TCP"}]}],
        },
        "decision": {"enabled": True},
        "config": {"decision": {"trusted_proxies": ["10.0.0.0/8"]}},
    },
    "network policy without monitoring": {"networkPolicy": {"enabled": True}},
    "Prometheus and Grafana": {
        "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}, "namespace": "monitoring"},
        "prometheusRule": {
            "enabled": True,
            "labels": {"release": "prometheus"},
            "runbookUrl": "https://wiki.example.com/gateway",
        },
        "dashboard": {"enabled": True, "namespace": "monitoring"},
    },
    "no migrations": {"migrations": {"enabled": False}},
    "an account that exists": {
        "serviceAccount": {"create": False, "name": "gateway-app", "automountToken": True}
    },
    "names": {
        "nameOverride": "door",
        "fullnameOverride": "a" * 60,
        "commonLabels": {"team": "edge"},
        "deployment": {"podLabels": {"team": "front"}, "labels": {"team": "front"}},
        "image": {"repository": "registry.example.com:5000/team/gateway", "tag": "0.1.0-" + "b" * 56 + "_x"},
    },
    "annotations of the chart": {
        "deployment": {"podAnnotations": {"kubectl.kubernetes.io/default-container": "proxy"}},
        "migrations": {"annotations": {"helm.sh/hook-weight": "1"}},
    },
    "ingress and route": {
        "ingress": {"enabled": True, "hosts": [{"host": ""}, {"host": "*.example.com"}]},
        "httpRoute": {"enabled": True, "parentRefs": [{"name": "front"}]},
        "tls": {"existingSecret": "gateway-tls"},
    },
    "image by digest": {
        "image": {"repository": "registry.example.com/gateway", "digest": "sha256:" + "0" * 64}
    },
    "IPv6": {"listenAddress": "[::]", "ports": {"http": 9000, "admin": 9902}},
    "extras": {
        "extraEnv": [{"name": "OTEL_SERVICE_NAME", "value": "gateway"}],
        "extraEnvFrom": [{"configMapRef": {"name": "more"}}],
        "extraVolumes": [{"name": "ca", "configMap": {"name": "ca"}}],
        "extraVolumeMounts": [{"name": "ca", "mountPath": "/etc/ca", "readOnly": True}],
        "extraContainers": [{"name": "proxy", "image": "proxy:1"}],
        "image": {"pullSecrets": ["registry"]},
        "affinity": {"podAntiAffinity": {}},
        "nodeSelector": {"disk": "fast"},
        "tolerations": [{"key": "edge", "operator": "Exists"}],
        "priorityClassName": "high",
        "dnsConfig": {"options": [{"name": "ndots", "value": "2"}]},
        "hostAliases": [{"ip": "10.0.0.1", "hostnames": ["db"]}],
        "deployment": {"podAnnotations": {"a": "b"}, "podLabels": {"c": "d"}, "labels": {"e": "f"}},
    },
    "keys of assertions in a file": {
        "config": {"assertion": {"key_file": "/var/lib/gateway/assertion.json"}},
        "extraVolumes": [{"name": "keys", "persistentVolumeClaim": {"claimName": "gateway-keys"}}],
        "extraVolumeMounts": [{"name": "keys", "mountPath": "/var/lib/gateway"}],
    },
    "keys of assertions in Postgres": {"config": {"assertion": {"algorithm": "EdDSA"}}},
    "records": {
        "config": {"record": {"directory": "/var/lib/gateway/records"}},
        "extraVolumes": [{"name": "records", "emptyDir": {"sizeLimit": "300Mi"}}],
        "extraVolumeMounts": [{"name": "records", "mountPath": "/var/lib/gateway"}],
    },
    "own spread": {
        "topologySpread": {
            "constraints": [
                {
                    "topologyKey": "rack",
                    "maxSkew": 1,
                    "whenUnsatisfiable": "DoNotSchedule",
                    "labelSelector": {},
                }
            ]
        }
    },
    "no spread": {"topologySpread": {"enabled": False}},
}
"""Values beside `BASE`, each a way in which people run it."""


@dataclass(frozen=True)
class Rendered:
    """What Helm makes of some values."""

    name: str
    error: str
    """Why it refuses them; empty if it does not."""
    notes: str
    objects: list[Values]

    def of(self, kind: str) -> list[Values]:
        return [each for each in self.objects if each["kind"] == kind]

    def one(self, kind: str, suffix: str = "") -> Values:
        """Return the object of a kind whose name ends so."""
        (found,) = [each for each in self.of(kind) if each["metadata"]["name"].endswith(suffix)]
        return found

    @property
    def deployment(self) -> Values:
        return self.one("Deployment")

    @property
    def config(self) -> Values:
        """The configuration that the pods read."""
        name = _volume(self.deployment["spec"]["template"], "config")["configMap"]["name"]
        (found,) = [each for each in self.of("ConfigMap") if each["metadata"]["name"] == name]
        text: Values = yaml.safe_load(found["data"]["gateway.yaml"])
        return text

    def templates(self) -> Iterator[Values]:
        """Yield the pods: those that serve, those that migrate, and that of `helm test`."""
        for each in (*self.of("Deployment"), *self.of("Job")):
            yield each["spec"]["template"]
        yield from self.of("Pod")

    def containers(self) -> Iterator[Values]:
        """Yield the containers that run the gateway's image."""
        for template in self.templates():
            for container in (*template["spec"].get("initContainers", ()), *template["spec"]["containers"]):
                if container["name"] in {"gateway", "check", "migrate", "live"}:
                    yield container


def _volume(template: Values, name: str) -> Values:
    found: Values = next(each for each in template["spec"]["volumes"] if each["name"] == name)
    return found


def values(*changes: Mapping[str, Any]) -> Values:
    """Return `BASE` with changes merged into it. A list replaces the one there."""
    merged: Values = deepcopy(BASE)
    for change in changes:
        _merge(merged, change)
    return merged


def _merge(into: Values, change: Mapping[str, Any]) -> None:
    for key, value in change.items():
        if isinstance(value, Mapping) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = deepcopy(value)


def rendered(
    asked: Mapping[str, Values], release: str = "gateway"
) -> tuple[dict[str, Rendered], list[Values]]:
    """Render the chart with each of these values; also return the messages of `helm lint` for the first."""
    task = json.dumps({"chart": str(CHART), "asked": asked, "release": release})
    program = Path(__file__).parent / "helm_program.py"
    done = subprocess.run(  # noqa: S603 -- a program of ours
        [sys.executable, str(program)], input=task, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout)
    lint: list[Values] = answers.pop("lint")["messages"]
    return {name: _read(name, answer) for name, answer in answers.items()}, lint


def _read(name: str, answer: Values) -> Rendered:
    files: dict[str, str] = answer.get("files", {})
    notes = next((text for path, text in files.items() if path.endswith("NOTES.txt")), "")
    texts = [text for path, text in sorted(files.items()) if path.endswith(".yaml")]
    return Rendered(name, answer.get("error", ""), notes, list(_documents(texts)))


def _documents(texts: Iterable[str]) -> Iterator[Values]:
    for text in texts:
        yield from (document for document in yaml.load_all(text, _Strict) if document is not None)


class _Strict(yaml.SafeLoader):
    """Refuses a key that is there twice, of which Kubernetes would take the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        assert len(set(keys)) == len(keys), keys
        return super().construct_mapping(node, deep)
