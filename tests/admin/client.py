"""A client of the admin API, over real sockets."""

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import aiohttp

from tests.harness import House

TOKEN: Final = "correct-horse-battery-staple"


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    """By lower-case name."""
    content: bytes

    @property
    def json(self) -> Any:  # noqa: ANN401 -- the answer of the API
        return json.loads(self.content)

    @property
    def problem(self) -> Any:  # noqa: ANN401 -- the answer of the API
        assert self.headers["content-type"] == "application/problem+json", self.headers
        problem = self.json
        assert problem["status"] == self.status
        assert problem["type"] == f"urn:gateway:problem:{problem['code']}"
        assert problem["request_id"] == self.headers["x-request-id"]
        return problem

    @property
    def code(self) -> str:
        return str(self.problem["code"])

    @property
    def tag(self) -> dict[str, str]:
        """What to send to change the state that this answer shows."""
        return {"If-Match": self.headers["etag"]}


class Api:
    """Sends requests with the token unless another, or none, is given."""

    def __init__(self, house: House, session: aiohttp.ClientSession) -> None:
        self.house = house
        self.session = session

    @classmethod
    @asynccontextmanager
    async def of(cls, house: House) -> "AsyncIterator[Api]":
        async with aiohttp.ClientSession(house.admin_url) as session:
            yield cls(house, session)

    async def call(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        headers: dict[str, str] | None = None,
        token: str | None = TOKEN,
        data: bytes | None = None,
        query: Mapping[str, str | int] | None = None,
    ) -> Answer:
        sent = dict(headers or {})
        if token is not None:
            sent.setdefault("Authorization", f"Bearer {token}")
        if body is not None:
            data = json.dumps(body).encode()
            sent.setdefault("Content-Type", "application/json")
        async with self.session.request(
            method, f"/v1{path}", headers=sent, data=data, params=query, allow_redirects=False
        ) as response:
            found = {name.lower(): value for name, value in response.headers.items()}
            return Answer(response.status, found, await response.read())

    async def get(self, path: str, **query: str | int) -> Answer:
        return await self.call("GET", path, query=query)

    async def new_user(self, subject: str, **fields: object) -> Answer:
        answer = await self.call("POST", "/users", {"issuer": "main", "subject": subject, **fields})
        assert answer.status == 201, answer.content
        return answer
