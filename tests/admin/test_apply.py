"""`POST /v1/explain/apply`: only what an explanation offers, only as it was shown, and audited by name."""

import uuid
from typing import Any

import pytest

from tests.admin.client import Api
from tests.explain.secret import assert_absent
from tests.harness import token

session = pytest.mark.asyncio(loop_scope="session")


async def suspended(api: Api) -> tuple[str, bytes]:
    """Add a suspended user; return its id, and a token."""
    subject = f"applied-{uuid.uuid4().hex}"
    user = (await api.new_user(subject, status="suspended")).json
    return user["id"], token(subject)


async def offered(api: Api, raw: bytes) -> dict[str, Any]:  # Any: JSON
    answer = await api.call("POST", "/explain", {"token": raw.decode(), "url": "/private/x"})
    change: dict[str, Any] = answer.json["fix"]["change"]
    return change


@session
async def test_the_fix_of_a_token_is_applied_and_audited(api: Api) -> None:
    user, raw = await suspended(api)
    assert (await api.house.request("/private/x", token=raw)).status == 401
    change = await offered(api, raw)
    assert change["edits"] == [{"what": "status", "before": "suspended", "after": "active"}]

    about = {"token": raw.decode(), "url": "/private/x"}
    answer = await api.call("POST", "/explain/apply", {**about, "change": change, "operator": "Ann"})

    assert answer.status == 200, answer.content
    assert answer.json["explanation"]["decision"] == "allow"
    assert answer.json["change"] == change
    assert (await api.house.request("/private/x", token=raw)).status == 200
    entry = (await api.get("/audit", limit=1)).json["items"][0]
    assert (entry["action"], entry["target"], entry["actor"]) == (
        "user.change", f"user:{user}", "api@127.0.0.1 (Ann)",
    )  # fmt: skip
    assert entry["actor"] == answer.json["actor"]
    assert entry["request_id"] == answer.headers["x-request-id"]
    assert_absent(raw, answer.content)
    assert_absent(raw, api.house.log.getvalue())


@session
async def test_the_fix_of_a_denied_request_is_applied_without_its_token(api: Api) -> None:
    _, raw = await suspended(api)
    refused = await api.house.request("/private/x", token=raw)
    request_id = str(refused.problem["request_id"])
    kept = await api.get("/denials/explanation", request_id=request_id)
    change = kept.json["explanation"]["fix"]["change"]

    answer = await api.call("POST", "/explain/apply", {"request_id": request_id, "change": change})

    assert answer.status == 200, answer.content
    assert answer.json["actor"] == "api@127.0.0.1"
    assert "active now" in answer.json["explanation"]["fix"]["text"]
    assert (await api.house.request("/private/x", token=raw)).status == 200


@session
async def test_only_an_offered_change_is_made(api: Api) -> None:
    user, raw = await suspended(api)
    change = await offered(api, raw)
    before = (await api.get("/audit", limit=1)).json["items"]
    other = {**change, "edits": [{"what": "roles", "before": None, "after": "admin"}]}
    elsewhere = {**change, "target": f"user {uuid.uuid4()}"}
    for forged in (other, elsewhere, {**change, "question": None}):
        answer = await api.call("POST", "/explain/apply", {"token": raw.decode(), "change": forged})
        assert (answer.status, answer.code) == (409, "fix_changed")
    # The fix for this one is the issuer's.
    foreign = token("member", aud="another-api").decode()
    answer = await api.call("POST", "/explain/apply", {"token": foreign, "change": change})
    assert (answer.status, answer.code) == (409, "fix_changed")
    await api.house.sql("UPDATE users SET status = 'locked' WHERE id = $1::uuid", user)
    answer = await api.call("POST", "/explain/apply", {"token": raw.decode(), "change": change})
    assert (answer.status, answer.code) == (409, "fix_changed")
    assert (await api.get("/audit", limit=1)).json["items"] == before


@session
async def test_wrong_requests_are_refused(api: Api) -> None:
    _, raw = await suspended(api)
    change = await offered(api, raw)
    both = {"token": raw.decode(), "request_id": "r", "change": change}
    assert (await api.call("POST", "/explain/apply", both)).status == 422
    assert (await api.call("POST", "/explain/apply", {"change": change})).status == 422
    gone = {"request_id": "of-no-request", "change": change}
    assert (await api.call("POST", "/explain/apply", gone)).status == 404
