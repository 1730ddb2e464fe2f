"""`gateway demo` for a new user: a process, and its answers over its sockets."""

import asyncio
import base64
import json
import os
import re
import shlex
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import orjson
import pytest
from aiohttp import ClientResponse, ClientSession
from redis.asyncio import Redis

from gateway.core.model import JSON
from gateway.demo.embedded import EmbeddedPostgres
from gateway.stores.postgres.migrate import Migration, migrate, migrations
from tests.docs.pages import DOCS, REPOSITORY, blocks

_GATEWAY = [sys.executable, "-m", "gateway"]
_PLACES = {"gateway", "admin", "admin_token", "issuer", "upstream", "postgres", "redis"}


@dataclass(frozen=True)
class _Demo:
    process: subprocess.Popen[str]
    places: dict[str, str]
    folder: Path


def _start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [*_GATEWAY, "demo", "--json", "--port", "0", "--admin-port", "0", "--data-dir", str(folder)]
    with (folder.parent / "stderr").open("w") as errors:
        return subprocess.Popen([*command, *arguments], stdout=subprocess.PIPE, stderr=errors, text=True)  # noqa: S603 -- this interpreter, arguments of this file


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[_Demo]:
    folder = tmp_path_factory.mktemp("demo") / ".gateway"
    with _start(folder) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line, (folder.parent / "stderr").read_text()
            yield _Demo(process, json.loads(line), folder)
        finally:
            process.terminate()


@pytest.fixture
async def client() -> AsyncIterator[ClientSession]:
    async with ClientSession() as session:
        yield session


async def _get(
    client: ClientSession, demo: _Demo, path: str, token: str | None, headers: dict[str, str] | None = None
) -> tuple[ClientResponse, dict[str, JSON]]:
    credentials = {} if token is None else {"Authorization": f"Bearer {token}"}
    async with client.get(
        demo.places["gateway"] + path, headers={**credentials, **(headers or {})}
    ) as response:
        document: dict[str, JSON] = orjson.loads(await response.read())
        return response, document


async def _token(client: ClientSession, demo: _Demo, name: str) -> str:
    async with client.get(f"{demo.places['issuer']}/token/{name}") as response:
        assert response.status == 200
        return await response.text()


def _received(document: dict[str, JSON]) -> dict[str, JSON]:
    headers = document["headers"]
    assert isinstance(headers, dict)
    return {name.lower(): value for name, value in headers.items()}


async def _denials(client: ClientSession, demo: _Demo, reason: str) -> float:
    async with client.get(f"{demo.places['admin']}/metrics") as response:
        text = await response.text()
    counts = re.findall(
        rf'^gateway_denials_total\{{[^}}]*reason="{reason}"[^}}]*\}} (\S+)$', text, re.MULTILINE
    )
    return sum(map(float, counts))


def _same_each_time(text: str) -> str:
    """Replace what differs from run to run: ids, times, ports, numbers of requests, the spaces of tables."""
    for pattern, word in (
        (r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "UUID"),
        (r"\b[0-9a-f]{32}\b", "ID"),
        (r"\d{4}-\d\d-\d\dT[\d:]+Z", "TIME"),
        (r"127\.0\.0\.1:\d+", "ADDRESS"),
        (r"curl/[\d.]+", "curl"),
        (r"\} \d+\.0", "} N"),
        (r"[ ─]+", " "),
    ):
        text = re.sub(pattern, word, text)
    return text


