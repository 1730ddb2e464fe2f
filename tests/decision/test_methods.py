"""Methods that end at a proxy, where that proxy is the front: the gateway decides on them like on others."""

import pytest

from tests.decision.asking import ASKS, Ask, ask
from tests.harness import House, token

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest.mark.parametrize("asks", ASKS.values(), ids=ASKS.keys())
async def test_max_forwards_lets_no_request_pass_without_a_token(door: House, asks: Ask) -> None:
    """The front may forward it all the same, as many do."""
    for value in (b"0", b"1"):
        field = b"Max-Forwards: " + value
        refused = await ask(door, asks("OPTIONS", "/private/x", field))
        assert (refused.status, refused.code) == (401, "credentials_missing")
        assert (await ask(door, asks("OPTIONS", "/private/x", field, token=token()))).status == 200
