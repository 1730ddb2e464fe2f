"""How `gateway orphans` reports findings: each is one JSON document or one paragraph of text."""

import shlex
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Final

from gateway.cli.config import DEFAULT_CONFIG
from gateway.core.model import JSON
from gateway.core.text.spelling import Difference
from gateway.core.tokens.claims import MAX_SUBJECT_CHARACTERS, is_clean
from gateway.core.tokens.issuer_patterns import IssuerNames

if TYPE_CHECKING:  # SQLite and the drivers take a while to import; `gateway --help` needs none of them
    from gateway.reconcile.denied_subjects import DeniedSubject
    from gateway.reconcile.orphans import Finding

_DIFFERS_IN: Final[dict[Difference, str]] = {
    "case": "letter case",
    "spacing": "white space or invisible characters",
    "encoding": "percent-encoding or composed letters",
    "prefix": "a provider's prefix",
    "uuid": "the spelling of a UUID",
}

_CAUSES: Final[dict[Difference, str]] = {
    "case": "subject_case_differs",
    "spacing": "subject_spacing_or_encoding",
    "encoding": "subject_spacing_or_encoding",
    "prefix": "subject_prefix_differs",
    "uuid": "subject_uuid_spelling",
}


class ExportFindings:
    """Reports a comparison with an export. `issuer` is the configured name.

    `obstacle`: why no command can link an identity of the issuer.
    """

    ORPHANS: Final = ("spelt_differently", "repeated", "without_user", "without_subject")
    _HEADINGS: Final = {
        "spelt_differently": "Differ only in spelling; if both are the same person, the command links them:",
        "repeated": "Subjects more than once in the export:",
        "without_user": "Subjects without a user:",
        "without_subject": "Users whose identity is not in the export:",
        "not_active": "Users who are not active: they are refused, even if the export has them:",
    }

    def __init__(self, issuer: str, config: Path, *, links: bool = True, obstacle: str | None = None) -> None:
        self._obstacle = obstacle
        self._issuer = issuer
        self._links = links
        """Whether what was compared are subjects, so that they can be linked."""
        self._config = config
        self._heading: str | None = None

    def document(self, finding: "Finding") -> dict[str, JSON]:
        # `asdict` copies deeply, and there may be a million findings.
        document: dict[str, JSON] = {"kind": finding.kind}
        document.update((name, getattr(finding, name)) for name in finding.__slots__)
        if "difference" in document:
            document["command"] = self._command(finding)
        return document

    def text(self, finding: "Finding") -> str:
        """Describe a finding, below a heading if it is the first of its kind."""
        from gateway.reconcile.orphans import NotActive, Repeated, SpeltDifferently, WithoutUser

        match finding:
            case SpeltDifferently():
                text = (
                    f"line {finding.line}: {shown(finding.subject)}, and {shown(finding.identity)} of user"
                    f" {finding.user} ({finding.status}): {_DIFFERS_IN[finding.difference]}\n"
                    f"      {self._command(finding) or self._why_no_command()}"
                )
            case Repeated():
                text = f"line {finding.line}: {shown(finding.subject)}, {finding.times} times"
            case WithoutUser():
                text = f"line {finding.line}: {shown(finding.subject)}"
            case NotActive():
                where = "" if finding.exported else ", not in the export"
                text = f"{shown(finding.subject)}: user {finding.user} is {finding.status}{where}"
            case _:
                text = f"{shown(finding.subject)}: user {finding.user}"
        heading = self._HEADINGS[finding.kind]
        if heading == self._heading:
            return f"  {text}"
        before, self._heading = self._heading, heading
        return f"{'' if before is None else chr(10)}{heading}\n  {text}"

    def summary(self, counts: Mapping[str, int], subjects: int, identities: int) -> dict[str, JSON]:
        return {
            "kind": "summary",
            "issuer": self._issuer,
            "subjects": subjects,
            "identities": identities,
            **{kind: counts.get(kind, 0) for kind in self._HEADINGS},
        }

    def closing(self, summary: Mapping[str, JSON]) -> str:
        """Sum up for people."""
        return (
            f"{'' if self._heading is None else chr(10)}"
            "{subjects} subjects in the export, {identities} identities of {issuer}: {without_user} without a"
            " user, {without_subject} without a subject, {spelt_differently} spelt differently,"
            " {repeated} more than once; {not_active} users not active."
        ).format_map(summary)

    def _why_no_command(self) -> str:
        return (self._obstacle or NO_COMMAND) if self._links else NO_LINK

    def _command(self, finding: "Finding") -> str | None:
        from gateway.reconcile.orphans import SpeltDifferently

        if not self._links or self._obstacle is not None or not isinstance(finding, SpeltDifferently):
            return None
        return link_command(finding.user, self._issuer, finding.subject, self._config)


