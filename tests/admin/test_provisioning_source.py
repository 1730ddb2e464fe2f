"""A first request creates its user in the tables of another system, where these may be written to."""

import asyncio
from pathlib import Path

import asyncpg

from gateway.core.model import JSON
from gateway.stores.postgres.migrate import migrate
from gateway.stores.postgres.source.install import install
from tests.admin.client import TOKEN, Api
from tests.harness import JOINING_ISSUER, newcomer, open_house
from tests.systems.sources import source_of

BLOCK: dict[str, JSON] = {
    "table": "people",
    "id": "id",
    "writable": True,
    "status": [{"when": "gone_at IS NOT NULL", "is": "deleted"}],
    "email": "mail",
    "display_name": "name",
    "tenant": "org",
    "roles": "roles",
    "identities": [{"table": "logins", "subject": "sub", "user": "person"}],
}


def bearer(subject: str, email: str) -> bytes:
    return newcomer(subject, email=email)


async def test_a_first_request_creates_its_user(tmp_path: Path, empty_dsn: str, redis_url: str) -> None:
    connection = await asyncpg.connect(empty_dsn)
    await connection.execute(
        "CREATE TABLE people (id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY, mail text, name text,"
        " org text, roles text[] NOT NULL DEFAULT '{}', gone_at timestamptz);"
        "CREATE TABLE logins (sub text PRIMARY KEY, person integer NOT NULL REFERENCES people)"
    )
    await migrate(empty_dsn, "gateway_own")
    await install(empty_dsn, source_of(BLOCK), {"main": JOINING_ISSUER})
    async with (
        open_house(
            tmp_path,
            empty_dsn,
            redis_url,
            seeded=False,
            admin={"token": TOKEN},
            postgres={"schema": "gateway_own"},
            users={"source": {**BLOCK, "issuer": "joining"}},
        ) as house,
        Api.of(house) as api,
    ):
        await house.ready()
        explained = await api.call(
            "POST", "/explain", {"token": bearer("ann", "ann@x.org").decode(), "url": "/join/x"}
        )
        assert explained.json["decision"] == "allow"
        assert "creates one" in explained.json["summary"]
        assert await connection.fetchval("SELECT count(*) FROM people") == 0

        answers = await asyncio.gather(
            *(house.request("/join/x", token=bearer("ann", "ann@x.org")) for _ in range(40))
        )
        assert {answer.status for answer in answers} == {200}
        assert await connection.fetchval("SELECT count(*) FROM people") == 1
        received = await house.forwarded("/join/x", token=bearer("ann", "ann@x.org"))
        assert received.values(b"x-user-id") == [b"1"]
        taken = await house.request("/join/x", token=bearer("ann-2", "ANN@x.org"))
        assert taken.code == "account_not_linked"
        actions = [each["action"] for each in (await api.get("/audit")).json["items"]]
        assert actions == ["user.provision"]
    await connection.close()
