"""Kubernetes: the projected tokens of service accounts."""

from typing import Final

from gateway.core.model import JSON
from gateway.providers.provider import (
    Example,
    Given,
    IssuerSettings,
    Kind,
    Parameter,
    Provider,
    Recognition,
    Unverified,
    expected,
)

_LEGACY: Final = "kubernetes/serviceaccount"
_SUBJECT: Final = "system:serviceaccount:"


def _settings(given: Given) -> IssuerSettings:
    accounts = given.get("service_accounts")
    names: JSON = None
    if isinstance(accounts, list):
        names = [f"{_SUBJECT}{str(each).replace('/', ':')}" for each in accounts]
    expect = expected(**{"/kubernetes.io/namespace": given.get("namespaces"), "sub": names})
    return {
        "audiences": given.get("audiences"),
        "algorithms": ["RS256", "ES256"],
        **({"expect": expect} if expect else {}),
        "require": [
            "exp",
            "iat",
            "nbf",
            "sub",
            "/kubernetes.io/namespace",
            "/kubernetes.io/serviceaccount/uid",
        ],
        "keys": {"discovery": True},
    }


def _recognise(token: Unverified) -> Recognition | None:
    subject, bound = token.text("sub") or "", token.payload.get("kubernetes.io")
    if token.text("iss") == _LEGACY:
        note = (
            "This is an old token from a Secret, which never expires and has no audience: use a projected one"
            " (`kubectl create token`, or a volume `serviceAccountToken`)."
        )
        return Recognition({}, Kind.API_KEY, (note,))
    if not subject.startswith(_SUBJECT) or not isinstance(bound, dict):
        return None
    parameters: IssuerSettings = {"issuer": token.text("iss"), "audiences": [*token.audiences]}
    namespace, _, name = subject.removeprefix(_SUBJECT).partition(":")
    parameters["service_accounts"] = [f"{namespace}/{name}"]
    notes = ["A service account got this token: `sub` names it, not a user."]
    if token.text("iss") in token.audiences:
        notes.append("`aud` is the API server itself: project a token with an `audience` of your own.")
    return Recognition(parameters, Kind.WORKLOAD, tuple(notes))


KUBERNETES: Final = Provider(
    name="kubernetes",
    title="Kubernetes",
    parameters=(
        Parameter(
            "service_accounts",
            "The service accounts that are accepted, with their namespaces.",
            "shop/checkout",
            "namespace/name",
            r"[a-z0-9.-]+/[a-z0-9.-]+",
            many=True,
        ),
        Parameter(
            "namespaces",
            "The namespaces all of whose service accounts are accepted; with `service_accounts`, both must"
            " hold.",
            "shop",
            "the name of a namespace",
            r"[a-z0-9-]+",
            many=True,
        ),
    ),
    needs=(("issuer",), ("audiences",), ("service_accounts", "namespaces")),
    settings=_settings,
    slash=None,
    recognise=_recognise,
    examples=(
        Example(
            "Service accounts by name",
            {
                "issuer": "https://kubernetes.default.svc.cluster.local",
                "audiences": ["orders"],
                "service_accounts": ["shop/checkout"],
            },
        ),
        Example(
            "Namespaces of an EKS cluster",
            {
                "issuer": "https://oidc.eks.eu-west-1.amazonaws.com/id/0123456789ABCDEF0123456789ABCDEF",
                "audiences": ["orders"],
                "namespaces": ["shop"],
            },
        ),
    ),
    quirks=(
        "The issuer is the cluster's: `kubectl get --raw /.well-known/openid-configuration` shows it.",
        "Inside the cluster the API server's certificate is of a private authority: write"
        " `jwks: {ca: /var/run/secrets/kubernetes.io/serviceaccount/ca.crt}`.",
        "The API server shows its keys to anonymous callers only after `kubectl create clusterrolebinding"
        " oidc-reviewer --clusterrole=system:service-account-issuer-discovery"
        " --group=system:unauthenticated`. Or fetch them (`kubectl get --raw /openid/v1/jwks > jwks.json`)"
        " and write `keys: {jwks_file: jwks.json}`.",
        "A token without an own `audience` is for the API server itself. The preset refuses it, because"
        " `audiences` names yours.",
        "The claim `kubernetes.io` has a dot in its name: in paths it is `/kubernetes.io/namespace`.",
        "Old tokens from Secrets (`iss: kubernetes/serviceaccount`) never expire, and are refused.",
        "`sub` is a name: a service account that is deleted and created again has the same. For an identity"
        " that ends with it, write `subject: /kubernetes.io/serviceaccount/uid`.",
    ),
    console=(
        "In the pod: a projected volume with `serviceAccountToken: {audience: orders, expirationSeconds:"
        " 3600, path: token}`.",
        "For a try: `kubectl create token checkout -n shop --audience orders`.",
        "On EKS: `aws eks describe-cluster --name NAME --query cluster.identity.oidc.issuer`.",
    ),
)
