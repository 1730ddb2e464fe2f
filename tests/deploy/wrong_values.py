"""Values of the chart that are mistakes."""

from typing import Final

from tests.deploy.chart import Values

BAD: Final[dict[str, tuple[Values, str]]] = {
    "an unknown value": ({"replicas": 3}, "replicas"),
    "an unknown value inside": ({"deployment": {"replica": 3}}, "replica"),
    "a number as text": ({"deployment": {"replicas": "3"}}, "/deployment/replicas"),
    "a type of service": ({"service": {"type": "External"}}, "/service/type"),
    "a port of root": ({"ports": {"http": 80}}, "/ports/http"),
    "a digest": ({"image": {"digest": "latest"}}, "/image/digest"),
    "a variable": ({"extraEnv": [{"name": "A-B"}]}, "/extraEnv/0/name"),
    "a path": (
        {"ingress": {"enabled": True, "hosts": [{"host": "a", "paths": [{"path": "x"}]}]}},
        "/ingress",
    ),
    "too little grace": (
        {"deployment": {"terminationGracePeriodSeconds": 30}},
        "is 30, but a pod takes up to 50 seconds to end: shutdown.preStopSeconds 0 + ",
    ),
    "a budget that holds all": (
        {"podDisruptionBudget": {"minAvailable": 2}},
        "no node could ever be drained",
    ),
    "a budget of 100%": ({"podDisruptionBudget": {"minAvailable": "100%"}}, "no node could ever be drained"),
    "a share that is rounded up to all": (
        {"podDisruptionBudget": {"minAvailable": "50%"}, "deployment": {"replicas": 1}},
        "minAvailable is 50% and there may be 1 pods: no node could ever be drained",
    ),
    "a budget of none": ({"podDisruptionBudget": {"maxUnavailable": 0}}, "no node could ever be drained"),
    "two budgets": ({"podDisruptionBudget": {"minAvailable": 1, "maxUnavailable": 1}}, "takes only one"),
    "a scale upside down": (
        {"autoscaling": {"enabled": True, "minReplicas": 5, "maxReplicas": 3}},
        "minReplicas (5) is more than autoscaling.maxReplicas (3)",
    ),
    "a scale by nothing": (
        {"autoscaling": {"enabled": True, "targetCPUUtilizationPercentage": None}},
        "autoscaling has nothing to go by",
    ),
    "a scale by a share of nothing": (
        {"autoscaling": {"enabled": True}, "resources": {"requests": {"cpu": None}}},
        "none is requested: set resources.requests.cpu",
    ),
    "no way to replace": ({"deployment": {"maxSurge": 0}}, "both 0"),
    "no way to replace a share": ({"deployment": {"maxSurge": "0%", "maxUnavailable": "0%"}}, "both 0"),
    "a port twice": ({"ports": {"admin": 8080}}, "ports.http and ports.admin are both 8080"),
    "a balancer that is none": (
        {"service": {"loadBalancerSourceRanges": ["10.0.0.0/8"]}},
        "service.loadBalancerSourceRanges needs service.type LoadBalancer",
    ),
    "a policy of outside inside": (
        {"service": {"externalTrafficPolicy": "Local"}},
        "service.externalTrafficPolicy needs service.type LoadBalancer or NodePort",
    ),
    "a name with a dot": ({"fullnameOverride": "gate.way"}, "/fullnameOverride"),
    "a label of the chart": (
        {"deployment": {"podLabels": {"app.kubernetes.io/component": "edge"}}},
        "the label app.kubernetes.io/component is the chart's own",
    ),
    "a label that is none": ({"commonLabels": {"team": "the edge"}}, "/commonLabels/team"),
    "a tag in the repository": ({"image": {"repository": "example.com/gateway:1.0"}}, "/image/repository"),
    "a URL as a host": (
        {"ingress": {"enabled": True, "hosts": [{"host": "https://a.example.com"}]}},
        "/ingress/hosts/0/host",
    ),
    "a volume of the chart": (
        {"extraVolumes": [{"name": "tls", "emptyDir": {}}]},
        "extraVolumes has the name tls, which is taken",
    ),
    "a mount over another": (
        {
            "extraVolumes": [{"name": "t", "emptyDir": {}}],
            "extraVolumeMounts": [{"name": "t", "mountPath": "/etc/gateway/"}],
        },
        "extraVolumeMounts has the path /etc/gateway, where something is mounted",
    ),
    "a mount of nothing": (
        {"extraVolumeMounts": [{"name": "ca", "mountPath": "/etc/ca"}]},
        "extraVolumeMounts mounts ca, which is not in extraVolumes",
    ),
    "a container twice": (
        {"extraContainers": [{"name": "gateway", "image": "proxy:1"}]},
        "extraContainers has the name gateway, which is taken",
    ),
    "a scrape longer than its interval": (
        {"serviceMonitor": {"enabled": True, "interval": "15s", "scrapeTimeout": "20000ms"}},
        "serviceMonitor.scrapeTimeout (20000ms) is longer than serviceMonitor.interval (15s)",
    ),
    "a policy that shuts the stores out": (
        {"networkPolicy": {"enabled": True, "restrictEgress": True}},
        "networkPolicy.egress is empty",
    ),
    "grpc alone": ({"decision": {"grpc": True}}, "decision.grpc needs decision.enabled"),
    "an Ingress without hosts": ({"ingress": {"enabled": True}}, "needs ingress.hosts"),
    "a route without parents": ({"httpRoute": {"enabled": True}}, "needs httpRoute.parentRefs"),
    "a policy that shuts Prometheus out": (
        {"networkPolicy": {"enabled": True}, "serviceMonitor": {"enabled": True}},
        "networkPolicy.monitoring is empty",
    ),
    "a policy that shuts fronts out": (
        {"networkPolicy": {"enabled": True}, "decision": {"enabled": True}},
        "networkPolicy.fronts is empty",
    ),
    "no database": ({"existingSecret": ""}, "the gateway has no database"),
    "no routes": ({"config": {"routes": []}}, "config.routes is missing"),
    "an address": ({"config": {"server": {"listen": "0.0.0.0:80"}}}, "use listenAddress and ports.http"),
    "a drain": ({"config": {"server": {"drain_timeout": "5m"}}}, "use shutdown.drainSeconds"),
    "a token": ({"config": {"admin": {"token": "x" * 32}}}, "use secretKeys.adminToken"),
    "a password": (
        {"config": {"postgres": {"dsn": "postgresql://gateway:hunter2@db/gateway"}}},
        "config has a URL with a password",
    ),
    "a password among parameters": (
        {"config": {"redis": {"url": "redis://db:6379/0?username=gateway&password=hunter2"}}},
        "config has a URL with a password",
    ),
    "a password in a list": (
        {"config": {"jwks": {"proxy": "http://user:hunter2@proxy:3128"}}},
        "config has a URL with a password",
    ),
    "a secret": (
        {"config": {"issuers": [{"name": "a", "keys": {"secret": "not so secret"}}]}},
        "config has a secret",
    ),
    "records in a folder that cannot be written": (
        {
            "config": {"record": {"directory": "/var/lib/records"}},
            "extraVolumes": [{"name": "t", "emptyDir": {}}],
            "extraVolumeMounts": [{"name": "t", "mountPath": "/var/lib/rec"}],
        },
        "config.record.directory must be in a volume",
    ),
    "keys of assertions in a folder that cannot be written": (
        {"config": {"assertion": {"key_file": "/var/lib/gateway/assertion.json"}}},
        "config.assertion.key_file must be in a volume",
    ),
    "a variable twice": (
        {"extraEnv": [{"name": "GATEWAY_POSTGRES__DSN", "value": "postgresql://db/x"}]},
        "GATEWAY_POSTGRES__DSN is in extraEnv and in existingSecret",
    ),
    "the token twice": (
        {
            "secretKeys": {"adminToken": "token"},
            "extraEnv": [{"name": "GATEWAY_ADMIN__TOKEN", "value": "x" * 32}],
        },
        "GATEWAY_ADMIN__TOKEN is in extraEnv and in existingSecret",
    ),
    "an address by a variable": (
        {"extraEnv": [{"name": "GATEWAY_SERVER__LISTEN", "value": "0.0.0.0:80"}]},
        "GATEWAY_SERVER__LISTEN is set by the chart: use listenAddress and ports.http",
    ),
    "one variable two ways": (
        {
            "extraEnv": [
                {"name": "GATEWAY_LOG__LEVEL", "value": "info"},
                {"name": "GATEWAY_LOG__LEVEL_FILE", "value": "/x"},
            ]
        },
        "extraEnv has GATEWAY_LOG__LEVEL twice",
    ),
    "an owner without a Secret": (
        {
            "existingSecret": "",
            "secretKeys": {"migrationDsn": "owner"},
            "config": {"postgres": {"dsn": "postgresql://db/x"}, "redis": {"url": "redis://redis"}},
        },
        "secretKeys.migrationDsn needs existingSecret",
    ),
    "no DSN in the Secret": ({"secretKeys": {"postgresDsn": ""}}, "the gateway has no database"),
    "no Redis": (
        {"existingSecret": "", "config": {"postgres": {"dsn": "postgresql://db/x"}, "redis": None}},
        "the gateway has no Redis",
    ),
}
"""Values beside `BASE`, and what the refusal says."""
