"""The admin endpoints of a worker among others."""

from prometheus_client.parser import text_string_to_metric_families
from pytest_aiohttp.plugin import AiohttpClient

from gateway.admin.health import Admin, Dependency, Finding, Readiness
from gateway.telemetry.metrics import Metrics
from tests.fakes import FakeWorkers


def dependency(finding: Finding) -> Dependency:
    async def check() -> Finding:
        return finding

    return Dependency(check, essential=True)


UP, DOWN = Finding("up"), Finding("down", "refused")


async def test_the_gateway_is_as_ready_as_its_readiest_worker(aiohttp_client: AiohttpClient) -> None:
    workers = FakeWorkers()
    admin = Admin(Metrics(), {"postgres": dependency(DOWN)}, workers)
    client = await aiohttp_client(admin.application())

    assert (await client.get("/readyz")).status == 503

    workers.ready = [Readiness("not_ready", {"postgres": DOWN})]
    answer = await client.get("/readyz")
    assert (answer.status, (await answer.json())["dependencies"]["postgres"]["detail"]) == (503, "refused")

    workers.ready.append(Readiness("degraded", {"postgres": UP}))
    answer = await client.get("/readyz")
    assert (answer.status, await answer.json()) == (
        200,
        {"status": "degraded", "dependencies": {"postgres": {"status": "up", "detail": None}}},
    )


async def test_a_draining_gateway_is_not_ready_even_if_others_are(
    aiohttp_client: AiohttpClient,
) -> None:
    workers = FakeWorkers()
    workers.ready = [Readiness("ready", {})]
    admin = Admin(Metrics(), {"postgres": dependency(UP)}, workers)
    client = await aiohttp_client(admin.application())
    assert (await client.get("/readyz")).status == 200

    admin.draining = True

    answer = await client.get("/readyz")
    assert (answer.status, (await answer.json())["status"]) == (503, "draining")
    assert (await client.get("/healthz")).status == 200


async def test_metrics_are_those_of_all_workers(aiohttp_client: AiohttpClient) -> None:
    mine, other = Metrics(), Metrics()
    mine.finished("orders", "GET", 200, 0.1)
    other.finished("orders", "GET", 200, 0.1)
    other.finished("orders", "GET", 200, 0.1)
    workers = FakeWorkers()
    workers.others = [other.snapshot()]
    client = await aiohttp_client(Admin(mine, {}, workers).application())

    page = await (await client.get("/metrics")).text()

    samples = [sample for family in text_string_to_metric_families(page) for sample in family.samples]
    assert [sample.value for sample in samples if sample.name == "gateway_requests_total"] == [3]
