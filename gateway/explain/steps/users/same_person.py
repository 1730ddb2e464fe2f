"""Whether the person behind a subject without a user has an account: looked for before one is added.

A similarity is a question for people. There is a command only where a mistake of spelling is likely, and
never where a person may have chosen the similarity: letters that look the same, unverified addresses, names.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from gateway.core.model import Claims
from gateway.core.text.lookalikes import Similarity, escaped, marked, similarity
from gateway.explain.answer import Cause, Fix
from gateway.explain.evidence.issuers import marked as marked_issuer
from gateway.explain.evidence.issuers import related
from gateway.explain.evidence.users import Users
from gateway.explain.fixes.claim_places import texts
from gateway.explain.wording import listed, shown
from gateway.stores.postgres.directory.diagnostics import Diagnostics, SimilarIdentity
from gateway.stores.postgres.directory.user_rows import UserRecord
from gateway.stores.postgres.source.directory.diagnostics import SourceDiagnostics

_CAUSES: Final = {
    "case": Cause.SUBJECT_CASE_DIFFERS,
    "width": Cause.SUBJECT_SPACING_OR_ENCODING,
    "quotes": Cause.SUBJECT_SPACING_OR_ENCODING,
    "encoded": Cause.SUBJECT_SPACING_OR_ENCODING,
    "typed": Cause.SUBJECT_SPACING_OR_ENCODING,
    "turkish": Cause.SUBJECT_CASE_DIFFERS,
    "confusable": Cause.SUBJECT_CONFUSABLE,
    "number": Cause.SUBJECT_NUMBER_DIFFERS,
    "wrapped": Cause.SUBJECT_PREFIX_DIFFERS,
    "prefix": Cause.SUBJECT_PREFIX_DIFFERS,
    "tag": Cause.SUBJECT_ADDRESS_DIFFERS,
    "domain": Cause.SUBJECT_ADDRESS_DIFFERS,
    "truncated": Cause.SUBJECT_TRUNCATED,
}
_ORDER: Final = tuple(_CAUSES)
_CHOSEN: Final = ("confusable", "domain", "tag", "truncated")
"""Another person may have such a subject, by chance or on purpose."""
_NO_IDS: Final = frozenset(
    {"iss", "aud", "jti", "nonce", "azp", "client_id", "cid", "appid", "scope", "scp", "typ", "acr", "sid",
     "tid", "tenant", "tenant_id", "at_hash", "c_hash", "s_hash", "token_use", "exp", "iat", "nbf", "ver",
     "auth_time", "hd", "locale", "zoneinfo", "picture", "role", "client_ip", "ip", "session_state"}
)  # fmt: skip
"""Claims that name no person."""
_OF_NAMES: Final = ("name", "given_name", "nickname")
_OF_LOGINS: Final = ("preferred_username", "username")
_OF_ADDRESSES: Final = ("email", "preferred_username", "upn", "unique_name", "username", "emails", "sub")


@dataclass(frozen=True, slots=True)
class Lookalike:
    """A user that the token probably belongs to."""

    cause: Cause
    user_id: str
    summary: str
    others: tuple[str, ...] = ()
    """The ids of more users with the same similarity."""
    written: str | None = None
    """The other spelling, if only one identity of the token's issuer has one."""
    fix: Fix | None = None
    """What to do, if it is not to link the identity."""


async def of_no_issuer(claims: Claims, users: Users) -> Lookalike | None:
    """Tell of tables that have identities, and none of the token's issuer: probably another environment's."""
    if users.source is not None:
        return None
    there = await Diagnostics(users.postgres).population(claims.issuer)
    if there.own or not there.others:
        return None
    others = listed(there.others)
    summary = f"database {there.database} has no identity of this issuer at all, but of {others}"
    near = [each for each in there.others if related(claims.issuer, each)]
    if near:
        summary += f"; {shown(marked_issuer(claims.issuer, near[0]))}"
    fix = Fix(
        f"Find out whether {shown(there.database)} is the database of this environment (`postgres.dsn`): it"
        " may be that of another one, whose issuer is another. If it is the right one, and no user has"
        " signed in with this issuer before, add the users (`gateway users add`, `gateway users import`),"
        " or link them."
    )
    return Lookalike(Cause.STORE_WITHOUT_ISSUER, "", summary, fix=fix)


def is_younger(record: UserRecord, issued_at: float) -> bool:
    """Tell whether an account was created after a token was issued, whose `iat` is in whole seconds."""
    return record.created_at is not None and record.created_at >= issued_at + 1


async def find(claims: Claims, users: Users) -> Lookalike | None:
    """Look for the person: other spellings, other claims, address, name. Raises `StoreUnavailable`."""
    searches = users.searches
    return (
        _nearest(claims, await searches.nearby_identities(claims.identity))
        or await _in_another_claim(claims, searches)
        or await _with_address(claims, users)
        or await _with_name(claims, searches)
    )


