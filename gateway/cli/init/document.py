"""The files that `gateway init` writes: the configuration, without a secret, and the secrets beside it."""

import re
import shlex
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from gateway import __version__
from gateway.cli.terminal.yaml import entry, flow
from gateway.providers.provider import IssuerSettings

if TYPE_CHECKING:
    from gateway.settings import Settings

POSTGRES: Final = "POSTGRES_DSN"
REDIS: Final = "REDIS_URL"
ADMIN_TOKEN: Final = "ADMIN_TOKEN"  # noqa: S105 -- the name of a variable
_ASSIGNMENT: Final = re.compile(r"\s*(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)=")
_PLAIN: Final = re.compile(r"[A-Za-z0-9_@%+=:,./?*^-]+")
"""What shells, systemd and docker read in the same way. No shell looks for files in an assignment."""

_TEMPLATE: Final = """\
# The configuration of the gateway, written by `gateway init` of version {version}.
#
# ${{NAME}} is the variable NAME of the environment: no secret is in this file. {env_file} has them.
# All settings: docs/configuration.md, and `gateway schema` for editors. `gateway check` validates this file,
# and `gateway check --live` also tries each dependency.

# Clients connect here.
server:
  listen: {listen}

# Health, metrics, the API and the console. Keep this port off the public network.
admin:
  listen: {admin_listen}
  token: ${{{admin_token}}}

# Whose tokens are accepted{provider}. `gateway check --explain-preset NAME` shows what a preset stands for.
issuers:
{issuer}

# The system of record: users, identities, revocations. `gateway migrate` creates the tables, as their owner;
# docs/operations.md (Database roles) has a role with fewer rights for `gateway run`.
postgres:
  dsn: ${{{postgres}}}

# Cached users and the blacklist. If Redis is lost, no revocation is lost.
redis:
  url: ${{{redis}}}

# The services behind the gateway.
upstreams:
  app:
    urls: [{upstream}]

# The first route that matches wins; a request without a route gets 404.
routes:
  - name: app
    match: {{path: /**}}
    upstream: app
    auth: required                # or none, for what needs no token
    # require: {{scopes: [], roles: []}}
"""


@dataclass(frozen=True, slots=True)
class Answers:
    """What a new configuration says."""

    issuer: IssuerSettings
    upstream: str
    listen: str
    admin_listen: str
    provider: str | None = None
    """The title of the issuer's provider."""


def configuration(answers: Answers, env_file: Path) -> str:
    """Return the configuration as YAML, with comments and without secrets."""
    return _TEMPLATE.format(
        version=__version__,
        env_file=env_file,
        listen=flow(answers.listen),
        admin_listen=flow(answers.admin_listen),
        admin_token=ADMIN_TOKEN,
        provider="" if answers.provider is None else f", those of {answers.provider}",
        issuer="\n".join(entry(answers.issuer)),
        postgres=POSTGRES,
        redis=REDIS,
        upstream=flow(answers.upstream),
    )


def settings_of(content: str, secrets: Mapping[str, str]) -> "Settings":
    """Return the settings of a configuration that is not written yet. Raises ConfigurationError."""
    from gateway.settings import load

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "gateway.yaml"
        file.write_text(content, encoding="utf-8")
        return load(file, env=secrets)


def variables(content: str) -> dict[str, str]:
    """Return what a file of variables sets. Raises ValueError when a quotation mark is not closed."""
    found = {}
    for line in content.splitlines():
        if (name := _ASSIGNMENT.match(line)) is not None:
            found[name[1]] = "".join(shlex.split(line[name.end() :]))
    return found


def _quoted(value: str) -> str:
    """Return a value as it stands in an assignment: in quotation marks only if a shell needs them there."""
    return value if _PLAIN.fullmatch(value) else shlex.quote(value)


class WouldOverwrite(Exception):
    """A file has something else already. The text says what."""


def environment(existing: str, secrets: Mapping[str, str], *, force: bool) -> str:
    """Return a file of variables with these among them; whatever else it had stays as it is.

    systemd (`EnvironmentFile=`) and shells read it; so does docker if it has no quotation marks, which docker
    leaves where they are.

    Raises WouldOverwrite when a variable has another value already, unless `force`, and ValueError as
    `variables` does.
    """
    missing = {name: f"{name}={_quoted(value)}" for name, value in secrets.items()}
    present = variables(existing)
    lines = []
    for line in existing.splitlines():
        found = _ASSIGNMENT.match(line)
        name = "" if found is None else found[1]
        wanted = missing.pop(name, None)
        if wanted is not None and present[name] != secrets[name] and not force:
            raise WouldOverwrite(f"sets {name} to another value")
        lines.append(line if wanted is None else wanted)
    if not lines:
        lines.append("# The secrets of the gateway. Let only the gateway's own user read this file.")
    return "\n".join([*lines, *missing.values(), ""])
