"""`/v1/configuration`: what is configured, without secrets."""

import time
from collections.abc import Sequence
from typing import Protocol

from aiohttp import web

from gateway import __version__
from gateway.admin.api import models, reports
from gateway.admin.api.operations import Answer, Operation, json, reads
from gateway.core.model import JSON


class ShownSetting(Protocol):
    """A setting that is in force, without secrets."""

    @property
    def name(self) -> str: ...
    @property
    def value(self) -> JSON: ...
    @property
    def given(self) -> bool: ...


class Configuration:
    """Shows the settings of this worker, as they were when it started."""

    def __init__(self, settings: Sequence[ShownSetting]) -> None:
        self._shown = reports.Configuration(
            version=__version__,
            read_at=models.instant(time.time()),
            settings=[
                reports.Setting.model_validate({"name": each.name, "value": each.value, "given": each.given})
                for each in settings
            ],
        )

    def operations(self) -> list[Operation]:
        return [
            reads("GET", "/configuration", self.show_configuration, models.NoParams,
                  "Show the settings in force, without secrets", Answer(model=reports.Configuration)),
        ]  # fmt: skip

    async def show_configuration(self, _: web.Request, __: models.NoParams) -> web.Response:
        return json(self._shown)
