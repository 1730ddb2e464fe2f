"""Each kind of change of a fix: it is shown exactly, made once, audited, and then the request passes."""

import time
from dataclasses import dataclass, field, replace

import pytest

from gateway.admin.api.write_through import WriteThrough
from gateway.core.model import JSON
from gateway.core.tokens.issuer_patterns import IssuerNames
from gateway.explain import Fix
from gateway.explain.changes import Change
from gateway.explain.fixes.applying import Applier, NotApplicable, NothingToLift
from gateway.identity.local_cache import LocalCache
from gateway.stores.postgres.directory.audit import AuditLog, Author
from gateway.stores.postgres.directory.revocation_rows import RevocationRows
from gateway.stores.postgres.directory.user_rows import IdentityTaken, StatusRefused, UserChanged
from gateway.stores.postgres.directory.users import UserDirectory
from tests import tokens
from tests.explain.scenarios import never
from tests.explain.scenarios.stage import Stage
from tests.harness import token

session = pytest.mark.asyncio(loop_scope="session")
AUTHOR = Author("cli:ann", "the-run")


@dataclass(frozen=True)
class Case:
    name: str
    reason: str
    edits: tuple[tuple[str, str | None, str | None], ...]
    """What changes, before and after; `{user}` and `{other}` stand for the ids of users."""
    audited: tuple[str, ...]
    sql: str = "SELECT $1::text"
    """Makes the user, whose id is $1, what is refused."""
    subject: str | None = None
    """Of the token; None: the user's."""
    claims: dict[str, JSON] = field(default_factory=dict)
    url: str | None = None
    again: type[Exception] = UserChanged
    """What becomes of the change when it is made once more."""


def _revoked(kind: str, issuer: str, value: str) -> str:
    return (
        "INSERT INTO revocations (kind, issuer, value, revoked_at, reason)"
        f" SELECT '{kind}', '{issuer}', {value}, '2033-01-31 12:00Z', 'lost' WHERE $1 <> ''"
    )


SINCE = '2033-01-31T12:00:00Z, reason: "lost", for ever'
CASES = [
    Case("suspended", "user_suspended", (("status", "suspended", "active"),), ("user.change",),
         "UPDATE users SET status = 'suspended' WHERE id::text = $1"),
    Case("deleted", "user_deleted", (("status", "deleted", "active"),), ("user.restore",),
         "UPDATE users SET status = 'deleted' WHERE id::text = $1", again=StatusRefused),
    Case("of later tokens", "tokens_revoked_before", (("tokens_valid_after", "2033-01-31T12:00:00Z", None),),
         ("user.change",), "UPDATE users SET tokens_valid_after = '2033-01-31 12:00Z' WHERE id::text = $1"),
    Case("without tenant", "tenant_mismatch", (("tenant", None, "acme"),), ("user.change",),
         claims={"tenant_id": "acme"}),
    Case("without role", "role_missing", (("roles", "reader", "reader, admin"),), ("user.change",),
         "UPDATE users SET roles = '{reader}' WHERE id::text = $1", url="/admin/x"),
    Case("in capitals", "user_not_found", (('identity "{subject}" of issuer main', None, "user {user}"),),
         ("identity.link",), subject="APPLIED-{}", again=IdentityTaken),
    Case("unknown", "user_not_found",
         (("status", None, "active"), ('identity "{subject}" of issuer main', None, "the new user"),
          ("tenant", None, "acme")),
         ("user.create",), subject="entirely-other-{}", claims={"tenant_id": "acme"}, again=IdentityTaken),
    Case("a token", "token_revoked", (('revocation of the token "jti-{}" of issuer main', SINCE, None),),
         ("revocation.lift",), _revoked("jti", "main", "'jti-{}'"), claims={"jti": "jti-{}"},
         again=NothingToLift),
    Case("a user's tokens", "tokens_revoked_before",
         (("revocation of all tokens of user {user}", SINCE, None),),
         ("revocation.lift",), _revoked("user", "", "$1"), again=NothingToLift),
    Case("an issuer's tokens", "tokens_revoked_before",
         (("revocation of all tokens of issuer main", SINCE, None),),
         ("revocation.lift",), _revoked("issuer", "main", "''"), again=NothingToLift),
]  # fmt: skip


