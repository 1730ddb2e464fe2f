"""The verifiers of docs/signed-identity.md, against a gateway and against forgeries."""

import asyncio
import json
import re
import shutil
import sys
import time
from pathlib import Path

import pytest

from gateway.core.assertion import SigningKey, new_pem
from gateway.core.model import JSON
from tests import tokens
from tests.harness import House, token

pytestmark = pytest.mark.asyncio(loop_scope="session")

PAGE = Path(__file__).parents[2] / "docs" / "signed-identity.md"
DRIVERS = {
    "python": """
import json, sys
for line in sys.stdin:
    try:
        print(json.dumps(user_of(line.strip())), flush=True)
    except jwt.PyJWTError:
        print("null", flush=True)
""",
    "js": """
import { createInterface } from "node:readline";
for await (const line of createInterface({ input: process.stdin })) {
  console.log(JSON.stringify(await userOf(line.trim()).catch(() => null)));
}
""",
}


def program(language: str, house: House) -> str:
    (block,) = re.findall(rf"^```{language}\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.M | re.S)
    # The rest is as it stands in the page.
    code: str = block.replace("http://127.0.0.1:8080", house.url).replace('"orders"', '"raw"')
    assert code.count(house.url) == 1
    return code + DRIVERS[language]


async def said_of(language: str, house: House, folder: Path, assertions: list[bytes]) -> list[JSON]:
    """Return what the verifier says of each assertion: None if it refuses it."""
    if language == "js":
        runtime = shutil.which("node")
        if runtime is None:
            pytest.skip("there is no Node.js")
    else:
        runtime = sys.executable
    file = folder / ("verify.mjs" if language == "js" else "verify.py")
    file.write_text(program(language, house), encoding="utf-8")
    process = await asyncio.create_subprocess_exec(
        runtime, file, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(60):
        out, _ = await process.communicate(b"\n".join(assertions) + b"\n")
    assert process.returncode == 0
    return [json.loads(line) for line in out.splitlines()]


@pytest.mark.parametrize("language", DRIVERS)
async def test_a_snippet_accepts_the_gateways_alone(signing: House, tmp_path: Path, language: str) -> None:
    (good,) = (await signing.forwarded("/private/x", token=token())).values(b"x-gateway-assertion")
    (row,) = await signing.sql("SELECT private_key FROM gateway_assertion_keys")
    ours, theirs = SigningKey(row["private_key"], "ES256", 0.0), SigningKey(new_pem("ES256"), "ES256", 0.0)
    now = int(time.time())
    claims: dict[str, JSON] = {"iss": "gateway", "aud": "raw", "sub": "u", "iat": now, "exp": now + 60}
    head, payload, mac = good.split(b".")
    wrong = [
        theirs.token(claims),
        ours.token({**claims, "aud": "bills"}),
        ours.token({**claims, "iss": "other"}),
        ours.token({**claims, "exp": now - 60}),
        ours.token(tokens.without(claims, "exp")),
        tokens.unsigned({"alg": "none", "kid": ours.kid}, claims),
        tokens.sign(claims, ours.pem.encode(), "HS256", kid=ours.kid),
        b".".join((head, payload[:-2] + b"AA", mac)),
        b".".join((head, payload, b"")),
        b"x",
    ]
    accepted, fresh, *refused = await said_of(language, signing, tmp_path, [good, ours.token(claims), *wrong])
    assert isinstance(accepted, dict)
    assert accepted["original_sub"] == "member"
    assert isinstance(fresh, dict)
    assert refused == [None] * len(wrong)
