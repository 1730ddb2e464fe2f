"""`/v1/audit`: who did what through this API, and by commands."""

from aiohttp import web

from gateway.admin.api import reports
from gateway.admin.api.operations import Answer, Operation, json, reads
from gateway.stores.postgres.directory.audit import AuditLog


class Audit:
    """Reads the audit."""

    def __init__(self, audit: AuditLog) -> None:
        self._audit = audit

    def operations(self) -> list[Operation]:
        return [
            reads("GET", "/audit", self.list_audit, reports.AuditSearch, "What was done, the latest first",
                  Answer(model=reports.AuditPage)),
        ]  # fmt: skip

    async def list_audit(self, _: web.Request, params: reports.AuditSearch) -> web.Response:
        after = None if params.after is None else int(params.after)
        found = await self._audit.page(after=after, limit=params.limit + 1)
        page = found[: params.limit]
        return json(
            reports.AuditPage(
                items=[reports.AuditEntry.of(row) for row in page],
                next=str(page[-1].id) if len(found) > len(page) else None,
            )
        )
