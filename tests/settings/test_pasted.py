"""A pasted configuration takes nothing from this machine, and its secrets do not come back."""

from pathlib import Path
from typing import Final

import pytest

from gateway.settings import ConfigurationError, load_pasted

PASTED: Final = """
server: {listen: "${LISTEN}", mode: shadow, tls: {certificate: /etc/shadow, key: /etc/shadow}}
admin: {token: short}
issuers:
  - {name: main, issuer: https://idp.example.com/, audiences: [api], keys: {secret: "${HS_SECRET}"}}
postgres: {dsn: "${DSN}", replica_dsn: nonsense}
users: {source: {dsn: "${USERS_DSN}", preset: django, identities: [{issuer: main, subject: username}]}}
decision: {grpc_listen: "${GRPC}"}
upstreams: {orders: {urls: ["${ORDERS_URL}"]}}
routes:
  - {name: orders, match: {path: /orders/**}, upstream: orders, require: {scopes: [read, "$${x}"]}}
"""


def problems(text: str) -> str:
    with pytest.raises(ConfigurationError) as raised:
        load_pasted(text)
    return str(raised.value)


def test_nothing_of_this_machine_is_put_into_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    kept = tmp_path / "secret"
    kept.write_text("of-this-machine")
    for name in ("HS_SECRET", "GATEWAY_ERRORS__DETAIL", "GATEWAY_POSTGRES__DSN"):
        monkeypatch.setenv(name, "of-this-machine")
    monkeypatch.setenv("GATEWAY_ADMIN__TOKEN_FILE", str(kept))
    settings, unread = load_pasted(PASTED)
    assert unread == ["HS_SECRET"]
    assert "of-this-machine" not in f"{settings!r}"
    assert (settings.server.mode, settings.admin.token) == ("shadow", None)
    assert settings.routes[0].require.scopes[1] == "${x}"


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("scopes:", "scoped:", "configuration:11: routes[0].require.scoped: is not a setting"),
        (
            "[api]",
            '["${HOME}"]',
            "issuers[0].audiences[0]: names ${HOME}, which is not read here → write its value",
        ),
        ('"${HS_SECRET}"', "hunter2-hunter2", "issuers[0].keys.secret"),
        ("api]", "*hunter2-alias]", "configuration:5: not YAML: found undefined alias …"),
        ("api]", '"hunter2-open]', "not YAML"),
        ("preset: django", "preset: hunter2, password: hunter2", "users.source.preset"),
    ],
)
def test_mistakes_are_reported_without_secrets(old: str, new: str, told: str) -> None:
    found = problems(PASTED.replace(old, new))
    assert told in found
    assert "hunter2" not in found.replace("hunter2 is", "")
