"""A world whose users are in the tables of another system."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from gateway.stores.postgres.migrate import migrate
from gateway.stores.postgres.source.install import install
from tests import tokens
from tests.explain.world import World
from tests.systems.sources import source_of

OWN = "gateway_own"


class SourceWorld(World):
    """Issuer `main` has the users of the system; the other issuers have none."""

    @classmethod
    async def over(
        cls, folder: Path, dsn: str, redis_url: str, block: Mapping[str, Any], *, triggers: bool = True
    ) -> Self:
        await migrate(dsn, OWN)
        if triggers:
            await install(dsn, source_of(block), {"main": tokens.ISSUER})
        world = cls(folder, dsn, redis_url)
        world.watched = False
        world.config["postgres"]["schema"] = OWN
        world.config["users"] = {"source": {"issuer": "main", **block}}
        routes = world.config["routes"]
        # Users are created in the gateway's own tables only.
        world.config["routes"] = [each for each in routes if "provision" not in json.dumps(each)]
        world.write()
        return world

    def allow_changes(self) -> None:
        """Make the source writable."""
        self.config["users"]["source"]["writable"] = True
        self.write()
