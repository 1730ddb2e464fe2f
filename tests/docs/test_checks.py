"""The table of `gateway check --live` in docs/operations.md has each check, and no other."""

import re
from typing import Any, Final

from gateway.cli.check.live import PLANS
from gateway.settings import Settings
from tests.docs.pages import DOCS

EVERYTHING: Final[dict[str, Any]] = {
    "server": {"tls": {"certificate": "tls.crt", "key": "tls.key"}},
    "admin": {
        "oidc": {
            "issuer": "https://idp.example.com/",
            "client_id": "gateway-console",
            "client_secret": "0123456789abcdef",
            "redirect_uri": "https://gateway.example.com/console/callback",
            "roles": {"viewer": ["viewers"]},
        }
    },
    "issuers": [{"name": "main", "issuer": "https://idp.example.com/", "audiences": ["orders-api"]}],
    "postgres": {"dsn": "postgresql://db.example.com/gateway", "replica_dsn": "postgresql://replica/gateway"},
    "users": {
        "source": {
            "table": "member",
            "id": "id",
            "identities": [{"subject": "sub"}],
            "dsn": "postgresql://db.example.com/shop",
            "replica_dsn": "postgresql://replica/shop",
            "writable": True,
        }
    },
    "redis": {"url": "redis://redis.example.com:6379"},
    "assertion": {},
    "upstreams": {"orders": {"urls": ["http://orders.example.com:9000"]}},
    "routes": [{"name": "orders", "match": {"path": "/**"}, "upstream": "orders"}],
}
"""Settings that cause each check."""


def test_each_check_is_in_the_table() -> None:
    checks = [check for plan in PLANS for check in plan(Settings.model_validate(EVERYTHING))]
    names = {re.sub(r"^(issuer|upstream):.*", r"\1:<name>", check.name) for check in checks}
    text = (DOCS / "operations.md").read_text(encoding="utf-8")
    section = text.partition("\n## Checking a configuration before the start\n")[2].partition("\n## ")[0]
    assert names == set(re.findall(r"^\| `([^`]+)` \|", section, re.MULTILINE))
