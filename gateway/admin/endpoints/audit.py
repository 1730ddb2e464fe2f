"""`/v1/audit`: the changes through this API and by commands, with their authors."""

from aiohttp import web

from gateway.admin.api import reports
from gateway.admin.api.operations import Answer, Operation, json, reads
from gateway.stores.postgres.directory.audit import AuditLog


class Audit:
    """Reads the audit log."""

    def __init__(self, audit: AuditLog) -> None:
        self._audit = audit

    def operations(self) -> list[Operation]:
        return [
            reads("GET", "/audit", self.list_audit, reports.AuditSearch, "List the audit log, latest first",
                  Answer(model=reports.AuditPage)),
        ]  # fmt: skip

    async def list_audit(self, _: web.Request, params: reports.AuditSearch) -> web.Response:
        after = None if params.after is None else int(params.after)
        found = await self._audit.page(target=params.target, after=after, limit=params.limit + 1)
        page = found[: params.limit]
        return json(
            reports.AuditPage(
                items=[reports.AuditEntry.of(row) for row in page],
                next=str(page[-1].id) if len(found) > len(page) else None,
            )
        )
