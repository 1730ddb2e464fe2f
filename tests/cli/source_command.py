"""Runs the `gateway` command where users are in tables of another system."""

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from typer.testing import CliRunner, Result

from gateway.cli.main import app
from gateway.cli.terminal import output
from tests.systems.sources import BLOCKS, configuration
from tests.systems.system import System


class Command:
    """Runs commands over a system."""

    def __init__(self, folder: Path, system: System, redis_url: str, **changes: object) -> None:
        self._config = folder / "gateway.yaml"
        given: dict[str, Any] = configuration(
            {**BLOCKS[system.name], **changes},
            postgres={"dsn": system.dsn, "schema": "gateway_own"},
            redis={"url": redis_url},
        )
        self._config.write_text(json.dumps(given))

    async def __call__(self, *words: str) -> Result:
        arguments = [*words, "--config", str(self._config)]
        return await asyncio.to_thread(CliRunner().invoke, app, arguments)

    async def json(self, *words: str) -> Mapping[str, Any]:
        result = await self(*words, "--json")
        assert result.exit_code == output.OK, result.output
        document = json.loads(result.stdout)
        assert isinstance(document, dict)
        return document
