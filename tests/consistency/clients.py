"""Clients that send requests without pause, on kept connections, with all users' tokens in turn."""

import asyncio
import random
import time
from collections.abc import Sequence
from typing import Final

from tests.consistency.history import Answer, History
from tests.consistency.world import Person, signed
from tests.sockets import Response, request_bytes
from tests.workers.program import Client, connected

CLIENTS: Final = 12
"""Enough that each worker has some of the connections: all on one of two comes once in 2,000 runs."""
_PAUSE: Final = 0.012
"""Mean seconds between two requests of a client: the stores and the gateway shall not starve."""


async def hammer(
    url: str, people: Sequence[Person], history: History, chance: random.Random, *, count: int = CLIENTS
) -> None:
    """Ask until cancelled, and record every answer."""
    requests = [
        (jti, request_bytes("GET", "/", token=signed(person, jti)))
        for person in people
        for jti in person.jtis
    ]
    async with asyncio.TaskGroup() as clients:
        for _ in range(count):
            order = random.Random(chance.random())  # noqa: S311 -- a schedule to be replayed, no secret
            clients.create_task(_one(url, requests, history, order))


async def _one(
    url: str, requests: Sequence[tuple[str, bytes]], history: History, chance: random.Random
) -> None:
    while True:
        try:
            async with connected(url) as client:
                await _ask_until_told_to_close(client, requests, history, chance)
        except OSError as error:
            now = time.monotonic()
            history.answers.append(Answer(now, now, requests[0][0], 0, repr(error)))
            await asyncio.sleep(0.1)


async def _ask_until_told_to_close(
    client: Client, requests: Sequence[tuple[str, bytes]], history: History, chance: random.Random
) -> None:
    while True:
        jti, request = chance.choice(requests)
        begin = time.monotonic()
        try:
            await client.send(request)
            response = await client.answer()
        except (OSError, TimeoutError) as error:
            history.answers.append(Answer(begin, time.monotonic(), jti, 0, repr(error)))
            return
        history.answers.append(_recorded(begin, jti, response))
        if response.values(b"connection") == [b"close"]:
            return
        await asyncio.sleep(chance.expovariate(1 / _PAUSE))


def _recorded(begin: float, jti: str, response: Response) -> Answer:
    end = time.monotonic()
    if response.status == 200:
        return Answer(begin, end, jti, 200, user=response.body.decode())
    return Answer(begin, end, jti, response.status, str(response.code))