def applier(stage: Stage) -> Applier:
    parts = stage.open
    names = IssuerNames({"main": tokens.ISSUER})
    local = LocalCache(ttl=0.0, max_users=1, max_tokens=1, clock=time.monotonic)
    return Applier(
        UserDirectory(parts.postgres),
        RevocationRows(parts.postgres),
        AuditLog(parts.postgres),
        WriteThrough(local, parts.redis, names.by_iss),
        names,
    )


async def offered(stage: Stage, raw: bytes, url: str | None) -> tuple[Fix, Change]:
    explanation = await stage.told(raw, method=None if url is None else "GET", url=url)
    assert never.broken(explanation) == []
    assert explanation.fix is not None, explanation.summary
    assert explanation.fix.change is not None, explanation.fix
    return explanation.fix, explanation.fix.change


@session
@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
async def test_the_change_that_is_made_is_the_one_that_was_shown(stage: Stage, case: Case) -> None:
    mark = f"{time.monotonic_ns():x}"
    own = f"applied-{mark}"
    user = await stage.add(own)
    subject = own if case.subject is None else case.subject.replace("{}", mark)
    await stage.sql(case.sql.replace("{}", mark), user)
    claims = {name: str(value).replace("{}", mark) for name, value in case.claims.items()}
    raw = token(subject, **claims)
    headers = ((b"Authorization", b"Bearer " + raw),)
    assert await stage.verdict(headers, url=case.url) == case.reason

    fix, change = await offered(stage, raw, case.url)

    told = [
        tuple(
            part and part.replace("{user}", user).replace("{subject}", subject).replace("{}", mark)
            for part in edit
        )
        for edit in case.edits
    ]
    assert [(each.what, each.before, each.after) for each in change.edits] == told
    assert change.question is not None
    assert (await offered(stage, raw, case.url))[1] == change
    before = await stage.sql("SELECT max(id) FROM audit")
    await applier(stage).apply(change, AUTHOR)
    rows = await stage.sql(
        "SELECT actor, action, request_id FROM audit WHERE id > $1 ORDER BY id", before[0][0] or 0
    )
    assert [(row["actor"], row["request_id"]) for row in rows] == [("cli:ann", "the-run")] * len(rows)
    assert tuple(row["action"] for row in rows) == case.audited
    assert await stage.verdict(headers, url=case.url) is None
    assert (
        await stage.told(raw, method=None if case.url is None else "GET", url=case.url)
    ).decision == "allow"
    with pytest.raises(case.again):
        await applier(stage).apply(change, AUTHOR)
    assert fix.command is not None


@session
async def test_an_identity_moves_to_the_account_that_came_after(stage: Stage) -> None:
    mark = f"{time.monotonic_ns():x}"
    email = f"{mark}@example.com"
    old = await stage.add(f"moved-{mark}", email=email)
    await stage.sql("UPDATE users SET status = 'deleted' WHERE id::text = $1", old)
    new = await stage.add(f"other-{mark}", email=email)
    raw = token(f"moved-{mark}", iat=int(time.time()) - 600)
    _, change = await offered(stage, raw, None)
    (edit,) = change.edits
    assert (edit.before, edit.after) == (f"user {old}", f"user {new}")
    await applier(stage).apply(change, AUTHOR)
    owner = await stage.sql("SELECT user_id::text FROM identities WHERE subject = $1", f"moved-{mark}")
    assert owner[0][0] == new


@session
async def test_a_change_that_was_read_from_elsewhere_is_not_made(stage: Stage) -> None:
    await stage.add(f"read-{time.monotonic_ns():x}")
    change = Change("user.change", "user 1", (), None)
    with pytest.raises(NotApplicable):
        await applier(stage).apply(change, AUTHOR)
    assert replace(change, work=None) == change
