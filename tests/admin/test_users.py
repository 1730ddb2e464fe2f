"""`/v1/users`, and the effect of its changes on requests."""

import uuid

import pytest

from tests import tokens
from tests.admin.client import Api
from tests.harness import SECOND_ISSUER, token

session = pytest.mark.asyncio(loop_scope="session")


def fresh(prefix: str = "user") -> str:
    return f"{prefix}-{uuid.uuid4().hex}"


async def status(api: Api, subject: str) -> int:
    return (await api.house.request("/private/x", token=token(subject))).status


@session
async def test_a_user_is_created_and_passes_at_once(api: Api) -> None:
    subject = fresh()
    assert await status(api, subject) == 401  # remembered as absent
    created = await api.new_user(
        subject, email="Ann@example.com", display_name="Ann", roles=["reader"], tenant="acme"
    )
    assert await status(api, subject) == 200

    user = created.json
    assert created.headers["location"] == f"/v1/users/{user['id']}"
    assert user == {
        "id": user["id"],
        "status": "active",
        "tenant": "acme",
        "email": "Ann@example.com",
        "display_name": "Ann",
        "roles": ["reader"],
        "tokens_valid_after": None,
        "created_at": user["created_at"],
        "updated_at": user["created_at"],
        "deleted_at": None,
        "identities": [{"issuer": tokens.ISSUER, "issuer_name": "main", "subject": subject}],
    }
    assert user["created_at"].endswith("Z")
    shown = await api.get(f"/users/{user['id']}")
    assert (shown.json, shown.headers["etag"]) == (user, created.headers["etag"])


@session
async def test_an_identity_leads_to_one_user_only(api: Api) -> None:
    subject = fresh()
    await api.new_user(subject)
    other = (await api.new_user(fresh())).json["id"]
    for answer in (
        await api.call("POST", "/users", {"issuer": "main", "subject": subject}),
        await api.call("POST", f"/users/{other}/identities", {"issuer": tokens.ISSUER, "subject": subject}),
    ):
        assert (answer.status, answer.code) == (409, "identity_taken")


@session
async def test_a_change_affects_only_the_given_fields_and_counts_at_its_response(api: Api) -> None:
    subject = fresh()
    user = await api.new_user(subject, email="a@example.com", tenant="acme", roles=["a"])
    path = f"/users/{user.json['id']}"
    assert await status(api, subject) == 200

    suspended = await api.call("PATCH", path, {"status": "suspended"}, headers=user.tag)
    assert suspended.status == 200
    assert await status(api, subject) == 401
    for key in ("email", "tenant", "roles", "identities"):
        assert suspended.json[key] == user.json[key]

    changed = await api.call(
        "PATCH", path, {"status": "active", "tenant": None, "roles": ["b"]}, headers=suspended.tag
    )
    assert (changed.json["tenant"], changed.json["roles"]) == (None, ["b"])
    assert await status(api, subject) == 200


@session
async def test_since_when_a_users_tokens_count(api: Api) -> None:
    subject = fresh()
    user = await api.new_user(subject)
    path = f"/users/{user.json['id']}"
    later = await api.call(
        "PATCH", path, {"tokens_valid_after": "2999-01-01T01:00:00+01:00"}, headers=user.tag
    )
    assert (later.status, later.json["tokens_valid_after"]) == (200, "2999-01-01T00:00:00Z")
    assert await status(api, subject) == 401
    named = await api.call("PATCH", path, {"tenant": "acme"}, headers=later.tag)
    assert named.json["tokens_valid_after"] == "2999-01-01T00:00:00Z"
    cleared = await api.call("PATCH", path, {"tokens_valid_after": None}, headers=named.tag)
    assert cleared.json["tokens_valid_after"] is None
    assert await status(api, subject) == 200
    for wrong in ("2999-01-01T00:00:00", 4_000_000_000, ""):
        refused = await api.call("PATCH", path, {"tokens_valid_after": wrong}, headers={"If-Match": "*"})
        assert (refused.status, refused.code) == (422, "validation_failed")


