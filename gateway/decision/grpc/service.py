"""`Authorization/Check`: read the original request → admit → answer → account; and its server."""

import random
from collections.abc import Iterable, Sequence
from time import perf_counter
from typing import Final, NamedTuple
from urllib.parse import unquote

import grpc

from gateway.core.admission import Admission
from gateway.core.model import Header, Request
from gateway.core.reasons import FRONT_NOT_TRUSTED, Denial
from gateway.decision.context import DecisionContext
from gateway.decision.grpc.envelope import CheckRequest, read
from gateway.decision.grpc.messages import Answers, described, headers_of
from gateway.telemetry.metrics import UNMATCHED

FRONT: Final = "grpc"
"""The label of this kind of front in metrics."""
_TOKEN: Final = b"authorization"
_SERVICE: Final = "envoy.service.auth.v3.Authorization"


class Checked(NamedTuple):
    """An answer, and what it says."""

    answer: bytes
    status: int
    """That of the reason; 200 for a success."""
    admission: Admission | None
    failure: Exception | None


class CheckService:
    """Decides on what Envoy describes."""

    def __init__(self, context: DecisionContext) -> None:
        self._context = context
        self._answers = Answers(context.headers)

    async def check(
        self, asked: CheckRequest, call: "grpc.aio.ServicerContext[CheckRequest, bytes]"
    ) -> bytes:
        """Answer one question. It never fails: every error becomes a denial."""
        return (await self.checked(asked, headers_of(asked), address(call.peer()))).answer

    async def checked(
        self, asked: CheckRequest, headers: Sequence[Header], peer: str, trace: int | None = None
    ) -> Checked:
        """Answer a question of a peer.

        `headers` are the fields of the original request. `trace`: the number of its trace, if it is sampled.
        """
        context, started = self._context, perf_counter()
        request = Request("UNKNOWN", "", (), peer, "http", f"{random.getrandbits(128):032x}")
        route, admission, failure = UNMATCHED, None, None
        try:
            if not context.may_ask(peer):
                raise Denial(FRONT_NOT_TRUSTED)
            original, removed = described(context.questions, asked, headers)
            request = Request(
                original.method,
                original.target,
                original.headers,
                original.client,
                original.scheme,
                context.headers.acceptable_id(headers) or request.id,
                original.may_upgrade,
            )
            if trace is not None:
                request.trace = trace
            admission = await context.pipeline.admit(request)
        except Exception as error:  # noqa: BLE001 -- every error becomes an answer: a front never gets a traceback
            failure = error
            denial = error if isinstance(error, Denial) else context.defect(request, error)
            route = UNMATCHED if denial.route is None else denial.route.name
            status, response = context.deny(request, denial, route, keep_alive=True)
            answer = self._answers.denial(status, context.responder.code(denial), response)
        else:
            decision, route, status = admission.decision, admission.forwarding.route.name, 200
            if admission.stale:
                context.metrics.admitted_by_stale(admission)
            told = context.nothing_told if decision is None else decision.told
            if not admission.forwarding.forwards_authorization:
                removed = (*removed, _TOKEN)
            answer = self._answers.success(told, request.id, removed)
        seconds = perf_counter() - started
        context.metrics.finished(route, request.method, status, seconds)
        context.metrics.decided(FRONT, status)
        user = None if admission is None else admission.user
        context.log.finished(request, route, status, seconds, user=user)
        return Checked(answer, status, admission, failure)


class GrpcListener:
    """A gRPC server on its addresses, which several processes share."""

    def __init__(self, service: CheckService, addresses: Iterable[tuple[str, int]]) -> None:
        """Bind the addresses: hosts and ports. Raises OSError when one cannot be listened on."""
        self._server = grpc.aio.server(options=[("grpc.so_reuseport", 1)])
        handler: grpc.RpcMethodHandler[CheckRequest, bytes] = grpc.unary_unary_rpc_method_handler(
            service.check, request_deserializer=read, response_serializer=None
        )
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(_SERVICE, {"Check": handler}),)
        )
        for host, port in addresses:
            place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
            try:
                self._server.add_insecure_port(place)
            except RuntimeError as error:
                raise OSError(
                    f"decision.grpc_listen: {place} cannot be listened on → choose another one"
                ) from error

    async def start(self) -> None:
        await self._server.start()

    async def stop(self, seconds: float, *, last: bool) -> None:  # noqa: ARG002 -- connections wait in no queue
        """Stop accepting, and finish the questions in flight for up to `seconds`."""
        await self._server.stop(seconds)


def address(peer: str) -> str:
    """Return the address in gRPC's name of a peer: `ipv4:10.0.0.1:5000`, `ipv6:%5B::1%5D:5000`."""
    kind, _, rest = unquote(peer).partition(":")
    return rest.rpartition(":")[0].strip("[]") if kind in {"ipv4", "ipv6"} else "unknown"