@pytest.mark.skipif(not all(map(shutil.which, ("bash", "curl"))), reason="needs bash and curl")
def test_the_quick_start_prints_what_the_page_shows(demo: _Demo) -> None:
    """The commands of docs/quick-start.md as they stand there; only the places and the program differ."""
    (start, *rest), (answer,) = (
        list(blocks(DOCS / "quick-start.md", language)) for language in ("console", "json")
    )
    assert start == "$ make run\n"
    steps: list[tuple[str, list[str]]] = []
    for line in "".join(rest).splitlines():
        if line.startswith("$ "):
            steps.append((line[2:], answer.splitlines() if "X_User_Id: forged" in line else []))
        else:
            steps[-1][1].append(line)
    script = "exec 2>&1\n" + "\n".join(
        f"printf '\\n@@ {number}\\n'\n{command}" for number, (command, _) in enumerate(steps)
    )
    for theirs, ours in (
        ("http://127.0.0.1:8080", demo.places["gateway"]),
        ("http://127.0.0.1:9901", demo.places["admin"]),
        ("http://127.0.0.1:9000", demo.places["issuer"]),
        (".venv/bin/gateway", shlex.join(_GATEWAY)),
    ):
        script = script.replace(theirs, ours)
    done = subprocess.run(  # noqa: S603 -- the page is ours
        ["bash", "--norc", "-c", script],  # noqa: S607 -- the page is for a shell
        cwd=demo.folder.parent, env={**os.environ, "COLUMNS": "400", "PYTHONPATH": str(REPOSITORY)},
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    printed = re.split(r"^@@ \d+$", done.stdout, flags=re.MULTILINE)[1:]
    assert len(printed) == len(steps), done.stdout
    for (command, shown), said in zip(steps, printed, strict=True):
        lines = [line.strip() for line in _same_each_time(said).splitlines()]
        missing = [line for line in shown if line != "…" and _same_each_time(line).strip() not in lines]
        assert missing == [], f"{command}\n{said}"


def test_ready_line_names_every_place(demo: _Demo) -> None:
    assert demo.places.keys() == _PLACES


@pytest.mark.parametrize(
    ("name", "path", "roles"),
    [
        ("member", "/echo/a/b?c=d", ""),
        ("admin", "/echo/", "admin"),
        ("admin", "/admin/reports", "admin"),
        ("member?scope=orders:read", "/orders/1", ""),
        ("member?tenant=demo", "/echo/x", ""),
    ],
)
async def test_user_reaches_the_upstream_with_a_name(
    demo: _Demo, client: ClientSession, name: str, path: str, roles: str
) -> None:
    response, document = await _get(client, demo, path, await _token(client, demo, name))
    assert response.status == 200
    assert response.headers["X-Request-Id"]
    assert [document["path"], document["query"]] == [*path.partition("?")[::2]]
    headers = _received(document)
    assert re.fullmatch(r"[0-9a-f-]{36}", str(headers["x-user-id"]))
    assert headers["x-auth-subject"] == name.partition("?")[0]
    assert headers["x-auth-issuer"] == demo.places["issuer"]
    assert headers.get("x-user-roles", "") == roles
    assert "authorization" not in headers


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("suspended", "user_suspended"),
        ("locked", "user_locked"),
        ("pending", "user_pending"),
        ("deleted", "user_deleted"),
        ("ghost", "user_not_found"),
    ],
)
async def test_denied_requests_show_their_reason_only_to_the_operator(
    demo: _Demo, client: ClientSession, name: str, reason: str
) -> None:
    before = await _denials(client, demo, reason)
    response, document = await _get(client, demo, "/echo/x", await _token(client, demo, name))
    assert response.status == 401
    assert response.content_type == "application/problem+json"
    assert document["code"] == "invalid_token"
    assert response.headers["WWW-Authenticate"].startswith("Bearer ")
    assert await _denials(client, demo, reason) == before + 1
    assert f'"{reason}"' in (demo.folder.parent / "stderr").read_text()


@pytest.mark.parametrize(
    ("name", "path", "status", "code"),
    [
        ("member?signed_by=stranger", "/echo/x", 401, "signature_invalid"),
        ("member?expires_in=-60", "/echo/x", 401, "token_expired"),
        ("member?aud=other", "/echo/x", 401, "audience_mismatch"),
        ("member", "/admin/x", 403, "role_missing"),
        ("member", "/orders/1", 403, "scope_insufficient"),
        ("member", "/nowhere", 404, "route_not_found"),
    ],
)
async def test_token_or_policy_refuses(
    demo: _Demo, client: ClientSession, name: str, path: str, status: int, code: str
) -> None:
    response, document = await _get(client, demo, path, await _token(client, demo, name))
    assert (response.status, document["code"]) == (status, code)


async def test_no_token_is_refused_except_where_none_is_needed(demo: _Demo, client: ClientSession) -> None:
    response, document = await _get(client, demo, "/echo/x", None)
    assert (response.status, document["code"]) == (401, "credentials_missing")
    response, document = await _get(client, demo, "/public/x", None)
    assert response.status == 200


@pytest.mark.parametrize("path", ["/echo/x", "/public/x"])
async def test_forged_identity_does_not_arrive(demo: _Demo, client: ClientSession, path: str) -> None:
    forged = {"X_User_Id": "forged", "x-auth-subject": "forged", "X.User.Roles": "forged"}
    _, document = await _get(client, demo, path, await _token(client, demo, "member"), forged)
    assert "forged" not in _received(document).values()


async def test_a_page_in_a_browser_reaches_websocket_and_events(demo: _Demo, client: ClientSession) -> None:
    token, gateway = await _token(client, demo, "member"), demo.places["gateway"]
    websocket = f"{gateway.replace('http', 'ws', 1)}/ws"
    for url, protocols in ((websocket, ("bearer", token)), (f"{websocket}?access_token={token}", ())):
        async with client.ws_connect(url, protocols=protocols) as socket:
            await socket.send_str("hello")
            assert await socket.receive_str(timeout=5) == "hello"
            assert socket.protocol == (protocols[0] if protocols else None)
    async with client.get(f"{gateway}/events?access_token={token}") as events:
        assert await events.content.readuntil(b"\n\n") == b"id: 1\ndata: event 1\n\n"
    async with client.get(f"{gateway}/events") as refused:
        assert refused.status == 401


