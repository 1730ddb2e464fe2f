"""Why a subject has no user: similar users under another issuer, spelling or name."""

from dataclasses import dataclass
from typing import Final
from uuid import UUID

from gateway.core.model import Claims, StoreUnavailable
from gateway.core.reasons import USER_NOT_FOUND, Denial
from gateway.core.spelling import difference
from gateway.explain.answer import Cause, Fix
from gateway.explain.trail import Trail
from gateway.explain.wording import listed, moment, shown
from gateway.stores.postgres.database import Postgres
from gateway.stores.postgres.directory.diagnostics import Diagnostics, SimilarIdentity
from gateway.stores.postgres.directory.users import UserDirectory, UserNotFound, UserRecord

_DIFFERENCES: Final = {
    "case": Cause.SUBJECT_CASE_DIFFERS,
    "spacing": Cause.SUBJECT_SPACING_OR_ENCODING,
    "encoding": Cause.SUBJECT_SPACING_OR_ENCODING,
    "uuid": Cause.SUBJECT_UUID_SPELLING,
    "prefix": Cause.SUBJECT_PREFIX_DIFFERS,
}
_WORDS: Final = {
    Cause.SUBJECT_CASE_DIFFERS: "only in upper and lower case",
    Cause.SUBJECT_SPACING_OR_ENCODING: "only in white space or percent-encoding",
    Cause.SUBJECT_UUID_SPELLING: "only in the spelling of the UUID",
    Cause.SUBJECT_PREFIX_DIFFERS: "only in the provider before the bar",
}
_SAME_PERSON: Final = "If it is the same person, link the token's identity to that user"


@dataclass(frozen=True, slots=True)
class Lookalike:
    """A user that the token probably belongs to."""

    cause: Cause
    user_id: str
    summary: str
    others: tuple[str, ...] = ()
    """The ids of more users with the same similarity."""


async def check(trail: Trail, claims: Claims, postgres: Postgres, *, note: str | None = None) -> None:
    """Find the cause, and skip the remaining steps. `note` is added to what is found."""
    directory, expected = UserDirectory(postgres), "a user"
    denial, added = Denial(USER_NOT_FOUND), "" if note is None else f"; {note}"
    identity = f"subject {shown(claims.subject)} of issuer {claims.realm}"
    try:
        found = await _lookalike(claims, directory, Diagnostics(postgres))
    except StoreUnavailable as error:
        trail.step(
            "user", "fail", expected, "none", f"similar subjects could not be searched: {error.detail}"
        )
        found = None
    else:
        trail.step("user", "fail", expected, "none", "no similar user" if found is None else found.summary)
    trail.skip_rest("there is no user")
    if found is None:
        fix = Fix("Add the user, if it should exist.", command=_add(trail, claims))
        trail.blame(
            denial,
            Cause.USER_UNKNOWN,
            f"The {identity} has no user, and no similar subject has one{added}",
            fix,
        )
        return
    subject = f"--subject={claims.subject}"
    command = trail.commands.gateway("users", "link", found.user_id, f"--issuer={claims.realm}", subject)
    advice = f"{_SAME_PERSON}."
    if found.others:
        advice = f"{_SAME_PERSON}; it may also be {listed(found.others)}."
    trail.blame(
        denial,
        found.cause,
        f"The {identity} has no user; {found.summary}{added}",
        Fix(advice, command=command),
    )


def _add(trail: Trail, claims: Claims) -> str | None:
    tenant = [] if claims.tenant is None else [f"--tenant={claims.tenant}"]
    return trail.commands.gateway(
        "users", "add", f"--issuer={claims.realm}", f"--subject={claims.subject}", *tenant
    )


async def _lookalike(claims: Claims, directory: UserDirectory, diagnostics: Diagnostics) -> Lookalike | None:
    similar = await diagnostics.similar_identities(claims.identity)
    return (
        _of_another_issuer(claims, similar)
        or _spelt_otherwise(claims, similar)
        or await _named_otherwise(claims, directory)
    )


def _of_another_issuer(claims: Claims, similar: list[SimilarIdentity]) -> Lookalike | None:
    same = [each for each in similar if each.identity.subject == claims.subject]
    if not same:
        return None
    issuers = listed(each.identity.issuer for each in same)
    summary = f"the same subject has a user under another issuer: {issuers}"
    return _lookalike_of(Cause.SUBJECT_UNDER_OTHER_ISSUER, same, summary)


def _spelt_otherwise(claims: Claims, similar: list[SimilarIdentity]) -> Lookalike | None:
    """Prefer the same issuer, then the smallest difference."""
    for among in (
        [each for each in similar if each.identity.issuer == claims.issuer],
        [each for each in similar if each.identity.issuer != claims.issuer],
    ):
        for kind, cause in _DIFFERENCES.items():
            spelt = [each for each in among if difference(claims.subject, each.identity.subject) == kind]
            if spelt:
                subjects = listed(dict.fromkeys(each.identity.subject for each in spelt))
                summary = f"{subjects} has one, and differs {_WORDS[cause]}"
                if spelt[0].identity.issuer != claims.issuer:
                    summary += f", and belongs to the issuer {shown(spelt[0].identity.issuer)}"
                return _lookalike_of(cause, spelt, summary)
    return None


def _lookalike_of(cause: Cause, similar: list[SimilarIdentity], summary: str) -> Lookalike:
    first, *others = dict.fromkeys(each.user_id for each in similar)
    return Lookalike(cause, first, summary, tuple(others))


async def _named_otherwise(claims: Claims, directory: UserDirectory) -> Lookalike | None:
    subject = claims.subject
    if "@" in subject and (owners := await directory.with_email(subject)):
        first, *others = (record.user.id for record in owners)
        summary = f"it is the e-mail address of user {first}, who has another identity"
        return Lookalike(Cause.SUBJECT_IS_EMAIL, first, summary, tuple(others))
    record = await _with_id(directory, subject)
    if record is not None:
        identities = listed(identity.subject for identity in record.identities)
        summary = f"it is the id of a user in the table `users`, whose subjects are {identities}"
        return Lookalike(Cause.SUBJECT_IS_USER_ID, record.user.id, summary)
    email = claims.payload.get("email")
    for owner in await directory.with_email(email) if isinstance(email, str) and email.isprintable() else ():
        if claims.issued_at is not None and (owner.created_at or 0.0) > claims.issued_at:
            summary = (
                f"user {owner.user.id} has the token's e-mail address, and was created"
                f" {moment(owner.created_at)}, after the token was issued: the account was probably recreated"
            )
            return Lookalike(Cause.ACCOUNT_RECREATED, owner.user.id, summary)
    return None


async def _with_id(directory: UserDirectory, text: str) -> UserRecord | None:
    try:
        return await directory.get(UUID(text))
    except (ValueError, UserNotFound):
        return None