@session
async def test_a_change_of_a_state_that_was_not_seen_is_refused(api: Api) -> None:
    user = await api.new_user(fresh())
    path = f"/users/{user.json['id']}"

    for method, body in (("PATCH", {"status": "locked"}), ("DELETE", None)):
        refused = await api.call(method, path, body)
        assert (refused.status, refused.code) == (428, "precondition_required")
        for stale in ('"0123"', f"W/{user.headers['etag']}", "nonsense"):
            refused = await api.call(method, path, body, headers={"If-Match": stale})
            assert (refused.status, refused.code) == (412, "precondition_failed")
    assert (await api.get(path)).json == user.json

    await api.house.sql("UPDATE users SET display_name = 'Bob' WHERE id = $1", uuid.UUID(user.json["id"]))
    assert (await api.call("PATCH", path, {"status": "locked"}, headers=user.tag)).status == 412
    either = {"If-Match": f'"0123", {(await api.get(path)).headers["etag"]}'}
    assert (await api.call("PATCH", path, {"status": "locked"}, headers=either)).status == 200
    assert (await api.call("PATCH", path, {"status": "active"}, headers={"If-Match": "*"})).status == 200


@session
async def test_an_identity_that_came_or_went_is_another_state(api: Api) -> None:
    user = await api.new_user(fresh())
    path = f"/users/{user.json['id']}"
    subject = fresh("linked")
    linked = await api.call("POST", f"{path}/identities", {"issuer": "second", "subject": subject})
    assert linked.status == 201
    assert (await api.call("PATCH", path, {"roles": []}, headers=user.tag)).status == 412
    gone = await api.call(
        "DELETE",
        f"{path}/identities",
        headers=linked.tag,
        query={"issuer": SECOND_ISSUER, "subject": subject},
    )
    assert gone.status == 200
    assert (await api.call("PATCH", path, {"roles": []}, headers=linked.tag)).status == 412


@session
async def test_a_user_is_deleted_softly_and_restored(api: Api) -> None:
    subject = fresh()
    user = await api.new_user(subject)
    path = f"/users/{user.json['id']}"
    deleted = await api.call("DELETE", path, headers=user.tag)
    assert (deleted.status, deleted.json["status"]) == (200, "deleted")
    assert deleted.json["deleted_at"] is not None
    assert await status(api, subject) == 401

    refused = await api.call("DELETE", path, headers=deleted.tag)
    assert (refused.status, refused.code) == (409, "user_deleted")
    refused = await api.call("PATCH", path, {"status": "active"}, headers=deleted.tag)
    assert (refused.status, refused.code) == (409, "user_deleted")

    restored = await api.call("POST", f"{path}/restore")
    assert (restored.json["status"], restored.json["deleted_at"]) == ("active", None)
    assert await status(api, subject) == 200
    refused = await api.call("POST", f"{path}/restore")
    assert (refused.status, refused.code) == (409, "user_not_deleted")


@session
async def test_identities_are_linked_and_unlinked_at_once(api: Api) -> None:
    user = await api.new_user(fresh())
    path = f"/users/{user.json['id']}"
    subject = fresh("alias")
    assert await status(api, subject) == 401
    linked = await api.call("POST", f"{path}/identities", {"issuer": "main", "subject": subject})
    assert (linked.status, len(linked.json["identities"])) == (201, 2)
    assert await status(api, subject) == 200
    unlinked = await api.call("DELETE", f"{path}/identities", query={"issuer": "main", "subject": subject})
    assert unlinked.json["identities"] == user.json["identities"]
    assert await status(api, subject) == 401
    missing = await api.call("DELETE", f"{path}/identities", query={"issuer": "main", "subject": subject})
    assert (missing.status, missing.code) == (404, "not_found")


