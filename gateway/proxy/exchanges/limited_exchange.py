"""An exchange with limits: its response tells what is left, and its end lets another request begin."""

import asyncio
from time import monotonic

from gateway.core.admission import Admission
from gateway.limits.limiter import LimitedAdmission
from gateway.proxy.exchanges.exchange import E, Exchange
from gateway.proxy.upstream.parser import ResponseHead


class LimitedExchange(Exchange):
    """What all kinds of exchanges have in addition where limits are configured."""

    __slots__ = ()

    def _admitted(self, task: "asyncio.Task[Admission]") -> None:
        if self._state == "over" and not task.cancelled() and task.exception() is None:
            # The client left in the same moment: nothing will come of the admission.
            _release(task.result())
        super()._admitted(task)

    def _pass_on(self, head: ResponseHead, body: bytes) -> bytes:
        """Put the fields about limits below the status line of the final head."""
        response = super()._pass_on(head, body)
        admission = self._admission
        if head.status < 200 or not response or not isinstance(admission, LimitedAdmission):
            return response
        fields = admission.limit_fields(monotonic())
        place = response.index(b"\r\n") + 2
        return b"%b%b%b" % (response[:place], fields, response[place:])

    def _account(self, route: str, status: int, now: float) -> None:
        super()._account(route, status, now)
        if self._admission is not None:
            _release(self._admission)


def limited_exchange(kind: type[E], /) -> type[E]:
    """Return a kind of exchange that has limits, too."""
    made: type[E] = type(f"Limited{kind.__name__}", (LimitedExchange, kind), {"__slots__": ()})
    return made


def _release(admission: Admission) -> None:
    if isinstance(admission, LimitedAdmission):
        admission.release()
