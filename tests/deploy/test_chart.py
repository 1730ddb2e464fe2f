"""The Helm chart, by Helm's own engine and the schemas of Kubernetes, without a cluster."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final

import jsonschema_rs
import pytest
import yaml

from gateway import __version__
from gateway.settings import load
from tests.deploy.chart import BASE, CHART, GOOD, ROOT, Rendered, Values, rendered, values
from tests.deploy.wrong_values import BAD
from tests.docs.pages import blocks

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("helm_python") is None, reason="needs helm-python-sdk (Linux with glibc 2.28)"
)

OLDEST: Final = "1.27"
"""As `kubeVersion` in Chart.yaml says."""


@pytest.fixture(scope="module")
def answers() -> tuple[dict[str, Rendered], list[Values]]:
    asked = {name: values(change) for name, change in GOOD.items()}
    asked |= {name: values(change) for name, (change, _) in BAD.items()}
    return rendered(asked)


@pytest.fixture(scope="module")
def charts(answers: tuple[dict[str, Rendered], list[Values]]) -> list[Rendered]:
    """What is rendered of the good values."""
    found = [answers[0][name] for name in GOOD]
    assert {each.name: each.error for each in found if each.error} == {}
    return found


def labels(template: Values) -> dict[str, str]:
    found: dict[str, str] = template["metadata"]["labels"]
    return found


def selects(selector: Mapping[str, str], template: Values) -> bool:
    return selector.items() <= labels(template).items()


# Values --------------------------------------------------------------------------------------------


def test_lint_finds_nothing(answers: tuple[dict[str, Rendered], list[Values]]) -> None:
    # 1 is information: the chart has no icon.
    assert [message for message in answers[1] if message["severity"] > 1] == []


@pytest.mark.parametrize("name", BAD)
def test_wrong_values_are_refused(answers: tuple[dict[str, Rendered], list[Values]], name: str) -> None:
    assert BAD[name][1] in answers[0][name].error


def test_the_default_values_alone_say_what_is_missing() -> None:
    found, _ = rendered({"none": {}})
    assert "the gateway has no database: set existingSecret" in found["none"].error


def test_each_value_has_a_text_and_a_use() -> None:
    """The schema, the defaults and the templates know the same values."""
    schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    defaults = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    templates = "".join(path.read_text(encoding="utf-8") for path in (CHART / "templates").rglob("*.*"))
    jsonschema_rs.validate(schema, defaults)
    described = dict(_leaves(schema))
    assert all(text.endswith((".", "`")) for text in described.values()), described
    known = {path for path in described if path != "global" and "Probe." not in path}
    assert known == set(_paths(defaults, described))
    used = {
        path for path in known if re.search(rf"\.{re.escape(path)}\b|{re.escape(_end(path))}\b", templates)
    }
    assert known - used == set()


def _end(path: str) -> str:
    """Return how a template names a value of a section that it has taken into a variable."""
    section, _, key = path.rpartition(".")
    short = {"podDisruptionBudget": "$budget", "networkPolicy": "$policy", "shutdown": "$times"}
    short |= {"secretKeys": "$keys"}
    return f"{short.get(section, '.Values.' + section)}.{key}" if section else f".Values.{key}"


def _leaves(schema: Values, path: str = "") -> Iterator[tuple[str, str]]:
    for key, child in schema["properties"].items():
        here = f"{path}.{key}".removeprefix(".")
        assert child["description"], here
        if child.get("additionalProperties") is False and here not in {"resources", "migrations.resources"}:
            yield from _leaves(child, here)
        else:
            yield here, child["description"]


def _paths(node: Values, known: Mapping[str, str], path: str = "") -> Iterator[str]:
    for key, child in node.items():
        here = f"{path}.{key}".removeprefix(".")
        if "Probe" in here:
            continue
        if here in known:
            yield here
        else:
            yield from _paths(child, known, here)


@pytest.mark.parametrize(
    ("release", "name"),
    [("shop", "shop-gateway"), ("gateway.v2", "gateway-v2"), ("a" * 51 + "-b", "a" * 51)],
)
def test_names_are_those_of_services(release: str, name: str) -> None:
    """A release may have dots, and be long."""
    found = rendered({"base": values()}, release)[0]["base"]
    assert found.error == ""
    assert found.deployment["metadata"]["name"] == name
    for service in found.of("Service"):
        assert re.fullmatch(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?", service["metadata"]["name"])


def test_a_name_that_no_service_may_have_is_refused() -> None:
    refused = rendered({"base": values()}, "2nd")[0]["base"].error
    assert "the name 2nd-gateway begins with a digit, which no Service may: set fullnameOverride" in refused
    assert rendered({"base": values({"fullnameOverride": "second"})}, "2nd")[0]["base"].error == ""


# Objects -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [OLDEST, "newest"])
def test_kubernetes_knows_every_field(charts: list[Rendered], version: str) -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    assert chart["kubeVersion"].startswith(f">={OLDEST}.")
    for each in charts:
        for document in each.objects:
            if "monitoring.coreos.com" in document["apiVersion"] or document["kind"] == "HTTPRoute":
                continue
            errors = [str(error) for error in _schema(version, document).iter_errors(document)]
            assert errors == [], (each.name, document["kind"])


@cache
def _definitions(version: str) -> dict[str, Any]:
    spec = importlib.util.find_spec("kubernetes_validate")
    assert spec is not None
    assert spec.origin is not None
    folder = Path(spec.origin).parent / "kubernetes-json-schema"
    known = {
        tuple(map(int, path.name[1:].split("-")[0].split("."))): path
        for path in folder.glob("v*-local-strict")
    }
    at = max(known) if version == "newest" else max(
        each for each in known if each[:2] == tuple(map(int, version.split(".")))
    )  # fmt: skip
    found: dict[str, Any] = json.loads((known[at] / "_definitions.json").read_text(encoding="utf-8"))
    definitions: dict[str, Any] = found["$defs"]
    return definitions


def _schema(version: str, document: Values) -> jsonschema_rs.Draft202012Validator:
    group, _, api = document["apiVersion"].rpartition("/")
    return _validator(version, group, api, document["kind"])


@cache
def _validator(version: str, group: str, api: str, kind: str) -> jsonschema_rs.Draft202012Validator:
    definitions = _definitions(version)
    wanted = {"group": group, "version": api, "kind": kind}
    (name,) = [
        name
        for name, each in definitions.items()
        if wanted in each.get("x-kubernetes-group-version-kind", ())
    ]
    return jsonschema_rs.Draft202012Validator({"$ref": f"#/$defs/{name}", "$defs": definitions})


def test_objects_are_of_the_release(charts: list[Rendered]) -> None:
    for each in charts:
        names = [(one["kind"], one["metadata"]["namespace"], one["metadata"]["name"]) for one in each.objects]
        assert len(set(names)) == len(names)
        for document in each.objects:
            found = document["metadata"]["labels"]
            assert found["app.kubernetes.io/instance"] == "gateway"
            version = "0.1.0-" + "b" * 56 if each.name == "names" else __version__
            assert found["app.kubernetes.io/version"] == version
            assert len(document["metadata"]["name"]) <= 63
            assert document["kind"] != "Secret"


def test_pods_have_no_rights(charts: list[Rendered]) -> None:
    for each in charts:
        for template in each.templates():
            pod = template["spec"]
            assert pod["securityContext"]["runAsNonRoot"] is True
            assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
            assert pod["enableServiceLinks"] is False
            if each.name != "an account that exists":
                assert pod["automountServiceAccountToken"] is False
        for container in each.containers():
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert container["resources"]["requests"].keys() == {"cpu", "memory"}
            assert "memory" in container["resources"]["limits"]
            assert ":latest" not in container["image"]
            writable = [
                mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")
            ]
            writes = each.name in ("records", "keys of assertions in a file")
            volumes = ["/var/lib/gateway"] if writes else []
            assert writable == ["/tmp", *volumes]  # noqa: S108 -- in the pod


def test_every_mount_has_its_volume(charts: list[Rendered]) -> None:
    for each in charts:
        for template in each.templates():
            pod = template["spec"]
            volumes = {volume["name"] for volume in pod["volumes"]}
            assert len(volumes) == len(pod["volumes"])
            for container in (*pod.get("initContainers", ()), *pod["containers"]):
                assert {mount["name"] for mount in container.get("volumeMounts", ())} <= volumes


def test_selectors_find_the_pods_that_serve_and_no_others(charts: list[Rendered]) -> None:
    for each in charts:
        serving = each.deployment["spec"]["template"]
        selectors = [each.deployment["spec"]["selector"]["matchLabels"]]
        selectors += [one["spec"]["selector"] for one in each.of("Service")]
        selectors += [one["spec"]["selector"]["matchLabels"] for one in each.of("PodDisruptionBudget")]
        for constraint in serving["spec"].get("topologySpreadConstraints", ()):
            if each.name != "own spread":
                selectors.append(constraint["labelSelector"]["matchLabels"])
        for selector in selectors:
            assert selects(selector, serving), each.name
            assert [one for one in each.templates() if selects(selector, one)] == [serving], each.name
        for scaler in each.of("HorizontalPodAutoscaler"):
            assert scaler["spec"]["scaleTargetRef"]["name"] == each.deployment["metadata"]["name"]
            assert "replicas" not in each.deployment["spec"]
        for policy in each.of("NetworkPolicy"):
            for template in each.templates():
                assert selects(policy["spec"]["podSelector"]["matchLabels"], template)


def test_ports_lead_to_listeners(charts: list[Rendered]) -> None:
    """Services, probes and policies name ports of the container, on which the configuration listens."""
    for each in charts:
        (container,) = [one for one in each.containers() if one["name"] == "gateway"]
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        config = each.config
        listens = {"http": config["server"]["listen"], "admin": config["admin"]["listen"]}
        if "decision" in config:
            listens["decision"] = config["decision"]["listen"]
            if "grpc_listen" in config["decision"]:
                listens["grpc"] = config["decision"]["grpc_listen"]
        assert {name: int(listen.rpartition(":")[2]) for name, listen in listens.items()} == ports
        targets = {port["targetPort"] for one in each.of("Service") for port in one["spec"]["ports"]}
        assert targets == set(ports)
        for probe in ("livenessProbe", "readinessProbe", "startupProbe"):
            path = "/readyz" if probe == "readinessProbe" else "/healthz"
            assert container[probe]["httpGet"] == {"path": path, "port": "admin"}
        for policy in each.of("NetworkPolicy"):
            allowed = {port["port"] for rule in policy["spec"]["ingress"] for port in rule["ports"]}
            assert allowed <= set(ports)
        services = {one["metadata"]["name"]: one for one in each.of("Service")}
        for one in each.of("Ingress"):
            for rule in one["spec"]["rules"]:
                for path in rule["http"]["paths"]:
                    _leads_to_clients(
                        services,
                        path["backend"]["service"]["name"],
                        path["backend"]["service"]["port"]["number"],
                    )
        for one in each.of("HTTPRoute"):
            for rule in one["spec"]["rules"]:
                for backend in rule["backendRefs"]:
                    _leads_to_clients(services, backend["name"], backend["port"])


def _leads_to_clients(services: Mapping[str, Values], name: str, port: int) -> None:
    (found,) = services[name]["spec"]["ports"]
    assert (found["port"], found["targetPort"]) == (port, "http")


def test_a_pod_may_take_as_long_to_end_as_the_gateway_does(charts: list[Rendered]) -> None:
    for each in charts:
        pod, server = each.deployment["spec"]["template"]["spec"], each.config["server"]
        (container,) = [one for one in pod["containers"] if one["name"] == "gateway"]
        command = container.get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command", ["0"])
        waits = int(re.findall(r"\d+", command[-1])[-1])
        takes = waits + sum(int(server[key].removesuffix("s")) for key in ("shutdown_delay", "drain_timeout"))
        assert pod["terminationGracePeriodSeconds"] >= takes + 10, each.name


def test_a_node_can_always_be_drained(charts: list[Rendered]) -> None:
    for each in charts:
        for budget in each.of("PodDisruptionBudget"):
            spec, fewest = budget["spec"], each.deployment["spec"].get("replicas", 2)
            assert ("minAvailable" in spec) != ("maxUnavailable" in spec)
            least = spec.get("minAvailable", 0)
            assert least in {0, "50%"} or least < fewest, each.name


def test_the_gateway_takes_the_configuration(
    charts: list[Rendered], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the chart writes is a configuration, with the variables and the files that the pod has."""
    secrets = {
        "postgres": "postgresql://gateway:pw@db/gateway",
        "redis": "redis://:pw@redis",
        "admin": "t" * 32,
    }
    for name in [name for name in os.environ if name.startswith("GATEWAY_")]:
        monkeypatch.delenv(name)
    for each in charts:
        for container in each.containers():
            with monkeypatch.context() as environment:
                for variable in container["env"]:
                    is_dsn = variable["name"] == "GATEWAY_POSTGRES__DSN"
                    value = variable.get(
                        "value", "postgresql://db/from-a-secret" if is_dsn else "from-a-secret"
                    )
                    if variable["name"].endswith("_FILE"):
                        assert value.startswith("/run/secrets/gateway/")
                        section = variable["name"].split("__")[0].removeprefix("GATEWAY_").lower()
                        (tmp_path / section).write_text(secrets[section] + "\n")
                        value = str(tmp_path / section)
                    environment.setenv(variable["name"], value)
                config = dict(each.config)
                if "tls" in config["server"]:
                    config["server"] = {key: value for key, value in config["server"].items() if key != "tls"}
                file = tmp_path / "gateway.yaml"
                file.write_text(yaml.safe_dump(config))
                settings = load(file)
            assert settings.server.workers == 2
            assert settings.server.reload == ("signal" if each.name == "restart" else "watch")


