"""The files of records: bounded, for this user alone, and off the way of requests."""

import asyncio
import json
import os
import stat
from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs
from typer.testing import CliRunner

from gateway.cli.main import app
from gateway.core.model import JSON
from gateway.core.reasons import Denial
from gateway.replay.recorder import SUFFIX, Recorder, RecordFiles, RecordingAdmitter
from gateway.replay.records import Sample, decode
from tests.pipelines import NOW, World, request, token

SUBJECTS = {"main": "sub"}


async def sample() -> Sample:
    asked = request("/echo", token())
    return Sample(asked, float(NOW), await World().pipeline.admit(asked), None, forwards=True)


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"*{SUFFIX}"))


async def test_only_its_user_can_read_a_file(tmp_path: Path) -> None:
    folder = tmp_path / "records"
    kept = RecordFiles(folder, keep=3600.0, max_size=2**20, subjects=SUBJECTS)
    kept.write([await sample()])
    kept.close()
    (file,) = files(folder)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert decode(file.read_bytes()).verdict == "allow"


async def test_old_files_and_those_beyond_the_size_are_removed(tmp_path: Path) -> None:
    one, now = await sample(), [float(NOW)]
    kept = RecordFiles(tmp_path, keep=80.0, max_size=8 * 4096, subjects=SUBJECTS, clock=lambda: now[0])
    for _ in range(400):
        kept.write([one])
    assert 1 < len(files(tmp_path)) <= 8
    assert sum(file.stat().st_size for file in files(tmp_path)) <= 8 * 4096
    now[0] = 2.0 * max(file.stat().st_mtime for file in files(tmp_path))
    kept.write([one])
    assert len(files(tmp_path)) == 1
    kept.close()


async def test_old_files_are_removed_also_while_nothing_is_recorded(tmp_path: Path) -> None:
    now = [float(NOW)]
    kept = RecordFiles(tmp_path, keep=80.0, max_size=2**20, subjects=SUBJECTS, clock=lambda: now[0])
    kept.write([await sample()])
    (file,) = files(tmp_path)
    now[0] = file.stat().st_mtime + 79.0
    kept.tidy()
    assert files(tmp_path) == [file]
    now[0] += 11.0
    kept.tidy()
    assert files(tmp_path) == []
    kept.write([await sample()])
    assert len(files(tmp_path)) == 1
    kept.close()


async def test_the_files_of_many_processes_have_one_bound(tmp_path: Path) -> None:
    one, now, size = await sample(), [float(NOW)], 2**19
    all_kept = [
        RecordFiles(
            tmp_path / "records",
            keep=80.0,
            max_size=size,
            subjects=SUBJECTS,
            processes=16,
            clock=lambda: now[0],
        )
        for _ in range(16)
    ]
    for kept in all_kept:
        now[0] += 1
        kept.write([one])
    for _ in range(2):
        # Each has more to write at once than a file may have.
        for kept in all_kept:
            now[0] += 0.1
            kept.write([one] * 100)
            assert sum(file.stat().st_size for file in files(tmp_path / "records")) <= size
    # What was removed while it was open is not written to any more.
    now[0] += 0.1
    for file in files(tmp_path / "records"):
        file.unlink()
    for kept in all_kept:
        kept.write([one])
    assert len(files(tmp_path / "records")) == 16
    for kept in all_kept:
        kept.close()


