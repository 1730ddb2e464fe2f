"""One question of a front: read the original request → admit → answer → account.

=========== =============================== =========== ====================================================
State       Event                           Next        What follows
=========== =============================== =========== ====================================================
admitting   admitted                        over        200 with every identity field
admitting   a denial                        over        the denial, in a status that the front passes on
admitting   the front has left              over        499 is counted
=========== =============================== =========== ====================================================

No body is read. If a question has one that has not arrived, its connection is closed after the answer, and
what still comes is dropped (`gateway.proxy.downstream.lingering_close`).
"""

import asyncio
import random
from time import perf_counter

from gateway.core.admission import Admission
from gateway.core.model import Credential, Request, User
from gateway.core.reasons import Denial
from gateway.decision.answers import success
from gateway.decision.context import Asked, DecisionContext
from gateway.proxy.downstream.connection import ClientConnection
from gateway.proxy.downstream.incoming import AnyRequest
from gateway.telemetry.metrics import CLIENT_CLOSED_REQUEST, UNMATCHED


class DecisionExchange:
    """One question, from its head to its answer."""

    __slots__ = ("_asked", "_client", "_context", "_credential", "_incoming", "_started", "_task", "request")

    def __init__(
        self,
        context: DecisionContext,
        client: ClientConnection,
        incoming: AnyRequest,
        credential: Credential | None,
    ) -> None:
        self._context = context
        self._client = client
        self._incoming = incoming
        self._credential = credential
        self._started = perf_counter()
        self._asked: Asked | None = None
        self._task: asyncio.Task[Admission] | None = None
        self.request: Request | None = None
        """The original request; the question itself if there is none in it. None before `begin`."""

    def begin(self) -> None:
        """Answer the question; from the first point where it has to wait, in a task."""
        context, incoming, peer = self._context, self._incoming, self._client.peer
        headers = context.headers
        try:
            self._asked = asked = context.asked(incoming, peer)
        except Exception as error:  # noqa: BLE001 -- every error becomes an answer: a front never gets a traceback
            method, target, id_ = incoming.method or "UNKNOWN", incoming.target, _new_id()
            self.request = Request(method, target, incoming.headers, peer, self._client.scheme, id_)
            self._refuse(error)
            return
        original = asked.original
        self.request = request = Request(
            original.method,
            original.target,
            original.headers,
            original.client,
            original.scheme,
            headers.acceptable_id(incoming.headers) or _new_id(),
            original.may_upgrade,
            incoming.recurring,
            self._credential,
        )
        admitting = context.pipeline.admit(request)
        try:
            admitting.send(None)
        except StopIteration as stop:
            self._answer(stop.value)
        except Exception as error:  # noqa: BLE001 -- as above
            self._refuse(error)
        else:
            # It stopped at an `asyncio.sleep(0)`, so a task can continue it.
            self._task = task = asyncio.get_running_loop().create_task(admitting)
            task.add_done_callback(self._admitted)

    def _admitted(self, task: asyncio.Task[Admission]) -> None:
        if self._task is None or (task.cancelled() and self._client.transport is None):
            return
        # The front is still connected, so `cut` did not cancel the task.
        error = RuntimeError("the admission was cancelled") if task.cancelled() else task.exception()
        if isinstance(error, Exception):
            self._refuse(error)
        else:
            self._answer(task.result())

    # Ends ----------------------------------------------------------------------------------------

    def _answer(self, admission: Admission) -> None:
        context, client, incoming, request = self._context, self._client, self._incoming, self.request
        if request is None:
            return
        decision = admission.decision
        told = context.nothing_told if decision is None else decision.told
        if admission.stale:
            context.metrics.admitted_by_stale(admission)
        keep_alive = client.keeps_alive(incoming)
        client.write(success(told, request.id, keep_alive=keep_alive, modern=incoming.modern))
        self._account(admission.forwarding.route.name, 200, admission.user)
        client.finished(keep_alive=keep_alive)

    def _refuse(self, error: Exception) -> None:
        """Answer, count and log a denial. Any other error is a bug, and becomes a denial too."""
        context, client, incoming, request = self._context, self._client, self._incoming, self.request
        if request is None:
            return
        denial = error if isinstance(error, Denial) else context.defect(request, error)
        route = UNMATCHED if denial.route is None else denial.route.name
        # The data after a CONNECT belongs to no request.
        keep_alive = client.keeps_alive(incoming) and incoming.method != "CONNECT"
        status, answer = context.refuse(request, denial, route, incoming, keep_alive=keep_alive)
        client.write(answer)
        self._account(route, status)
        client.finished(keep_alive=keep_alive)

    def _account(self, route: str, status: int, user: User | None = None) -> None:
        self._task = None
        context, request, asked = self._context, self.request, self._asked
        if request is None:
            return
        seconds = perf_counter() - self._started
        context.metrics.finished(route, request.method, status, seconds)
        if asked is not None:
            context.metrics.decided(asked.front.name, status)
        if context.log.access:
            context.log.finished(request, route, status, seconds, user=user)

    def client_left(self) -> None:
        """End because the front has left."""
        task = self._task
        if task is not None:
            self._account(UNMATCHED, CLIENT_CLOSED_REQUEST)
            task.cancel()

    def cut(self) -> None:
        """End at once, because the gateway ends."""
        if self._task is not None:
            self._task.cancel()
        self._client.abort()

    # The rest of the connection ------------------------------------------------------------------

    def body_arrived(self) -> None:
        """Read no body."""
        self._client.stop_reading()

    def pause(self) -> None:
        """Note that the front does not read; an answer is one small piece, and needs no pause."""

    def resume(self) -> None:
        """Note that the front reads again."""


def _new_id() -> str:
    return f"{random.getrandbits(128):032x}"
