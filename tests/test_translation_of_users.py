"""Every setting of `users.source` arrives in what the stores are given."""

from typing import Any, Final

import pytest

from gateway.settings.users import source
from tests.systems.sources import source_of
from tests.test_translation import settings_of

BLOCK: Final[dict[str, Any]] = {"table": "people", "id": "id", "identities": [{"subject": "sub"}]}
SHARED: Final = {"preset", "provider", "realm", "issuer", "dsn", "replica_dsn", "listen_dsn"}
"""A preset and what belongs to it become other settings; DSNs are for the connections."""

CHANGES: Final[dict[str, dict[str, Any]]] = {
    "schema_name": {"schema": "other"},
    "table": {"table": "accounts"},
    "id": {"id": "uid"},
    "status": {"status": [{"when": "NOT alive", "is": "deleted", "until": "gone_at"}]},
    **{
        name: {name: "a_column"}
        for name in ("tenant", "email", "display_name", "roles", "tokens_valid_after", "created_at")
    },
    "attributes": {"attributes": ["plan"]},
    "identities": {"identities": [{"table": "t", "subject": "sub", "user": "u", "where": "ok"}]},
    "watch": {"watch": {"groups": "*"}},
    "changes": {"changes": "poll"},
    "poll.column": {"changes": "poll", "poll": {"column": "updated_at"}},
    "poll.interval": {"changes": "poll", "poll": {"interval": "7s"}},
    "poll.compare": {"changes": "poll", "poll": {"compare": "7s"}},
    "writable": {"writable": True},
}


def test_every_setting_is_tried() -> None:
    settings = {
        name if name.startswith("poll.") else name.partition(".")[0]
        for name in settings_of(source.UserSource)
    }
    assert settings - SHARED <= CHANGES.keys()


@pytest.mark.parametrize("name", CHANGES)
def test_a_setting_arrives(name: str) -> None:
    without = {"changes": "poll"} if name.startswith("poll.") else {}
    assert source_of({**BLOCK, **CHANGES[name]}) != source_of({**BLOCK, **without})
