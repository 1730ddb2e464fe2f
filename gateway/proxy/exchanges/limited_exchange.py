"""Exchanges with limits: their responses tell what is left, and their ends let other requests begin."""

import asyncio

from gateway.core.admission import Admission
from gateway.proxy.exchanges.exchange import E, Exchange
from gateway.proxy.upstream.parser import ResponseHead


class LimitedExchange(Exchange):
    """The additional parts of every kind of exchange where limits are configured."""

    __slots__ = ()

    def _response_head(self, head: ResponseHead, ours: bytes = b"") -> bytes:
        if self._admission is not None and (spent := self._admission.spent) is not None:
            ours += spent.fields()
        return Exchange._response_head(self, head, ours)  # noqa: SLF001 -- `super()` takes longer


class CountedExchange(LimitedExchange):
    """Where a limit counts requests at the same time, the end of one matters, too."""

    __slots__ = ()

    def _admitted(self, task: "asyncio.Task[Admission]") -> None:
        if self._state == "over" and not task.cancelled() and task.exception() is None:
            # The client left in the same moment: nothing will come of the admission.
            _release(task.result())
        super()._admitted(task)

    def _account(self, route: str, status: int, now: float) -> None:
        super()._account(route, status, now)
        if self._admission is not None:
            _release(self._admission)


def limited_exchange(kind: type[E], /) -> type[E]:
    """Return a kind of exchange that has limits, too."""
    made: type[E] = type(f"Limited{kind.__name__}", (LimitedExchange, kind), {"__slots__": ()})
    return made


def counted_exchange(kind: type[E], /) -> type[E]:
    """Return a kind of exchange that has limits, one of them of requests at the same time."""
    made: type[E] = type(f"Counted{kind.__name__}", (CountedExchange, kind), {"__slots__": ()})
    return made


def _release(admission: Admission) -> None:
    """End a request for its limits, once."""
    spent, admission.spent = admission.spent, None
    if spent is not None:
        spent.release()