def test_files_of_secrets_are_in_the_secret(charts: list[Rendered]) -> None:
    for each in charts:
        for template in each.templates():
            mounted = {
                f"/run/secrets/gateway/{item['path']}"
                for volume in template["spec"]["volumes"]
                if volume["name"] == "secrets"
                for item in volume["secret"]["items"]
            }
            for container in (*template["spec"].get("initContainers", ()), *template["spec"]["containers"]):
                named = {one["value"] for one in container.get("env", ()) if one["name"].endswith("_FILE")}
                assert named <= mounted, each.name


def test_migrations_run_before_each_version(charts: list[Rendered]) -> None:
    """As a hook, with a configuration of its own: that of the release comes later."""
    for each in charts:
        if each.name == "no migrations":
            assert each.of("Job") == []
            continue
        job, own = each.one("Job"), each.one("ConfigMap", "-migrate")
        for document in (job, own):
            assert document["metadata"]["annotations"]["helm.sh/hook"] == "pre-install,pre-upgrade"
        assert yaml.safe_load(own["data"]["gateway.yaml"]) == each.config
        weights = [int(one["metadata"]["annotations"]["helm.sh/hook-weight"]) for one in (own, job)]
        assert weights == sorted(weights)
        pod = job["spec"]["template"]["spec"]
        assert [one["args"] for one in (*pod["initContainers"], *pod["containers"])] == [
            ["check"],
            ["migrate"],
        ]
        (volume,) = [one for one in pod["volumes"] if one["name"] == "config"]
        assert volume["configMap"]["name"] == own["metadata"]["name"]
        expected = "gateway-app" if each.name == "an account that exists" else "default"
        assert pod["serviceAccountName"] == expected


