"""Threats: state: what is in shadow lets requests through, and no identity that is not proven."""

import json
from pathlib import Path
from typing import Any

from gateway.core.model import JSON
from tests import tokens
from tests.harness import configuration, open_house, token
from tests.threats.test_identity_headers import as_cgi_sees_it

IDENTITY = (b"x-user-id", b"x-user-roles", b"x-auth-subject", b"x-auth-issuer", b"authorization")


async def test_no_identity_comes_of_a_token_that_is_not_good(
    tmp_path: Path, dsn: str, redis_url: str
) -> None:
    """Not from the token, not from the client's own headers, and not from the token passed on."""
    written: Any = configuration(tmp_path, "http://127.0.0.1:9", dsn, redis_url, "x:")
    routes: list[JSON] = [
        {**each, "mode": "shadow", "forward_authorization": True} for each in written["routes"]
    ]
    admin: dict[str, JSON] = {"listen": "127.0.0.1:0", "token": "sixteen-and-more-characters"}
    async with open_house(tmp_path, dsn, redis_url, routes=routes, admin=admin) as house:
        forged = tokens.sign(tokens.claims("admin"), tokens.rsa_key("stranger"), kid="main")
        unsigned = token("admin").rpartition(b".")[0] + b"."
        for raw in (forged, unsigned, token("admin", aud="other"), token("suspended"), b"opaque", None):
            received = await house.forwarded("/admin/x", b"X_User_Id: 1", b"X-User-Roles: admin", token=raw)
            seen = as_cgi_sees_it(received)
            assert [name for name in IDENTITY if name in seen] == [], raw
        received = await house.forwarded("/browser/x", b"Cookie: session=" + forged)
        assert not [name for name in (*IDENTITY, b"cookie") if name in as_cgi_sees_it(received)]
        # Who lacks but the role is known, and is told.
        seen = as_cgi_sees_it(await house.forwarded("/admin/x", token=(good := token())))
        assert seen[b"x-user-roles"] == [b"reader,writer"]
        assert seen[b"authorization"] == [b"Bearer " + good]
        assert (
            await house.metric(
                "gateway_shadow_denials_total", route="admin", issuer="main", reason="role_missing"
            )
            == 1
        )
        assert (
            await house.metric("gateway_denials_total", route="admin", issuer="main", reason="role_missing")
            == 0
        )
        assert {line["reason"] for line in house.events("shadow_denied")} >= {
            "signature_invalid",
            "role_missing",
        }
        for query, expected in (("?shadow=true", 8), ("", 0)):
            listed = await house.admin(f"/v1/denials{query}", str(admin["token"]).encode())
            assert len(json.loads(listed.content)["items"]) == expected
        # What is about the request itself is enforced.
        assert (await house.request("/private/../x", token=token())).status == 400
        assert (await house.request("/nowhere", token=token())).status == 404
