from pathlib import Path

import pytest

from gateway.app import serve
from gateway.settings import Settings
from gateway.workers import worker
from gateway.workers.worker import NotReady, until_ready
from tests.harness import configuration, write_jwks
from tests.tokens import rsa_key


async def test_a_successor_waits_for_its_dependencies_and_gives_up(
    tmp_path: Path, dsn: str, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = configuration(tmp_path, "http://127.0.0.1:9", dsn, redis_url, "gateway:")
    (tmp_path / "main.json").unlink()
    issuers = settings["issuers"]
    assert isinstance(issuers, list)
    settings["issuers"] = issuers[:1]
    monkeypatch.setattr(worker, "READY_SECONDS", 0.3)
    async with serve(Settings.model_validate(settings)) as running:
        with pytest.raises(NotReady, match=r"not ready after 0.3 s: issuer:main: .*main.json"):
            await until_ready(running)

    write_jwks(tmp_path / "main.json", rsa_key("main"))
    async with serve(Settings.model_validate(settings)) as running:
        await until_ready(running)
