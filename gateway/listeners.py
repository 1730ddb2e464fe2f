"""What a gateway listens on: the sockets, their URLs, and the listeners that end when it is drained."""

import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal, Protocol, TypeAlias, get_args

Front: TypeAlias = Literal["front", "decision", "grpc"]
"""The listeners that end when a gateway is drained, by the names in `Listeners`."""
FRONTS: Final[Sequence[Front]] = get_args(Front)


class Stoppable(Protocol):
    """A listener."""

    async def stop(self, seconds: float, *, last: bool) -> None:
        """Stop accepting, and finish the requests in flight for up to `seconds`.

        `last`: no other process takes over the sockets.
        """


@dataclass(frozen=True, slots=True)
class Listeners:
    """Bound sockets to serve on."""

    front: Sequence[socket.socket]
    admin: Sequence[socket.socket]
    decision: Sequence[socket.socket] = ()
    grpc: Sequence[socket.socket] = ()
    """Bound to keep the address. The gRPC server opens sockets of its own beside them."""

    def __iter__(self) -> Iterator[socket.socket]:
        yield from self.front
        yield from self.admin
        yield from self.decision
        yield from self.grpc


@dataclass(frozen=True, slots=True)
class Urls:
    """Where a gateway serves."""

    front: str
    admin: str
    decision: str | None = None
    """None if other proxies cannot ask there."""
    grpc: str | None = None
    """None if Envoy cannot ask by gRPC."""
