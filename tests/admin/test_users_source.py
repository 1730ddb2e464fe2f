"""`/v1/users` and `/v1/revocations` where users are in tables of another system."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import quote

import pytest

from gateway.core.model import JSON
from gateway.stores.postgres.migrate import migrate
from gateway.stores.postgres.source.install import install
from tests import tokens
from tests.admin.client import TOKEN, Api
from tests.harness import open_house, token
from tests.systems.fixtures import Systems
from tests.systems.sources import BLOCKS, source_of
from tests.systems.system import System


@asynccontextmanager
async def api_over(system: System, folder: Path, redis_url: str, **changes: JSON) -> AsyncIterator[Api]:
    """Run a gateway over a system, with its triggers and the admin API."""
    block: dict[str, JSON] = {**BLOCKS[system.name], **changes}
    await migrate(system.dsn, "gateway_own")
    await install(system.dsn, source_of(block), {"main": tokens.ISSUER})
    async with (
        open_house(
            folder,
            system.dsn,
            redis_url,
            seeded=False,
            admin={"token": TOKEN},
            postgres={"schema": "gateway_own"},
            users={"source": {**block, "issuer": "main"}},
        ) as house,
        Api.of(house) as api,
    ):
        yield api


async def until_answered(api: Api, status: int, subject: str) -> None:
    bearer = token(subject)
    deadline = time.monotonic() + 5
    while (response := await api.house.request("/private/x", token=bearer)).status != status:
        assert time.monotonic() < deadline, response.body
        await asyncio.sleep(0.02)


async def test_ids_are_those_of_the_system(tmp_path: Path, redis_url: str, systems: Systems) -> None:
    system = await systems("django")
    people = await system.add(3)
    person = people[1]
    async with api_over(system, tmp_path, redis_url) as api:
        user = (await api.get(f"/users/{person.id}")).json
        assert (user["id"], user["email"], user["status"]) == (person.id, person.email, "active")
        assert user["created_at"] is not None
        assert (user["updated_at"], user["deleted_at"]) == (None, None)
        assert user["identities"] == [
            {"issuer": tokens.ISSUER, "issuer_name": "main", "subject": person.subject}
        ]
        assert (await api.get("/users/9999")).code == "not_found"
        assert (await api.get("/users/ann")).code == "not_found"
        first = (await api.get("/users", limit=2)).json
        second = (await api.get("/users", limit=2, after=first["next"])).json
        listed = [each["id"] for each in (*first["items"], *second["items"])]
        assert (listed, second["next"]) == ([each.id for each in people], None)
        found = (await api.get("/users", q=person.subject)).json["items"]
        assert [each["id"] for each in found] == [person.id]
        wrong = await api.get("/users", after="0.ann")
        assert (wrong.code, wrong.problem["errors"][0]["field"]) == ("validation_failed", "after")


async def test_a_source_is_read_only(tmp_path: Path, redis_url: str, systems: Systems) -> None:
    system = await systems("django")
    (person,) = await system.add()
    async with api_over(system, tmp_path, redis_url) as api:
        path = f"/users/{person.id}"
        tag = (await api.get(path)).tag
        refused = await api.call("PATCH", path, {"status": "suspended"}, headers=tag)
        assert (refused.status, refused.code) == (409, "users_source_read_only")
        assert "auth_user, where `NOT is_active` makes a user suspended" in refused.problem["detail"]
        for method, where, body in (
            ("DELETE", path, None),
            ("POST", "/users", {"issuer": "main", "subject": "new"}),
            ("POST", f"{path}/identities", {"issuer": "main", "subject": "new"}),
        ):
            assert (await api.call(method, where, body, headers=tag)).code == "users_source_read_only"
        assert (await api.get("/audit")).json["items"] == []


async def test_a_change_is_in_force_when_it_is_answered(
    tmp_path: Path, redis_url: str, systems: Systems
) -> None:
    system = await systems("supabase")
    person, other = await system.add(2)
    async with api_over(system, tmp_path, redis_url, writable=True) as api:
        await until_answered(api, 200, person.subject)
        path = f"/users/{person.id}"
        shown = await api.get(path)
        changed = await api.call("PATCH", path, {"status": "suspended"}, headers=shown.tag)
        assert changed.json["status"] == "suspended"
        assert (await api.house.request("/private/x", token=token(person.subject))).status == 401
        assert (await api.house.request("/private/x", token=token(other.subject))).status == 200
        assert (await api.call("PATCH", path, {"status": "active"}, headers=shown.tag)).status == 412
        restored = await api.call("PATCH", path, {"status": "active"}, headers=changed.tag)
        assert restored.json["status"] == "active"
        assert (await api.house.request("/private/x", token=token(person.subject))).status == 200
        roles = await api.call("PATCH", path, {"roles": ["admin"]}, headers=restored.tag)
        assert (roles.status, roles.code) == (409, "not_writable")
        assert "raw_app_meta_data -> 'roles'" in roles.problem["detail"]
        actions = [each["action"] for each in (await api.get("/audit")).json["items"]]
        assert actions == ["user.change", "user.change"]


@pytest.mark.parametrize("name", ["django", "aspnet-identity"])
async def test_tokens_of_a_user_are_revoked_by_the_systems_id(
    tmp_path: Path, redis_url: str, systems: Systems, name: str
) -> None:
    system = await systems(name)
    person, other = await system.add(2)
    async with api_over(system, tmp_path, redis_url) as api:
        await until_answered(api, 200, person.subject)
        old = token(person.subject)
        revoked = await api.call("POST", "/revocations", {"kind": "user", "value": person.id})
        assert (revoked.status, revoked.json["value"]) == (201, person.id)
        assert (await api.house.request("/private/x", token=old)).status == 401
        assert (await api.house.request("/private/x", token=token(other.subject))).status == 200
        unknown = await api.call("POST", "/revocations", {"kind": "user", "value": "no such id"})
        assert unknown.code == "validation_failed"
        lifted = await api.call("DELETE", f"/revocations?kind=user&value={quote(person.id)}")
        assert lifted.status == 204
        assert (await api.house.request("/private/x", token=old)).status == 200


async def test_a_revocation_in_redis_alone_is_put_on_record(
    tmp_path: Path, redis_url: str, systems: Systems
) -> None:
    system = await systems("django")
    (person,) = await system.add()
    async with api_over(system, tmp_path, redis_url) as api:
        await until_answered(api, 200, person.subject)
        await api.house.set_key(f"revoked:user:{person.id}", str(int(time.time()) + 60))
        await until_answered(api, 401, person.subject)
        deadline = time.monotonic() + 10
        while not (found := (await api.get("/revocations")).json["items"]):
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)
        assert [(each["kind"], each["value"], each["revoked_by"]) for each in found] == [
            ("user", person.id, "redis")
        ]