async def test_update_in_postgres_is_honoured_within_the_cache_time(
    demo: _Demo, client: ClientSession
) -> None:
    token = await _token(client, demo, "admin")
    connection = await asyncpg.connect(demo.places["postgres"])
    update = (
        "UPDATE users SET status = $1 WHERE id = (SELECT user_id FROM identities WHERE subject = 'admin')"
    )
    try:
        await _until(client, demo, token, 200)
        await connection.execute(update, "suspended")
        await _until(client, demo, token, 401)
    finally:
        await connection.execute(update, "active")
        await connection.close()
    await _until(client, demo, token, 200)


async def _until(client: ClientSession, demo: _Demo, token: str, status: int) -> None:
    deadline = time.monotonic() + 5
    while (await _get(client, demo, "/echo/x", token))[0].status != status:
        assert time.monotonic() < deadline, f"no {status} within the cache's time"
        await asyncio.sleep(0.1)


async def test_revocation_that_another_program_sets_in_redis_is_honoured(
    demo: _Demo, client: ClientSession
) -> None:
    token = await _token(client, demo, "member")
    assert (await _get(client, demo, "/echo/x", token))[0].status == 200
    payload = token.split(".")[1]
    jti = orjson.loads(base64.urlsafe_b64decode(payload + "=="))["jti"]
    async with Redis.from_url(demo.places["redis"]) as redis:
        await redis.set(f"gateway:revoked:jti:demo:{jti}", "")
    async with asyncio.timeout(2):
        # Redis tells of it within milliseconds, by another connection than this one.
        while (answer := await _get(client, demo, "/echo/x", token))[0].status == 200:  # noqa: ASYNC110 -- of another process
            await asyncio.sleep(0.01)
    response, document = answer
    assert (response.status, document["code"]) == (401, "token_revoked")


async def test_configuration_serves_the_other_commands(demo: _Demo) -> None:
    config = demo.folder / "gateway.yaml"
    assert stat.S_IMODE(config.stat().st_mode) == 0o600
    listing = await asyncio.create_subprocess_exec(
        *_GATEWAY, "users", "list", "--json", "--config", str(config), stdout=subprocess.PIPE
    )
    said, _ = await listing.communicate()
    assert listing.returncode == 0
    assert b"suspended@example.com" in said
    seeding = await asyncio.create_subprocess_exec(*_GATEWAY, "demo-seed", "--config", str(config))
    assert await seeding.wait() == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_ends_it_cleanly_and_data_is_found_again(tmp_path: Path, number: signal.Signals) -> None:
    folder = tmp_path / "data"
    for _ in range(2):
        with _start(folder) as process:
            assert process.stdout is not None
            assert process.stdout.readline(), (tmp_path / "stderr").read_text()
            process.send_signal(number)
            assert process.stdout.read() == ""
            assert process.wait(20) == 0, (tmp_path / "stderr").read_text()


@pytest.mark.parametrize("flag", ["--port", "--admin-port"])
def test_port_that_is_taken_names_port_and_flag(tmp_path: Path, flag: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with _start(tmp_path / "data", flag, str(port)) as process:
            assert process.wait(20) == 2
            errors = (tmp_path / "stderr").read_text()
    assert f"port {port} " in errors
    assert f"with {flag};" in errors
    assert "Traceback" not in errors


def test_data_of_a_newer_version_is_distinguished_from_a_defect(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    with EmbeddedPostgres(folder / "postgres") as postgres:
        later = Migration(9999, "later", "SELECT 1")
        asyncio.run(migrate(postgres.dsn, known=[*migrations(), later]))
    with _start(folder) as process:
        assert process.wait(60) == 1
    errors = (tmp_path / "stderr").read_text()
    assert "the database is ahead: it has migration 9999_later" in errors
    assert "--data-dir" in errors
    assert "Traceback" not in errors


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that `nobody` can enter: only their owner can enter pytest's own folders."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


def test_banner_has_commands_that_name_the_places(open_folder: Path) -> None:
    command = [*_GATEWAY, "demo", "--port", "0", "--admin-port", "0"]
    environment = {**os.environ, "TMPDIR": str(open_folder), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(  # noqa: S603 -- this interpreter, arguments of this file
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        lines = iter(process.stdout.readline, "")
        banner = "".join(line for line in _up_to(lines, "/public/"))
        process.terminate()
        assert process.wait(20) == 0
    assert re.search(r"curl -si .*/token/suspended\)\" http://127\.0\.0\.1:\d+/echo/", banner)
    assert re.search(r"revoke token - --config \S+/gateway\.yaml", banner)
    assert re.search(r"/token/Member \| .* explain - --config \S+/gateway\.yaml", banner)
    assert list(open_folder.iterdir()) == []


def _up_to(lines: Iterator[str], mark: str) -> Iterator[str]:
    for line in lines:
        yield line
        if mark in line:
            return
