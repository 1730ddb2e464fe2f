"""What no fix may ever advise: the list, in one place. Every scenario is checked against it."""

# ruff: noqa: E501 -- a list reads better with one rule a line

import re
from collections.abc import Callable, Mapping
from typing import Final, TypeAlias

from gateway.explain import Explanation, Fix

Rule: TypeAlias = Callable[[Fix, str, str], bool]
"""Takes a fix, its line of configuration and its command; returns whether the rule is broken."""

_WIDENS: Final = re.compile(
    r"(issuers\[\d+\]\.(audiences|expect|algorithms|leeway|max_lifetime|token_types|id_tokens|allow_unbound|tenants)"
    r"|issuers\[\d+\]|routes\[\d+\]\.(require|auth|missing_user|allow_inactive|mode)\b.*"
    r"|revocation\.|users\.source\.identities.*where)"
)
_WRITABLE: Final = re.compile(r"user_metadata|unsafe_metadata|public_metadata")

_VERBS: Final = {
    "add": "user.create", "link": "identity.link", "activate": "user.change", "restore": "user.restore", "change": "user.change",
    "lift": "revocation.lift", "redis-cli": "cache.forget",
}  # fmt: skip
"""The verb of a command, or its program, and the action that it stands for."""

NEVER: Final[Mapping[str, Rule]] = {
    "accept another audience, client, algorithm, time, tenant or issuer, or require less of a route": (
        lambda _, config, __: _WIDENS.fullmatch(config.partition(": ")[0]) is not None
    ),
    "read what grants something from what a user can write": (
        lambda _, config, __: _WRITABLE.search(config) is not None
    ),
    "speak of such an edit as of a repair": (
        lambda fix, _, __: re.search(r"\baccept (it|them)\.|do not require|remove them|or disable", fix.text) is not None
    ),
    "grant a role, or move a user to another tenant, without asking for a decision": (
        lambda fix, _, command: (
            re.search(r"--add-role|--tenant=", command) is not None
            and "users change" in command
            and re.search(r"[Dd]ecide|[Ff]ind out", fix.text) is None
        )
    ),
    "link an account without asking whether it is the same person": (
        lambda fix, _, command: "users link" in command and "same person" not in fix.text and "Link the identity" not in fix.text
    ),
    "start containers that only a demo has": lambda fix, _, command: "docker" in command + fix.text,
    "give a role everything, or take checks away from a database": (
        lambda fix, _, command: (
            re.search(r"\b(ALL PRIVILEGES|SUPERUSER|DISABLE ROW|sslmode=disable|DROP)\b", command + fix.text)
            is not None
        )
    ),
    "make a change that depends on what only a person knows, without asking": (
        lambda fix, _, __: fix.change is not None and fix.change.question is None and not fix.change.action.startswith("cache")
    ),
    "apply something else than what the command says": (
        lambda fix, _, command: fix.change is not None and command != "" and _action(command) not in fix.change.action
    ),
    "put a secret into a command": lambda _, __, command: re.search(r"password=|://[^ ]*:[^ ]*@", command) is not None,
}  # fmt: skip


def _action(command: str) -> str:
    program, _, verb, *_ = command.split()
    return _VERBS[program if program in _VERBS else verb]


def broken(explanation: Explanation, *, person: bool = False) -> list[str]:
    """Return the rules that an explanation breaks. `person`: the person behind the token has an account."""
    fix = explanation.fix
    if fix is None:
        return []
    config, command = fix.config or "", fix.command or ""
    found = [name for name, rule in NEVER.items() if rule(fix, config, command)]
    if person and "users add" in command:
        found.append("create a second account for a person who has one")
    return found
