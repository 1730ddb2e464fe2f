"""deploy/Dockerfile: its steps, carried out in a folder; no container engine is needed."""

import asyncio
import json
import re
import sys
from pathlib import Path
from typing import Final

import pytest

from gateway import __version__
from gateway.demo.issuer import DemoIssuer
from gateway.demo.listening import bind, listening
from tests.install.conftest import ROOT, done, ran
from tests.install.dockerfile import as_in_the_image, built, parsed

FILE: Final = ROOT / "deploy" / "Dockerfile"


def test_the_image_is_as_it_should_be() -> None:
    """Two stages of a base with a tag, no root, no secret, a health check."""
    steps = parsed(FILE.read_text(encoding="utf-8"))
    words = [step.word for step in steps]
    assert words.count("FROM") == 2
    (base,) = (step.rest for step in steps if step.rest.startswith("BASE="))
    assert re.fullmatch(r"BASE=python:3\.\d+-slim-\w+", base)
    final = steps[len(words) - words[::-1].index("FROM") :]
    assert [step.rest for step in final if step.word == "USER"] == ["10001:10001"]
    assert {"HEALTHCHECK", "ENTRYPOINT", "CMD"} < {step.word for step in final}
    assert "RUN" not in {step.word for step in final}, "the final image needs no shell"
    text = "".join(step.rest for step in steps)
    assert not re.search(r"(?i)password|secret|token|dsn=", text)


@pytest.mark.timeout(300)
async def test_its_steps_make_a_gateway_that_runs(tmp_path: Path, packages: Path) -> None:
    programs = tmp_path / "programs"
    programs.mkdir()
    for name, module in (("python", ()), ("pip", ("-m", "pip"))):
        program = programs / name
        program.write_text(f'#!/bin/sh\nexec {" ".join((sys.executable, *module))} "$@"\n')
        program.chmod(0o755)
    path = f"{programs}:/usr/bin:/bin"
    # What the tests have suffices; a container engine fetches all of it.
    stages = built(
        FILE, ROOT, tmp_path, {"PATH": path, "PIP_NO_DEPS": "1", "PIP_NO_INDEX": "1", "PIP_NO_COMPILE": "1"}
    )

    final = stages["final"]
    assert final.base == stages["wheels"].base
    env = as_in_the_image(final, packages)
    assert not [*final.root.rglob("site-packages/pip"), *final.root.rglob("bin/pip*")], "it has no pip"
    entry, *command = final.command()
    assert (entry, command) == ("gateway", ["run"])
    assert done(["sh", "-c", f"command -v {entry}"], tmp_path, env).strip().startswith(str(final.root))
    where = done(["python", "-c", "import gateway; print(gateway.__file__)"], tmp_path, env)
    assert where.startswith(str(final.root))
    assert done([entry, "--version"], tmp_path, env).startswith(f"gateway {__version__} ")
    # Without a configuration it says where one belongs.
    told = ran([entry, *command], tmp_path, env)
    assert (told.returncode, "/etc/gateway/gateway.yaml: there is no such file" in told.stderr) == (2, True)

    listener, url = bind("127.0.0.1", 0)
    check = json.loads(final.last["HEALTHCHECK"].partition(" CMD ")[2])
    async with listening(DemoIssuer(url).application(), listener):
        healthy = {**env, "HEALTH_URL": f"{url}/jwks.json"}
        assert (await asyncio.to_thread(ran, check, tmp_path, healthy)).returncode == 0
    assert (await asyncio.to_thread(ran, check, tmp_path, healthy)).returncode != 0
