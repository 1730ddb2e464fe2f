"""Many first requests of one user at several workers: one user."""

import asyncio
from collections import Counter
from contextlib import AbstractAsyncContextManager, suppress
from pathlib import Path

import asyncpg

from gateway.core.model import Identity
from gateway.stores.postgres.database import Postgres
from gateway.stores.postgres.directory.users import IdentityTaken, UserDirectory
from tests import tokens
from tests.harness import write_jwks
from tests.sockets import RawUpstream, Response, request_bytes
from tests.workers.program import Program, connected, running

WORKERS = 4
REQUESTS = 1000
CONNECTIONS = 100


async def test_a_thousand_first_requests_create_one_user(
    tmp_path: Path, upstream: RawUpstream, dsn: str, redis_url: str
) -> None:
    async with joining(tmp_path, upstream, dsn, redis_url) as program:
        raw = token("ann")
        async with asyncio.TaskGroup() as tasks:
            clients = [tasks.create_task(ask(program, raw)) for _ in range(CONNECTIONS)]
        answers = [answer for client in clients for answer in client.result()]
        assert Counter(answer.status for answer in answers) == {200: REQUESTS}

        connection = await asyncpg.connect(dsn)
        ids = [row["id"] for row in await connection.fetch("SELECT id::text FROM users")]
        audited = await connection.fetchval("SELECT count(*) FROM audit WHERE action = 'user.provision'")
        await connection.close()
        assert (len(ids), audited) == (1, 1)
        told = {value for request in upstream.requests for value in request.values(b"x-user-id")}
        assert (len(upstream.requests), told) == (REQUESTS, {ids[0].encode()})
        # Each worker asks at most once, or twice around the moment of the creation.
        assert await program.metric("gateway_users_provisioned_total") <= 2 * WORKERS


async def test_a_concurrent_insert_of_the_same_user_causes_no_500(
    tmp_path: Path, upstream: RawUpstream, dsn: str, redis_url: str
) -> None:
    async with joining(tmp_path, upstream, dsn, redis_url) as program:
        postgres = Postgres(dsn, statement_timeout=10)
        directory = UserDirectory(postgres)
        try:
            for number in range(10):
                subject = f"ann-{number}"
                clients = [asyncio.create_task(ask(program, token(subject), 5)) for _ in range(4)]
                with suppress(IdentityTaken):
                    await directory.add(Identity(tokens.ISSUER, subject))
                for client in clients:
                    assert [answer.status for answer in await client] == [200] * 5
            async with postgres.connection() as connection:
                assert await connection.fetchval("SELECT count(*) FROM users") == 10
        finally:
            await postgres.close()


def joining(
    folder: Path, upstream: RawUpstream, dsn: str, redis_url: str
) -> AbstractAsyncContextManager[Program]:
    jwks = write_jwks(folder / "joining.json", tokens.rsa_key("main"))
    return running(
        folder, upstream, dsn, redis_url,
        server={"workers": WORKERS},
        issuers=[
            {
                "name": "main", "issuer": tokens.ISSUER, "audiences": [tokens.AUDIENCE],
                "keys": {"jwks_file": str(jwks)},
                "provisioning": {"email": "email", "roles": ["member"], "when": {"email_verified": True}},
            }
        ],
        routes=[
            {"name": "join", "match": {"path": "/join/**"}, "upstream": "raw", "missing_user": "provision"}
        ],
    )  # fmt: skip


def token(subject: str) -> bytes:
    claims = {**tokens.claims(subject), "email": f"{subject}@example.org", "email_verified": True}
    return tokens.sign(claims, tokens.rsa_key("main"))


async def ask(program: Program, raw: bytes, number: int = REQUESTS // CONNECTIONS) -> list[Response]:
    """Send requests on a connection of their own, one after the other."""
    async with connected(program.url) as client:
        answers = []
        for _ in range(number):
            await client.send(request_bytes("GET", "/join/x", token=raw))
            answers.append(await client.answer())
        return answers