async def test_a_line_that_did_not_fit_on_the_disk_ends_before_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = RecordFiles(tmp_path, keep=3600.0, max_size=2**20, subjects=SUBJECTS)
    one, write = await sample(), os.write
    kept.write([one])
    monkeypatch.setattr(os, "write", lambda file, data: write(file, bytes(data)[: len(data) * 3 // 4]))
    with pytest.raises(OSError, match="No space left"):
        kept.write([one, one])
    monkeypatch.setattr(os, "write", write)
    kept.write([one])
    kept.close()
    (file,) = files(tmp_path)
    assert [decode(line).verdict for line in file.read_bytes().splitlines(keepends=True)] == ["allow"] * 3


async def test_a_record_that_cannot_be_written_costs_no_other(tmp_path: Path) -> None:
    one, deep = await sample(), await sample()
    attributes: JSON = 1
    for _ in range(300):
        attributes = {"a": attributes}
    assert deep.admission is not None
    assert deep.admission.decision is not None
    resolution = deep.admission.decision.resolution
    assert resolution.user is not None
    user = replace(resolution.user, attributes={"a": attributes})
    decision = replace(deep.admission.decision, resolution=replace(resolution, user=user))
    deep = replace(deep, admission=replace(deep.admission, decision=decision))
    kept = RecordFiles(tmp_path, keep=3600.0, max_size=2**20, subjects=SUBJECTS)
    kept.write([deep, one])
    kept.close()
    (file,) = files(tmp_path)
    assert len(file.read_bytes().splitlines()) == 1


async def test_a_share_is_recorded_with_the_same_answers(tmp_path: Path) -> None:
    world = World()
    recorder = Recorder(RecordFiles(tmp_path, keep=3600.0, max_size=2**20, subjects=SUBJECTS), 1.0)
    recording = RecordingAdmitter(world.memo, recorder, forwards=True)
    asked = request("/echo", token())
    assert (await recording.admit(asked)).user == (await world.memo.admit(asked)).user
    with pytest.raises(Denial, match="role_missing"):
        await recording.admit(request("/admin", token()))
    nothing = RecordingAdmitter(world.memo, Recorder(recorder._files, 0.0), forwards=True)
    await nothing.admit(asked)
    await recorder.close()
    (file,) = files(tmp_path)
    assert [decode(line).verdict for line in file.read_bytes().splitlines(keepends=True)] == [
        "allow", "role_missing",
    ]  # fmt: skip
    assert (recording.heads, recording.remembered) == (world.memo.heads, world.memo.remembered)


async def test_a_disk_that_is_full_costs_records_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = asyncio.Event()

    def fail(_: object) -> None:
        written.set()
        raise OSError(28, "No space left on device")

    kept = RecordFiles(tmp_path, keep=3600.0, max_size=2**20, subjects=SUBJECTS)
    monkeypatch.setattr(kept, "write", fail)
    recorder = Recorder(kept, 1.0)
    for _ in range(20_000):
        recorder.put(request("/echo"), None, None, forwards=True)
    assert len(recorder._queue) == 10_000
    with capture_logs() as logs:
        await recorder.close()
    assert written.is_set()
    assert [each["event"] for each in logs] == ["records_not_written"]


CONFIG = """\
issuers:
  - {name: main, issuer: https://idp.example.com/, audiences: [%s], algorithms: [ES256], max_lifetime: 10m}
postgres: {dsn: postgresql://g@127.0.0.1/g}
redis: {url: redis://127.0.0.1}
upstreams: {echo: {urls: ["http://127.0.0.1:9000"]}}
routes:
  - {name: echo, match: {path: /echo/**}, upstream: echo%s}
"""


async def test_the_command_lists_each_change(tmp_path: Path) -> None:
    from tests.replay.live import Live
    from tests.tokens import AUDIENCE, ISSUER

    live, folder = Live(), tmp_path / "records"
    folder.mkdir()
    lines = [await live.line(request("/echo", token("u1"))), await live.line(request("/echo", token("u4")))]
    (folder / f"1{SUFFIX}").write_bytes(b"".join(line for line in lines if line is not None) + b'{"half": ')
    new, old = tmp_path / "new.yaml", tmp_path / "old.yaml"
    text = CONFIG.replace("https://idp.example.com/", ISSUER)
    old.write_text(text % (AUDIENCE, ""))
    new.write_text(text % (AUDIENCE, ", require: {roles: [admin]}"))

    def run(*words: object) -> tuple[int, str]:
        result = CliRunner().invoke(app, ["replay", str(folder), *map(str, words)])
        return result.exit_code, result.stdout

    assert run("--config", old) == (0, "2 requests: 0 verdicts change.\n")
    for words in (("--config", new), ("--config", new, "--against", old)):
        code, out = run(*words)
        assert code == 1
        assert "route echo: allow → role_missing: 1" in out
        assert "GET /echo, user id-u1" in out
    code, out = run("--config", new, "--json")
    found = json.loads(out)
    assert (code, found["requests"], found["changed"]) == (1, 2, 1)
    assert found["groups"][0]["requests"][0]["user"] == "id-u1"
    (folder / f"2{SUFFIX}").write_text("no record\n")
    assert run("--config", new)[0] == 2
    # A file without ends of lines is not read into memory as a whole.
    with (folder / f"2{SUFFIX}").open("wb") as hostile:
        hostile.truncate(2**36)
    assert run("--config", new)[0] == 2
    # A script would take it for "nothing changes".
    (folder / f"2{SUFFIX}").unlink()
    (folder / f"1{SUFFIX}").write_bytes((lines[0] or b"")[:-1])
    result = CliRunner().invoke(app, ["replay", str(folder), "--config", str(new)])
    assert (result.exit_code, result.stdout) == (2, "")
    told = " ".join(result.stderr.split())
    assert f"1{SUFFIX}:1: the line is not complete, and is left out" in told
    assert f"there are no records in {folder}" in told


async def test_a_running_gateway_records(tmp_path: Path, dsn: str, redis_url: str) -> None:
    from tests.harness import open_house
    from tests.harness import token as live_token

    record: dict[str, JSON] = {"sample": 1.0, "directory": str(tmp_path / "records")}
    async with open_house(tmp_path, dsn, redis_url, record=record) as house:
        await house.forwarded("/private/x?secret=1", token=live_token(email="member@example.org"))
        assert (await house.request("/admin/x", token=live_token())).status == 403
    (file,) = files(tmp_path / "records")
    found = [decode(line) for line in file.read_bytes().splitlines(keepends=True)]
    assert [(each.route, each.verdict) for each in found] == [("private", "allow"), ("admin", "role_missing")]
    assert found[0].case.payload is not None
    assert found[0].case.payload["email"] == "redacted"
    assert b"secret=1" not in file.read_bytes()
