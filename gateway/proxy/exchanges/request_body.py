"""A request's body on its way upstream, with back-pressure.

It gets a new framing, because chunk extensions and trailers are not forwarded.
"""

from gateway.proxy.downstream.connection import ClientConnection
from gateway.proxy.downstream.incoming import AnyRequest, Incoming
from gateway.proxy.downstream.limits import LimitExceeded
from gateway.proxy.upstream.connection import UpstreamConnection
from gateway.telemetry.series import Traffic


class RequestBody:
    """The body of one request, until all of it has been written."""

    __slots__ = ("_client", "_connection", "_incoming", "_left", "_timeout", "_traffic")

    def __init__(
        self,
        client: ClientConnection,
        incoming: Incoming,
        connection: UpstreamConnection,
        traffic: Traffic,
        *,
        most: int,
        timeout: float,
    ) -> None:
        """`most`: the largest size of the body. `timeout`: seconds from its end to the response's head."""
        self._client = client
        self._incoming = incoming
        self._connection = connection
        self._left = most
        self._timeout = timeout
        self._traffic = traffic

    def go_on(self) -> bool:
        """Send the part of the body that has arrived, or report its error; return True after its end."""
        incoming, connection = self._incoming, self._connection
        pieces = incoming.take()
        if connection.write_failed:
            # The upstream has answered, or broken off, and reads no more. Drop the rest: a client may send
            # all of it before it reads the response.
            self._client.go_on_reading()
            return incoming.complete
        if pieces:
            data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
            self._left -= len(data)
            if self._left < 0:
                connection.fail(LimitExceeded("body_size", "more bytes came"))
                return False
            self._traffic.received += len(data)
            connection.write(b"%x\r\n%b\r\n" % (len(data), data) if incoming.chunked else data)
        connection.sent()
        if incoming.error is not None:
            connection.fail(incoming.error)
        elif incoming.complete:
            self._client.go_on_reading()  # otherwise a disconnect of the client would go unnoticed
            if incoming.chunked:
                connection.write(b"0\r\n\r\n")
            # The time limit of the upstream begins at the end of the request.
            connection.allow(self._timeout)
            return True
        elif connection.writing_paused:
            self._client.stop_reading()
        else:
            self._client.go_on_reading()
        return False

    def continued(self) -> None:
        """Note that the client got its 100: from now on, its silence counts as slow."""
        self._incoming.expects_continue = False
        self._connection.sent()

    @property
    def awaits_client(self) -> bool:
        """True while it is the client's turn, not the upstream's, and the client is silent."""
        return not (self._connection.writing_paused or self._incoming.awaits_continue)


def awaits_body(client: ClientConnection, incoming: AnyRequest, most: int) -> bool:
    """Return whether the rest of a chunked body is awaited, because the upstream needs its length.

    Once it is complete, it is a body with a length. A body of more than `most` bytes is not awaited.
    Raises `Denial`.
    """
    if not isinstance(incoming, Incoming) or not incoming.chunked or incoming.received > most:
        return False
    if incoming.complete:
        incoming.chunked, incoming.length = False, incoming.received
        return False
    if incoming.error is not None:
        raise incoming.error
    if incoming.expects_continue:
        # The upstream is not asked before the body is there.
        incoming.expects_continue = False
        client.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    client.go_on_reading()
    return True
