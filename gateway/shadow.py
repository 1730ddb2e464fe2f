"""Shadow, for requests: those that would be refused are reported, and admitted as far as that is true.

It stands around the memo where something is in shadow, and is absent where nothing is. `core.shadow` has the
rules.
"""

from collections.abc import Callable, Container
from typing import Protocol

from gateway.core.admission import Admission, AdmittedInShadow
from gateway.core.model import Claims, Request, Resolution, Route
from gateway.core.reasons import Denial
from gateway.pipeline import Pipeline


class Admitter(Protocol):
    """Decides on requests: `gateway.memo.Memo`."""

    remembered: Container[bytes]
    heads: Container[object]

    async def reauthorize(self, request: Request, route: Route, claims: Claims) -> Resolution: ...

    async def admit(self, request: Request) -> Admission: ...


class ShadowingAdmitter:
    """An admitter whose denials are only reported where something is in shadow."""

    def __init__(
        self, admitter: Admitter, pipeline: Pipeline, report: Callable[[Request, Denial], None]
    ) -> None:
        """`report` is called for each request that is let through, with the denial that it did not get."""
        self._admitter = admitter
        self._admit = admitter.admit
        self._pipeline = pipeline
        self._report = report
        self.remembered = admitter.remembered
        self.heads = admitter.heads

    async def reauthorize(self, request: Request, route: Route, claims: Claims) -> Resolution:
        """Authorize an open exchange again. Raises `Denial`."""
        return await self._admitter.reauthorize(request, route, claims)

    async def admit(self, request: Request) -> Admission:
        """Return the admission. Raises `Denial` for what is not in shadow."""
        try:
            admission = await self._admit(request)
        except Denial as denial:
            let_through = self._pipeline.unidentified(request, denial)
            if let_through is None:
                raise
            admission = let_through
        if isinstance(admission, AdmittedInShadow):
            self._report(request, admission.shadow.denial(admission.forwarding.route))
        return admission