class DeniedFindings:
    """Reports a comparison with denials. `issuers` are configured names, each with its `iss`.

    `obstacles`: by configured name, why no command can link an identity of the issuer.
    """

    SETTLED: Final = "has_a_user_now"

    def __init__(
        self, issuers: Mapping[str, str], config: Path, obstacles: Mapping[str, str] | None = None
    ) -> None:
        self._obstacles = obstacles or {}
        self._issuers = IssuerNames(issuers)
        self._names = self._issuers.by_iss
        self._config = config

    def cause(self, denied: "DeniedSubject") -> str:
        """Return the cause for which there was no user: a cause of `gateway explain`, or `SETTLED`."""
        nearest = denied.nearest
        if nearest is None:
            return "user_unknown"
        # Denials have the configured name, without the tenant.
        if denied.issuer not in [name.partition("/")[0] for name in self._issuers.names_of(nearest.issuer)]:
            return "subject_under_other_issuer"
        return self.SETTLED if nearest.difference is None else _CAUSES[nearest.difference]

    def document(self, denied: "DeniedSubject") -> dict[str, JSON]:
        return {
            "kind": "denied",
            "cause": self.cause(denied),
            **asdict(denied),
            "command": self._command(denied),
        }

    def text(self, denied: "DeniedSubject") -> str:
        """Describe a subject and the fix for it."""
        name = f"hash {denied.subject_hash}" if denied.subject is None else shown(denied.subject)
        times = "once" if denied.denials == 1 else f"{denied.denials} times"
        text = f"{denied.issuer}: {name} denied {times}, last {shown(denied.last)}: "
        nearest = denied.nearest
        if nearest is None:
            return text + "there is no identity with this subject or a similar spelling"
        user = f"user {nearest.user} ({nearest.status})"
        if self.cause(denied) == self.SETTLED:
            return text + f"its identity now leads to {user}"
        differs = "" if nearest.difference is None else f", and differs in {_DIFFERS_IN[nearest.difference]}"
        issuer = self._names.get(nearest.issuer, nearest.issuer)
        advice = self._command(denied) or self._obstacles.get(denied.issuer) or NO_COMMAND
        return f"{text}{shown(nearest.subject)} of {issuer} is {user}{differs}\n    {advice}"

    def summary(self, counts: Mapping[str, int], denials: int) -> dict[str, JSON]:
        return {
            "kind": "summary",
            "denials": denials,
            "subjects": sum(counts.values()),
            "causes": dict(sorted(counts.items())),
        }

    def closing(self, summary: Mapping[str, JSON]) -> str:
        """Sum up for people."""
        causes = summary["causes"]
        listed = ", ".join(f"{cause} {n}" for cause, n in causes.items()) if isinstance(causes, dict) else ""
        return "{denials} denials without a user, of {subjects} subjects".format_map(summary) + (
            f": {listed}." if listed else "."
        )

    def _command(self, denied: "DeniedSubject") -> str | None:
        nearest, cause = denied.nearest, self.cause(denied)
        if nearest is None or denied.subject is None or cause == self.SETTLED:
            return None
        if denied.issuer in self._obstacles:
            return None
        return link_command(nearest.user, denied.issuer, denied.subject, self._config)


NO_LINK: Final = "These are e-mail addresses: the export has no subjects to link"
NO_COMMAND: Final = "The gateway accepts no token with this subject: correct it at the provider"


def link_command(user: str, issuer: str, subject: str, config: Path) -> str | None:
    """Return the command that links a subject to a user; None for a subject that no token may have."""
    if not is_clean(subject) or len(subject) > MAX_SUBJECT_CHARACTERS:
        return None
    where = "" if config == DEFAULT_CONFIG else f" --config {shlex.quote(str(config))}"
    return f"gateway users link {user} --issuer {shlex.quote(issuer)} --subject={_quoted(subject)}{where}"


def _quoted(text: str) -> str:
    """Quote for a shell; write invisible characters as escapes (`$'…'` of bash, zsh and ksh)."""
    if text.isprintable():
        return shlex.quote(text)
    escaped = text.replace("\\", r"\\").replace("'", r"\'")
    return "$'" + "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in escaped) + "'"


def shown(text: str) -> str:
    """Quote for people; write control and invisible characters as escapes."""
    return f"`{''.join(c if c.isprintable() else ascii(c)[1:-1] for c in text)}`"
