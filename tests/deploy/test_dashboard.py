"""Grafana's dashboard: what it asks is there, in a real Prometheus that scrapes a real gateway."""

import asyncio
import json
import math
import re
import shutil
import ssl
import uuid
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp
import pytest

from gateway.core.model import JSON
from gateway.telemetry.metrics import Metrics
from tests import tokens
from tests.harness import SECOND_ISSUER, seed, token, unused_port, write_jwks
from tests.issuer_keys.opaque import serving
from tests.sockets import RawUpstream
from tests.test_app import self_signed
from tests.workers.program import Program, route, running

DASHBOARD: Final = Path(__file__).parent.parent.parent / "deploy" / "grafana" / "gateway.json"
PROMETHEUS: Final = shutil.which("prometheus")
DATA_SOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}
# What Grafana puts in the place of its variables.
VARIABLES: Final = {
    "$__rate_interval": "10s",
    "$__range": "1m",
    "$job": "gateway",
    "$instance": ".*",
    "$route": ".*",
}
UNITS: Final = {
    "short", "reqps", "cps", "Bps", "bytes", "s", "percentunit", "dateTimeFromNow",
}  # fmt: skip
PATIENCE: Final = 60.0
ASKED: Final = {
    "X-Forwarded-Method": "GET",
    "X-Forwarded-Proto": "https",
    "X-Forwarded-Host": "api.test",
    "X-Forwarded-Uri": "/private/x",
}
"""What Traefik asks."""

CONFIGURATION: Final = """
global: {scrape_interval: 500ms, scrape_timeout: 500ms}
scrape_configs:
  - job_name: gateway
    static_configs: [{targets: ["%s"]}]
"""


@dataclass(frozen=True)
class Query:
    """One query of a panel."""

    panel: str
    expression: str
    legend: str

    @property
    def sent(self) -> str:
        text = self.expression
        for name, value in VARIABLES.items():
            text = text.replace(name, value)
        assert "$" not in text, (self.panel, text)
        return text


def dashboard() -> dict[str, Any]:
    document: dict[str, Any] = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    return document


def panels() -> list[dict[str, Any]]:
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def queries() -> Iterator[Query]:
    for panel in panels():
        for target in panel["targets"]:
            yield Query(panel["title"], target["expr"], target["legendFormat"])


def test_it_can_be_imported() -> None:
    """Panels ask the data source that was chosen, lie beside each other, and say what they show."""
    document = dashboard()
    variables = {each["name"]: each for each in document["templating"]["list"]}
    assert list(variables) == ["datasource", "job", "instance", "route"]
    assert variables["datasource"]["type"] == "datasource"
    assert "id" not in document, "a dashboard with an id replaces another one"
    ids = [panel["id"] for panel in document["panels"]]
    assert len(ids) == len(set(ids))
    taken: set[tuple[int, int]] = set()
    for panel in document["panels"]:
        at = panel["gridPos"]
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert not cells & taken, panel["title"]
        assert all(x < 24 for x, _ in cells), panel["title"]
        taken |= cells
    for panel in panels():
        assert panel["datasource"] == DATA_SOURCE
        assert panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"] in UNITS, panel["title"]
        assert all(target["datasource"] == DATA_SOURCE for target in panel["targets"])
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])


def test_each_query_takes_the_chosen_gateways() -> None:
    for query in queries():
        for selector in re.findall(r"(?:gateway|process)_\w+(?:\{([^}]*)\})?", query.expression):
            assert 'job="$job", instance=~"$instance"' in selector, (query.panel, query.expression)


def test_it_shows_every_metric() -> None:
    text = " ".join(query.expression for query in queries())
    names = {snapshot.name for snapshot in Metrics().snapshot() if snapshot.name.startswith("gateway_")}
    assert {name for name in names if not re.search(rf"\b{name}(_total|_bucket)?\b", text)} == set()


@pytest.mark.skipif(PROMETHEUS is None, reason="needs prometheus (Debian: prometheus)")
async def test_every_query_returns_data(tmp_path: Path, dsn: str, redis_url: str) -> None:
    await seed(dsn)
    files = self_signed(tmp_path)
    server: JSON = {"listen": "127.0.0.1:0", "workers": 1, "tls": dict(files)}
    trial: JSON = {"name": "trial", "match": {"path": "/trial/**"}, "upstream": "raw", "mode": "shadow"}
    assert isinstance(trial, dict)
    main: JSON = {
        "name": "main",
        "issuer": tokens.ISSUER,
        "audiences": [tokens.AUDIENCE],
        "keys": {"jwks_file": str(write_jwks(tmp_path / "main.json", tokens.rsa_key("main")))},
        "provisioning": {"roles": ["member"]},
    }
    join: JSON = {
        "name": "join",
        "match": {"path": "/join/**"},
        "upstream": "raw",
        "missing_user": "provision",
    }
    routes: list[JSON] = [
        join,
        route("public", "/public/**"),
        route("private", "/private/**", auth="required"),
        {**trial, "require": {"roles": ["admin"]}},
    ]
    limits: list[JSON] = [{"name": "per-user", "per": "user", "rate": "6000/1m", "routes": ["private"]}]
    decision: dict[str, JSON] = {"listen": "127.0.0.1:0", "trusted_proxies": ["127.0.0.1/32"]}
    assert isinstance(server, dict)
    async with (
        RawUpstream() as upstream,
        serving() as issuer,
        running(
            tmp_path,
            upstream,
            dsn,
            redis_url,
            server=server,
            decision=decision,
            issuers=[main, _opaque(issuer.endpoint)],
            routes=routes,
            limits=limits,
        ) as program,
        _prometheus(tmp_path, program) as ask,
        aiohttp.ClientSession() as session,
    ):
        (listening,) = program.events("listening")
        load = asyncio.create_task(_load(session, program.url, listening["decision"], files["certificate"]))
        try:
            await _until_answered(ask, load)
        finally:
            load.cancel()


