"""Why a subject has no user: similar users under another issuer, spelling or name."""

from dataclasses import replace
from typing import Final

from gateway.core.model import Claims, StoreUnavailable, UserStatus
from gateway.core.reasons import USER_NOT_FOUND, Denial
from gateway.core.text.lookalikes import marked
from gateway.core.text.spelling import difference
from gateway.explain.answer import Cause, Fix
from gateway.explain.evidence.issuers import is_other_environment, is_same
from gateway.explain.evidence.issuers import marked as marked_issuer
from gateway.explain.evidence.users import Users
from gateway.explain.fixes.remedies import place_of_subject
from gateway.explain.steps.users import no_person, same_person
from gateway.explain.steps.users.same_person import Lookalike
from gateway.explain.trail import Trail
from gateway.explain.wording import listed, moment, shown, sql_literal
from gateway.stores.postgres.directory.diagnostics import SimilarIdentity
from gateway.stores.postgres.directory.user_rows import (
    UserChanges,
    UserIdMalformed,
    UserNotFound,
    UserRecord,
)
from gateway.stores.postgres.source.directory.users import AnyDirectory

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
_MOST: Final = 5
"""Similar users who are looked at."""
ADD_USER: Final = "Add the user, if it should exist."
_SAME_PERSON: Final = "If it is the same person, link the token's identity to that user"


async def check(
    trail: Trail,
    claims: Claims,
    users: Users,
    *,
    note: str | None = None,
    advice: str = ADD_USER,
) -> None:
    """Find the cause, and skip the remaining steps. `note` is added to what is found.

    `advice` is about a person who has no account.
    """
    expected, source = "a user", users.source
    if source is not None and not source.identities_of(claims.realm.partition("/")[0]):
        _blame_issuer(trail, claims)
        return
    if no_person.is_empty(claims.subject):
        no_person.blame_empty(trail, claims)
        return
    denial, added = Denial(USER_NOT_FOUND), "" if note is None else f"; {note}"
    identity = f"subject {shown(claims.subject)} of issuer {claims.realm}"
    unsearched = False
    try:
        found = await _lookalike(trail, claims, users)
        owners = [] if found is None else await _owners(users, found)
        obstacle = await _obstacle(users, claims, adding=found is None)
    except StoreUnavailable as error:
        trail.step(
            "user", "fail", expected, "none", f"similar subjects could not be searched: {error.detail}"
        )
        found, owners, obstacle = None, [], None
        unsearched = True
    else:
        trail.step("user", "fail", expected, "none", "no similar user" if found is None else found.summary)
    trail.skip_rest("there is no user")
    if found is None:
        fix = trail.remedies.create(advice, claims, obstacle=obstacle)
        seen = "no similar subject has one"
        if no_person.is_guest(claims):
            seen += ". The token is of an anonymous sign-in: the provider gives each one a new subject"
            fix = Fix(
                "Let the person sign in with an account. If guests should have access, use a route that needs"
                " no user (`missing_user: forward`): a user that is added for this subject serves one guest,"
                " until the next sign-in."
            )
        elif no_person.is_client(claims):
            seen += ". The token is of a client, and of no person (client credentials)"
            advice = (
                "If a person is meant, let the client send the token of the person who signed in. If the"
                " client should have access as itself, add it as a user, or use a route that needs none"
                " (`missing_user: forward`)."
            )
            fix = trail.remedies.create(advice, claims, obstacle=obstacle, person=False)
        if unsearched:
            seen = "it could not be searched whether a similar subject has one"
            fix = Fix(
                "Look for the person (`gateway users list`) before you add a user: it may have an account."
            )
        trail.blame(
            denial,
            Cause.USER_UNKNOWN,
            f"The {identity} has no user{_looked_in(trail, claims)}, and {seen}{added}",
            fix,
        )
        return
    trail.blame(
        denial,
        found.cause,
        f"The {identity} has no user{_looked_in(trail, claims)}; {found.summary}{added}",
        found.fix or fix_of(trail, claims, found, owners, obstacle),
    )


