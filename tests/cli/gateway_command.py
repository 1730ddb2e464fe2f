"""Runs the `gateway` command in tests."""

import json
from dataclasses import dataclass
from pathlib import Path

from redis import Redis
from typer.testing import CliRunner, Result

from gateway.cli.main import app

ISS = "https://idp.example.com/"


@dataclass(frozen=True)
class GatewayCommand:
    """Runs commands with a configuration that names these stores."""

    config: Path

    def __call__(self, *words: str, stdin: str | bytes | None = None) -> Result:
        return CliRunner().invoke(app, [*words, "--config", str(self.config)], input=stdin)

    def json(self, *words: str, stdin: str | None = None) -> dict[str, object]:
        result = self(*words, "--json", stdin=stdin)
        assert result.exit_code == 0, result.output
        document = json.loads(result.stdout)
        assert isinstance(document, dict)
        return document


def gateway_command(folder: Path, dsn: str, redis_url: str, *, more: str = "") -> GatewayCommand:
    config = folder / "gateway.yaml"
    config.write_text(
        f"""
issuers:
  - name: main
    issuer: {ISS}
    audiences: [api]
    keys: {{discovery: true}}
    {more}
postgres: {{dsn: "{dsn}"}}
redis: {{url: "{redis_url}"}}
upstreams:
  echo: {{urls: ["http://127.0.0.1:9"]}}
routes:
  - {{name: all, match: {{path: /**}}, upstream: echo}}
"""
    )
    return GatewayCommand(config)


def dump(client: Redis) -> list[tuple[object, bytes | None]]:
    """Return what is in a Redis, by key."""
    return [(key, client.dump(key)) for key in sorted(client.keys("*"), key=str)]