def test_migrations_may_have_a_login_of_their_own(charts: list[Rendered]) -> None:
    (each,) = [one for one in charts if one.name == "all keys of the Secret"]
    found = {
        container["name"]: variable["value"]
        for container in each.containers()
        for variable in container["env"]
        if variable["name"] == "GATEWAY_POSTGRES__DSN_FILE"
    }
    owner, runtime = "/run/secrets/gateway/owner", "/run/secrets/gateway/dsn"
    assert found == {"gateway": runtime, "check": owner, "migrate": owner, "live": runtime}


def test_a_changed_configuration_restarts_pods_only_if_told_to(charts: list[Rendered]) -> None:
    for each in charts:
        annotations = each.deployment["spec"]["template"]["metadata"]["annotations"]
        assert ("checksum/config" in annotations) == (each.name == "restart")


def test_labels_and_annotations_of_an_object_count_more_than_those_of_all(charts: list[Rendered]) -> None:
    (named,) = [one for one in charts if one.name == "names"]
    template = named.deployment["spec"]["template"]
    assert labels(named.deployment)["team"] == labels(template)["team"] == "front"
    assert labels(named.of("Service")[0])["team"] == "edge"
    (annotated,) = [one for one in charts if one.name == "annotations of the chart"]
    annotations = annotated.deployment["spec"]["template"]["metadata"]["annotations"]
    assert annotations["kubectl.kubernetes.io/default-container"] == "proxy"
    assert annotated.one("Job")["metadata"]["annotations"]["helm.sh/hook-weight"] == "1"


