"""What is wrong with a source of users: it does not answer as it is configured, or reports no changes."""

from gateway.core.model import Claims, StoreUnavailable
from gateway.core.reasons import Denial
from gateway.explain.answer import Cause, Fix
from gateway.explain.fixes.remedies import place_of_subject
from gateway.explain.trail import Trail
from gateway.explain.wording import listed
from gateway.stores.postgres.directory.diagnostics import failure_kind
from gateway.stores.postgres.directory.user_rows import IdentityAmbiguous
from gateway.stores.postgres.source.directory.diagnostics import SourceDiagnostics
from gateway.stores.postgres.source.trial import Fault


async def blame(
    trail: Trail,
    claims: Claims,
    refusal: Denial | None,
    diagnostics: SourceDiagnostics,
    error: StoreUnavailable,
) -> None:
    """Record why the source did not return the user. `refusal` is what the pipeline refuses with."""
    if isinstance(error, IdentityAmbiguous):
        _blame_ambiguity(trail, claims, refusal, error)
        return
    summary = f"The tables of users.source cannot be used: {error.detail}"
    trouble = failure_kind(error)
    if trouble == "unreachable":
        fix = Fix("Start the server of users.source, or correct `users.source.dsn` (else `postgres.dsn`).")
        trail.blame(refusal, Cause.STORE_UNREACHABLE, summary, fix)
        return
    try:
        faults = await diagnostics.faults()
    except StoreUnavailable:
        faults = []
    if any(fault.grant is not None for fault in faults):
        trouble = "permission_denied"
    if trouble == "permission_denied":
        grants = [fault.grant for fault in faults if fault.grant is not None]
        command = trail.remedies.owner_sql("; ".join(grants)) if grants else None
        advice = "As the owner of the tables, allow the gateway's role to read them."
        trail.blame(refusal, Cause.STORE_PERMISSION_DENIED, summary, Fix(_told(advice, faults), command))
        return
    advice = "The tables, or this user's row, are not as users.source says: correct the settings."
    trail.blame(refusal, Cause.STORE_NOT_MIGRATED, summary, Fix(_told(advice, faults)))


def _told(advice: str, faults: list[Fault]) -> str:
    return " ".join((advice, *(f"{fault}." for fault in faults)))


def _blame_ambiguity(trail: Trail, claims: Claims, refusal: Denial | None, error: IdentityAmbiguous) -> None:
    source = trail.remedies.source
    where = "" if source is None else f" in {place_of_subject(source, claims.realm.partition('/')[0])}"
    trail.blame(
        refusal,
        Cause.SUBJECT_AMBIGUOUS,
        f"Several users have the token's subject{where}: {listed(error.ids)}. The gateway chooses none",
        Fix(
            "Remove the subject from all but one of them, or make `where` tell them apart. A unique index on"
            " the subject prevents this."
        ),
    )


async def check_reports(trail: Trail, diagnostics: SourceDiagnostics) -> str | None:
    """Return what is wrong with the triggers that report changes, and record it; None if all are there."""
    try:
        table = await diagnostics.unreported()
    except StoreUnavailable:
        return None
    if table is None:
        return None
    summary = (
        f"Triggers that report changes are missing, disabled or of another configuration on {table}: the"
        " gateway asks the database for each request"
    )
    command = trail.commands.gateway("migrate")
    fix = Fix("Run `gateway migrate` with this configuration, as the owner of the tables.", command=command)
    trail.blame(None, Cause.CHANGES_UNREPORTED, summary, fix)
    return summary
