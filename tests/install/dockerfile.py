"""Reads a Dockerfile and carries out its steps in a folder, without a container engine.

A stage is a folder: `/opt/gateway` of the file is `<folder>/opt/gateway`. `RUN` runs with those paths, with
the Python of the tests, and without the network: the packages that are needed are those of the tests.
"""

import fnmatch
import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.install.conftest import done

_VARIABLE = re.compile(r"\$(?:\{(\w+)(?::\+[^}]*)?\}|(\w+))")


@dataclass(frozen=True)
class Instruction:
    word: str
    """In capitals."""
    rest: str


@dataclass
class Stage:
    base: str
    root: Path
    folder: str = "/"
    """WORKDIR."""
    env: dict[str, str] = field(default_factory=dict)
    last: dict[str, str] = field(default_factory=dict)
    """What stands after USER, ENTRYPOINT, CMD and the like: the last one counts."""

    def path(self, inside: str) -> Path:
        """Return where a path of the image is."""
        return self.root / os.path.normpath(os.path.join("/", self.folder, inside)).lstrip("/")  # noqa: PTH118 -- as in the image

    def command(self) -> list[str]:
        """Return what a container runs."""
        entry: list[str] = json.loads(self.last["ENTRYPOINT"])
        return [*entry, *json.loads(self.last["CMD"])]


def parsed(text: str) -> list[Instruction]:
    """Return the instructions, with continued lines put together."""
    lines = [line for line in text.splitlines() if not re.match(r"\s*#", line)]
    joined = re.sub(r"\\\n", " ", "\n".join(lines))
    pairs = (line.strip().partition(" ") for line in joined.splitlines() if line.strip())
    return [Instruction(word.upper(), rest.strip()) for word, _, rest in pairs]


def built(dockerfile: Path, context: Path, folder: Path, outside: Mapping[str, str]) -> dict[str, Stage]:
    """Carry out all steps; return the stages by name, the final one as `final`.

    `outside` are further variables for RUN.
    """
    stages: dict[str, Stage] = {}
    arguments: dict[str, str] = {}
    stage: Stage | None = None
    for step in parsed(dockerfile.read_text(encoding="utf-8")):
        if step.word == "ARG":
            name, _, value = step.rest.partition("=")
            arguments[name] = value.strip('"')
        elif step.word == "FROM":
            image, _, name = _filled(step.rest, arguments).partition(" AS ")
            stage = Stage(image, folder / (name or "final"))
            stage.root.mkdir()
            stages[name or "final"] = stage
        elif stage is not None:
            _carry_out(step, stage, stages, context, {**outside, **arguments})
    return stages


def _carry_out(
    step: Instruction, stage: Stage, stages: Mapping[str, Stage], context: Path, env: Mapping[str, str]
) -> None:
    if step.word == "WORKDIR":
        stage.folder = step.rest
        stage.path(".").mkdir(parents=True)
    elif step.word == "ENV":
        stage.env |= dict(re.findall(r"(\w+)=(\S+)", step.rest))
    elif step.word == "COPY":
        words = step.rest.split()
        source = context
        if words[0].startswith("--from="):
            source = stages[words.pop(0).removeprefix("--from=")].root
        for word in words[:-1]:
            _copy(source, word.lstrip("/"), stage.path(words[-1]), ignore=source == context)
    elif step.word == "RUN":
        # Paths of the image that the file names become paths of the stage.
        command = re.sub(r"(?<=\s)(/opt/\S+)", lambda found: str(stage.path(found[1])), step.rest)
        done(["sh", "-euc", command], stage.path("."), {**env, **stage.env})
    else:
        stage.last[step.word] = step.rest


def _copy(source: Path, name: str, target: Path, *, ignore: bool) -> None:
    assert not ignore or _is_sent(source, name), f".dockerignore keeps {name} from the build"
    there = source / name
    if there.is_dir():
        shutil.copytree(there, target, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        target.mkdir(parents=True, exist_ok=True)
        shutil.copy(there, target)


def _is_sent(context: Path, name: str) -> bool:
    """Tell whether .dockerignore lets a file or folder at the top through; the last line that fits says."""
    sent = True
    for line in (context / ".dockerignore").read_text(encoding="utf-8").splitlines():
        pattern = line.removeprefix("!")
        if line and not line.startswith("#") and fnmatch.fnmatch(name, pattern):
            sent = line.startswith("!")
    return sent


def _filled(text: str, values: Mapping[str, str]) -> str:
    return _VARIABLE.sub(lambda found: values.get(found[1] or found[2], ""), text)


def as_in_the_image(stage: Stage, packages: Path) -> dict[str, str]:
    """Return the environment of a container, with further packages beside its own."""
    own = {name: value.replace("/opt/", f"{stage.root}/opt/") for name, value in stage.env.items()}
    path = own.pop("PATH").replace("$PATH", os.environ["PATH"])
    (target,) = stage.root.glob("opt/gateway/lib/python*/site-packages")
    return {**own, "PATH": path, "PYTHONPATH": os.pathsep.join([str(target), str(packages)])}