def _nearest(claims: Claims, near: list[SimilarIdentity]) -> Lookalike | None:
    judged = [
        (each, found)
        for each in near
        if (found := similarity(claims.subject, each.identity.subject)) is not None
    ]
    if not judged:
        return None

    def rank(pair: tuple[SimilarIdentity, Similarity]) -> tuple[bool, int]:
        return pair[0].identity.issuer != claims.issuer, _ORDER.index(pair[1].kind)

    each, first = min(judged, key=rank)
    others = dict.fromkeys(other.user_id for other, found in judged if found == first)
    others.pop(each.user_id, None)
    summary = f"{escaped(each.identity.subject)} has one, and differs {first.words}"
    if each.identity.issuer != claims.issuer:
        summary += f", and belongs to the issuer {shown(each.identity.issuer)}"
    summary += f" ({marked(claims.subject, each.identity.subject)})"
    fix = None
    if first.kind in _CHOSEN or others:
        ids = listed([each.user_id, *others])
        fix = Fix(
            f"Find out whether it is the same person as user {ids}: another person may have such a subject,"
            " by chance or on purpose. If it is, let the issuer or the table have the one spelling, or link"
            " the identity (`gateway users link`); if not, add a user."
        )
    return Lookalike(_CAUSES[first.kind], each.user_id, summary, tuple(others), fix=fix)


# Claims ------------------------------------------------------------------------------------------


def _ids(claims: Claims) -> Iterator[tuple[str, str]]:
    """Yield the claims that may name the user, with their paths."""
    for path, value in texts(claims.payload):
        if path not in _NO_IDS and value != claims.subject and 0 < len(value) <= 255 and value.isprintable():
            yield path, value


def _is_unverified(claims: Claims, path: str) -> bool:
    return path == "email" and claims.payload.get("email_verified") in (False, "false")


async def _in_another_claim(claims: Claims, searches: Diagnostics | SourceDiagnostics) -> Lookalike | None:
    named = dict(_ids(claims))
    found = await searches.identities_of(claims.issuer, list(dict.fromkeys(named.values())))
    for each in found:
        path = next(path for path, value in named.items() if value == each.identity.subject)
        summary = f"its claim `{path}`, {shown(each.identity.subject)}, is the subject of user {each.user_id}"
        advice = (
            f"If all users of this issuer are known by `{path}`, the subject is in another place than the"
            f" gateway looks: `subject: {path}` of the issuer. To change that is a decision about all of its"
            " users, and right only for a claim that the issuer never gives to another person."
        )
        if path in _OF_NAMES or _is_unverified(claims, path):
            return Lookalike(Cause.SUBJECT_IN_OTHER_CLAIM, each.user_id, summary, fix=Fix(advice))
        return Lookalike(Cause.SUBJECT_IN_OTHER_CLAIM, each.user_id, f"{summary}. {advice[:-1]}")
    return None


async def _with_address(claims: Claims, users: Users) -> Lookalike | None:
    for path, value in (("sub", claims.subject), *_ids(claims)):
        if path not in _OF_ADDRESSES or "@" not in value:
            continue
        owners = await users.directory.with_email(value)
        if not owners:
            continue
        first, *others = (record.user.id for record in owners)
        summary = f"its claim `{path}` is the e-mail address of user {first}, who has another identity"
        fix = None
        if _is_unverified(claims, path):
            fix = Fix(
                "The issuer says that the address is not verified (`email_verified`), so it proves nothing:"
                f" find out by another way whether it is the same person as user {first}. Link the accounts"
                " only then."
            )
        return Lookalike(Cause.ACCOUNT_NOT_LINKED, first, summary, tuple(others), fix=fix)
    return None


async def _with_name(claims: Claims, searches: Diagnostics | SourceDiagnostics) -> Lookalike | None:
    names = [claims.subject, *(value for path, value in _ids(claims) if path in (*_OF_NAMES, *_OF_LOGINS))]
    phones = [claims.subject, *(value for path, value in _ids(claims) if path == "phone_number")]
    for user_id, what in await searches.users_called(names, phones):
        own = what.casefold() == claims.subject.casefold() or what == "phone"
        summary = f"the token's name {shown(what)} is the display name of user {user_id}"
        cause = Cause.SUBJECT_IS_NAME if own else Cause.ACCOUNT_NOT_LINKED
        if what == "phone":
            summary = f"the subject or `phone_number` is the telephone number of user {user_id}"
            cause = Cause.SUBJECT_IS_PHONE
        return Lookalike(
            cause,
            user_id,
            summary,
            fix=Fix(
                f"Find out whether it is the same person as user {user_id}: names and numbers are shared,"
                " and change. If it is, link the identity (`gateway users link`); if not, add a user. Let"
                " the issuer send an id as subject that it never gives to another person."
            ),
        )
    return None