@session
async def test_an_identity_of_an_issuer_that_is_gone_can_be_unlinked(api: Api) -> None:
    user = await api.new_user(fresh())
    subject = fresh("old")
    await api.house.sql(
        "INSERT INTO identities VALUES ('https://gone.example.com', $1, $2)",
        subject,
        uuid.UUID(user.json["id"]),
    )
    path = f"/users/{user.json['id']}"
    assert [each["issuer_name"] for each in (await api.get(path)).json["identities"]] == ["main", None]
    gone = await api.call(
        "DELETE", f"{path}/identities", query={"issuer": "https://gone.example.com", "subject": subject}
    )
    assert gone.json["identities"] == user.json["identities"]
    refused = await api.call(
        "POST", f"{path}/identities", {"issuer": "https://gone.example.com", "subject": subject}
    )
    assert (refused.status, refused.problem["errors"][0]["field"]) == (422, "issuer")


@session
async def test_a_user_that_is_not_there(api: Api) -> None:
    path = f"/users/{uuid.uuid4()}"
    tag = {"If-Match": "*"}
    for answer in (
        await api.get(path),
        await api.call("PATCH", path, {"roles": []}, headers=tag),
        await api.call("DELETE", path, headers=tag),
        await api.call("POST", f"{path}/restore"),
        await api.call("POST", f"{path}/identities", {"issuer": "main", "subject": fresh()}),
        await api.call("DELETE", f"{path}/identities", query={"issuer": "main", "subject": "x"}),
    ):
        assert (answer.status, answer.code) == (404, "not_found")


@session
async def test_users_are_found_by_subject_id_address_and_name(api: Api) -> None:
    mark = uuid.uuid4().hex
    subject = fresh("find|me")
    user = await api.new_user(subject, email=f"Find_{mark}@example.com", display_name=f"Näme {mark}")
    decoy = await api.new_user(fresh(), email=f"findX{mark}@example.com")
    for text in (subject, user.json["id"], f"find_{mark}", f"FIND_{mark}@EXAMPLE", f"näme {mark[:8]}"):
        found = (await api.get("/users", q=text)).json["items"]
        assert [each["id"] for each in found] == [user.json["id"]], text
    for text in ("%", "find%", mark, f"{subject} ", "\\"):
        assert (await api.get("/users", q=text)).json["items"] == []
    assert (await api.get("/users", q=f"find_{mark}", status="locked")).json["items"] == []
    assert (await api.get("/users", q=f"findx{mark}")).json["items"] == [decoy.json]


@session
async def test_pages_have_every_user_once(api: Api) -> None:
    tenant = fresh("tenant")
    ids = [(await api.new_user(fresh(), tenant=tenant)).json["id"] for _ in range(5)]
    # Two of one instant, too.
    await api.house.sql(
        "UPDATE users SET created_at = '2026-01-01 12:00:00.123457+00' WHERE tenant = $1", tenant
    )
    seen: list[str] = []
    query: dict[str, str | int] = {"tenant": tenant, "limit": 2}
    for size in (2, 2, 1):
        page = (await api.get("/users", **query)).json
        assert len(page["items"]) == size
        seen += [each["id"] for each in page["items"]]
        query["after"] = page["next"] or ""
    assert query["after"] == ""
    assert sorted(seen) == sorted(ids)
    assert [
        each["status"] for each in (await api.get("/users", tenant=tenant, status="locked")).json["items"]
    ] == []


@session
async def test_times_that_no_calendar_has_are_shown_as_the_nearest(api: Api) -> None:
    user = await api.new_user(fresh())
    await api.house.sql(
        "UPDATE users SET tokens_valid_after = 'infinity', created_at = '-infinity' WHERE id = $1",
        uuid.UUID(user.json["id"]),
    )
    shown = await api.get(f"/users/{user.json['id']}")
    assert (shown.json["tokens_valid_after"], shown.json["created_at"]) == (
        "9999-12-31T23:59:59Z",
        "0001-01-01T00:00:00Z",
    )
    tag = shown.tag
    assert (await api.call("PATCH", f"/users/{user.json['id']}", {"roles": ["x"]}, headers=tag)).status == 200