def test_prometheus_gets_the_alerts_and_grafana_the_dashboard(charts: list[Rendered]) -> None:
    (each,) = [one for one in charts if one.name == "Prometheus and Grafana"]
    text = (ROOT / "deploy" / "prometheus" / "alerts.yml").read_text(encoding="utf-8")
    alerts = yaml.safe_load(text.replace("docs/runbook.md", "https://wiki.example.com/gateway"))
    assert each.one("PrometheusRule")["spec"] == alerts
    dashboard = json.loads((ROOT / "deploy" / "grafana" / "gateway.json").read_text(encoding="utf-8"))
    assert json.loads(each.one("ConfigMap", "-dashboard")["data"]["gateway.json"]) == dashboard
    monitor = each.one("ServiceMonitor")["spec"]
    (service,) = [
        one
        for one in each.of("Service")
        if monitor["selector"]["matchLabels"].items() <= one["metadata"]["labels"].items()
    ]
    assert [port["name"] for port in service["spec"]["ports"]] == [monitor["endpoints"][0]["port"]]
    # The alerts and the dashboard name the job.
    assert monitor["endpoints"][0]["relabelings"][0] == {
        "action": "replace",
        "targetLabel": "job",
        "replacement": "gateway",
    }


def test_the_notes_name_what_there_is(charts: list[Rendered]) -> None:
    for each in charts:
        assert f"service/{each.deployment['metadata']['name']}-admin" in each.notes
        assert ("migrations.enabled is false" in each.notes) == (each.name == "no migrations")