async def warn_of_second(trail: Trail, claims: Claims, users: Users) -> str | None:
    """Tell of a user of the same issuer who is probably the person for whom a user would be created."""
    try:
        similar = [
            each
            for each in await users.similar_identities(claims.identity)
            if each.identity.issuer == claims.issuer
        ]
        found = _spelt_otherwise(claims, similar)
        owners = [] if found is None else await _owners(users, found)
    except StoreUnavailable:
        return None
    if found is None or all(owner.user.status is UserStatus.DELETED for owner in owners):
        return None
    summary = f"The request would create a second user, perhaps for the same person: {found.summary}"
    trail.blame(None, found.cause, summary, fix_of(trail, claims, found, owners, None))
    return found.summary


_RESPELL: Final = "If it is the same person, write the subject as the token has it."


async def _owners(users: Users, found: Lookalike) -> list[UserRecord]:
    """Return the users who are similar, as they are now."""
    ids = [each for each in (found.user_id, *found.others) if each][:_MOST]
    records = [await _with_id(users.directory, each) for each in ids]
    return [record for record in records if record is not None]


def fix_of(
    trail: Trail, claims: Claims, found: Lookalike, owners: list[UserRecord], obstacle: str | None
) -> Fix:
    """Link the identity, if one user is meant who could be admitted then; else say what is in the way."""
    living = [owner for owner in owners if owner.user.status is not UserStatus.DELETED]
    if len(living) > 1:
        return Fix(
            f"Find out which of the users {listed(owner.user.id for owner in living)} it is, if it is the"
            " same person as any of them. Link the identity to that one (`gateway users link`)."
        )
    if owners and not living:
        gone = owners[0]
        since = "" if gone.deleted_at is None else f" since {moment(gone.deleted_at)}"
        return trail.remedies.status(
            f"User {gone.user.id} is deleted{since}. If it is the same person, and the deletion was a"
            " mistake, restore the user, and explain again: to link the identity is the next step.",
            gone.user,
        )
    target = living[0].user if living else None
    if target is not None and None not in (target.tenant, claims.tenant) and target.tenant != claims.tenant:
        return Fix(
            f"User {target.id} is of the tenant {shown(target.tenant)}, and the token of"
            f" {shown(claims.tenant)}: with a link, the request would still be refused. Find out whether it"
            " is the same person, and which tenant is right: a user has one."
        )
    if found.written is not None:
        respelt = trail.remedies.respell(_RESPELL, claims, found.written)
        if respelt is not None:
            return respelt
    advice = f"{_SAME_PERSON}."
    if target is not None and target.status is not UserStatus.ACTIVE:
        advice += f" The user is {target.status}, which is the next thing to settle."
    if not claims.subject.isprintable():
        advice += (
            " The subject has characters that must not be pasted, so there is no command: let the issuer"
            " write it without them."
        )
    user_id = found.user_id if target is None else target.id
    return trail.remedies.link(advice, claims, user_id, obstacle=obstacle)


def _looked_in(trail: Trail, claims: Claims) -> str:
    """Return where a source has the subjects of the issuer."""
    source = trail.remedies.source
    return "" if source is None else f" in {place_of_subject(source, claims.realm.partition('/')[0])}"


def _blame_issuer(trail: Trail, claims: Claims) -> None:
    name = claims.realm.partition("/")[0]
    summary = f"users.source.identities has no entry for issuer {name}: no token of it has a user"
    trail.step("user", "fail", "a user", "none", summary)
    trail.skip_rest("there is no user")
    trail.blame(
        Denial(USER_NOT_FOUND),
        Cause.ISSUER_WITHOUT_IDENTITIES,
        summary,
        Fix(
            f"Name {name} as `issuer` in the entry that has its subjects, or add an entry, with the column"
            " that is equal to `sub` in its tokens."
        ),
    )


async def _obstacle(users: Users, claims: Claims, *, adding: bool) -> str | None:
    """Return why an identity, or a user with it, cannot be written into a writable source."""
    directory = users.directory_of_source
    if directory is None:
        return None
    if not adding:
        return await directory.obstacle_to_link(claims.identity)
    new: UserChanges = {"status": UserStatus.ACTIVE}
    if claims.tenant is not None:
        new["tenant"] = claims.tenant
    return await directory.obstacle_to_add(claims.identity, new)


async def _lookalike(trail: Trail, claims: Claims, users: Users) -> Lookalike | None:
    similar = await users.similar_identities(claims.identity)
    return (
        await _of_another_database(trail, claims, similar, users)
        or _of_another_issuer(claims, similar)
        or await _left_out(claims, users)
        or _spelt_otherwise(claims, similar)
        or await _named_otherwise(claims, users)
        or await same_person.find(claims, users)
        or await same_person.of_no_issuer(claims, users)
    )