def _opaque(endpoint: str) -> JSON:
    asked: JSON = {
        "endpoint": endpoint,
        "client_id": "gateway",
        "client_secret": "s3cret",
        "cache_ttl": "0s",
    }
    return {
        "name": "opaque",
        "issuer": SECOND_ISSUER,
        "audiences": [tokens.AUDIENCE],
        "introspection": asked,
    }


async def _load(session: aiohttp.ClientSession, url: str, decision_url: str, authority: str) -> None:
    """Send a few requests of each kind, again and again."""
    trust = ssl.create_default_context(cafile=authority)
    member = token("member").decode()
    while True:
        for target, bearer in (
            ("/public/x", None),
            ("/private/x", member),
            ("/private/x", token("member").decode()),
            ("/private/x", token("suspended").decode()),
            ("/private/x", "an-opaque-token"),
            ("/private/x", None),
            ("/trial/x", member),
            ("/join/x", token(f"new-{uuid.uuid4().hex}").decode()),
        ):
            fields = {} if bearer is None else {"Authorization": f"Bearer {bearer}"}
            async with session.post(url + target, data=b"hello", headers=fields, ssl=trust) as response:
                await response.read()
        asked = {**ASKED, "Authorization": f"Bearer {member}"}
        async with session.get(f"{decision_url}/forward-auth", headers=asked) as response:
            assert response.status == 200
        await asyncio.sleep(0.05)


class Asking:
    """Prometheus' HTTP API."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session, self._url = session, url

    async def __call__(self, path: str, **parameters: str) -> Any:  # noqa: ANN401 -- JSON
        async with self._session.get(f"{self._url}/api/v1/{path}", params=parameters) as response:
            answer = await response.json()
            assert answer["status"] == "success", (parameters, answer)
            return answer["data"]


@asynccontextmanager
async def _prometheus(folder: Path, program: Program) -> AsyncIterator[Asking]:
    assert PROMETHEUS is not None
    configuration = folder / "prometheus.yml"
    configuration.write_text(CONFIGURATION % urlsplit(program.admin_url).netloc)
    port = unused_port()
    process = await asyncio.create_subprocess_exec(
        PROMETHEUS,
        f"--config.file={configuration}",
        f"--storage.tsdb.path={folder / 'tsdb'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--log.level=error",
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with aiohttp.ClientSession() as session:
            yield Asking(session, f"http://127.0.0.1:{port}")
    finally:
        process.kill()
        await process.wait()


async def _until_answered(ask: Asking, load: "asyncio.Task[None]") -> None:
    """Run all queries until each has an answer. The first scrapes have no rates yet."""
    missing = list(queries())
    try:
        async with asyncio.timeout(PATIENCE):
            while missing:
                assert not load.done(), load
                await asyncio.sleep(0.2)
                try:
                    missing = [query for query in missing if not await _answered(ask, query)]
                except aiohttp.ClientError:
                    continue  # it has just been started
    except TimeoutError:
        pytest.fail(f"no data: {[(query.panel, query.sent) for query in missing]}")
    for variable in dashboard()["templating"]["list"][1:]:
        metric, label = _parts(variable)
        assert await ask(f"label/{label}/values", **{"match[]": metric}), variable["name"]
    for annotation in dashboard()["annotations"]["list"]:
        await ask("query", query=Query("annotation", annotation["expr"], "").sent)


def _parts(variable: Mapping[str, Any]) -> tuple[str, str]:
    found = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["definition"])
    assert found is not None
    return found[1].replace("$job", "gateway"), found[2]


async def _answered(ask: Asking, query: Query) -> bool:
    """Return whether a query has a value, in a series with the labels of its legend."""
    series = (await ask("query", query=query.sent))["result"]
    wanted = set(re.findall(r"\{\{(\w+)\}\}", query.legend))
    for each in series:
        assert wanted <= set(each["metric"]), (query.panel, query.legend, each["metric"])
    assert len({tuple(each["metric"].get(name) for name in sorted(wanted)) for each in series}) == len(
        series
    ), f"{query.panel}: two series have the legend {query.legend}"
    return any(math.isfinite(float(each["value"][1])) for each in series)