# Files ---------------------------------------------------------------------------------------------


def test_the_chart_has_the_programs_version() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    assert chart["version"] == chart["appVersion"] == __version__


def test_the_plain_manifests_and_the_tables_of_values_are_up_to_date() -> None:
    done = subprocess.run(  # noqa: S603 -- a program of ours
        [sys.executable, str(ROOT / "deploy" / "helm" / "generate.py"), "--check"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_base_values_are_what_the_readme_shows() -> None:
    """The first example of the page is a complete one."""
    text = (ROOT / "docs" / "kubernetes.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```yaml\n# values\.yaml\n(.*?)```", text, re.DOTALL)
    assert rendered({"page": yaml.safe_load(example)})[0]["page"].error == ""
    assert yaml.safe_load(example).keys() == BASE.keys()


def test_the_plain_manifests_migrate_as_the_owner_in_the_secret_on_the_page() -> None:
    """The role in `postgres-dsn` may not create tables; the pods that serve do not get the owner's login."""
    page = (ROOT / "docs" / "kubernetes.md").read_text(encoding="utf-8")
    there = set(re.findall(r"--from-literal=([\w-]+)=", page))
    asked = {}
    for name in ("migrate", "deployment"):
        text = (ROOT / "deploy" / "kubernetes" / f"{name}.yaml").read_text(encoding="utf-8")
        (workload,) = [each for each in yaml.safe_load_all(text) if each["kind"] in {"Job", "Deployment"}]
        volumes = workload["spec"]["template"]["spec"]["volumes"]
        asked[name] = {
            item["key"] for volume in volumes for item in volume.get("secret", {}).get("items", ())
        }
    assert asked["migrate"] | asked["deployment"] <= there
    assert "migration-dsn" in asked["migrate"] - asked["deployment"]


def test_every_sample_of_values_on_the_page_is_accepted() -> None:
    """The last sample is no values: it is a NetworkPolicy for the services."""
    samples = [yaml.safe_load(text) for text in blocks(ROOT / "docs" / "kubernetes.md", "yaml")]
    assert samples.pop()["kind"] == "NetworkPolicy"
    found, _ = rendered({str(number): values(sample) for number, sample in enumerate(samples, start=1)})
    assert {number: each.error for number, each in found.items() if each.error} == {}