async def _left_out(claims: Claims, users: Users) -> Lookalike | None:
    """Find rows of a source that have the subject, and that the condition of their entry keeps out."""
    found = [] if users.diagnostics is None else await users.diagnostics.excluded(claims.identity)
    if not found or users.source is None:
        return None
    first, *others = found
    table = first.entry.table or users.source.table
    summary = (
        f"{table}.{first.entry.subject} has it for user {first.user_id}, in a row that does not meet"
        f" `{first.entry.where}` (users.source.identities[{first.number}].where)"
    )
    fix = Fix("If the row is of this issuer, correct the row, or the condition.")
    ids = tuple(each.user_id for each in others)
    return Lookalike(Cause.SUBJECT_UNDER_OTHER_ISSUER, first.user_id, summary, ids, fix=fix)


async def _of_another_database(
    trail: Trail, claims: Claims, similar: list[SimilarIdentity], users: Users
) -> Lookalike | None:
    """Tell of a similar subject that only another spelling of the issuer has, or its other environment.

    A link would mend one user of all, and in the database of another environment none.
    """
    others = {each.identity.issuer for each in similar} - {claims.issuer}
    spelling = next((each for each in sorted(others) if is_same(claims.issuer, each)), None)
    if spelling is None and not any(is_other_environment(claims.issuer, each) for each in others):
        return None
    found = await same_person.of_no_issuer(claims, users)
    if found is None or spelling is None:
        return found
    change = f"issuer = {sql_literal(claims.issuer)}"
    summary = (
        f"no identity has the issuer as the token does, but some have another spelling of this issuer,"
        f" {shown(spelling)} ({shown(marked_issuer(claims.issuer, spelling))})"
    )
    fix = Fix(
        "The identities need the issuer exactly as its tokens have it. If both are one issuer, change it in"
        " all of these.",
        command=trail.commands.update("identities", change, issuer=spelling),
    )
    return Lookalike(Cause.SUBJECT_UNDER_OTHER_ISSUER, "", summary, fix=fix)


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
                one = len({each.identity.subject for each in spelt}) == 1
                has = "has one, and differs" if one else "have one each, and differ"
                summary = f"{subjects} {has} {_WORDS[cause]}"
                summary += f" ({marked(claims.subject, spelt[0].identity.subject)})"
                written = spelt[0].identity.subject if len(spelt) == 1 else None
                if spelt[0].identity.issuer != claims.issuer:
                    summary += f", and belongs to the issuer {shown(spelt[0].identity.issuer)}"
                    written = None
                return replace(_lookalike_of(cause, spelt, summary), written=written)
    return None


def _lookalike_of(cause: Cause, similar: list[SimilarIdentity], summary: str) -> Lookalike:
    first, *others = dict.fromkeys(each.user_id for each in similar)
    return Lookalike(cause, first, summary, tuple(others))


async def _named_otherwise(claims: Claims, users: Users) -> Lookalike | None:
    subject, directory = claims.subject, users.directory
    if "@" in subject and (owners := await directory.with_email(subject)):
        first, *others = (record.user.id for record in owners)
        summary = f"it is the e-mail address of user {first}, who has another identity"
        return Lookalike(Cause.SUBJECT_IS_EMAIL, first, summary, tuple(others))
    record = await _with_id(directory, subject)
    if record is not None:
        identities = listed(identity.subject for identity in record.identities)
        table = "users" if users.source is None else users.source.table
        summary = f"it is the id of a user in the table `{table}`, whose subjects are {identities}"
        return Lookalike(Cause.SUBJECT_IS_USER_ID, record.user.id, summary)
    email = claims.payload.get("email")
    for owner in await directory.with_email(email) if isinstance(email, str) and email.isprintable() else ():
        if claims.issued_at is not None and same_person.is_younger(owner, claims.issued_at):
            summary = (
                f"user {owner.user.id} has the token's e-mail address, and was created"
                f" {moment(owner.created_at)}, after the token was issued: the account was probably recreated"
            )
            return Lookalike(Cause.ACCOUNT_RECREATED, owner.user.id, summary)
    return None


async def _with_id(directory: AnyDirectory, text: str) -> UserRecord | None:
    try:
        return await directory.get(text)
    except (UserIdMalformed, UserNotFound):
        return None
