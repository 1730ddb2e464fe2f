"""A request's body on its way upstream, with back-pressure.

It is framed anew, because chunk extensions and trailers end here.
"""

from gateway.proxy.downstream.connection import ClientConnection
from gateway.proxy.downstream.incoming import Incoming
from gateway.proxy.downstream.limits import LimitExceeded
from gateway.proxy.upstream.connection import UpstreamConnection


class RequestBody:
    """The body of one request, until all of it has been written."""

    __slots__ = ("_client", "_connection", "_incoming", "_left", "_timeout")

    def __init__(
        self,
        client: ClientConnection,
        incoming: Incoming,
        connection: UpstreamConnection,
        *,
        most: int,
        timeout: float,
    ) -> None:
        """`most`: bytes that the body may have. `timeout`: seconds from its end to the response's head."""
        self._client = client
        self._incoming = incoming
        self._connection = connection
        self._left = most
        self._timeout = timeout

    def go_on(self) -> bool:
        """Send what has arrived of the body, or hear of its error; True: that was the last of it."""
        incoming, connection = self._incoming, self._connection
        pieces = incoming.take()
        if connection.deaf:
            # The upstream has answered, or broken off, without reading on. The rest is dropped: a client may
            # send all of it before it looks for its answer.
            self._client.go_on_reading()
            return incoming.complete
        if pieces:
            data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
            self._left -= len(data)
            if self._left < 0:
                connection.fail(LimitExceeded("body_size", "more bytes came"))
                return False
            connection.write(b"%x\r\n%b\r\n" % (len(data), data) if incoming.chunked else data)
        connection.sent()
        if incoming.error is not None:
            connection.fail(incoming.error)
        elif incoming.complete:
            self._client.go_on_reading()  # or it would not be seen when the client leaves
            if incoming.chunked:
                connection.write(b"0\r\n\r\n")
            # The upstream's time counts from the end of the request.
            connection.allow(self._timeout)
            return True
        elif connection.writing_paused:
            self._client.stop_reading()
        else:
            self._client.go_on_reading()
        return False

    def continued(self) -> None:
        """Hear that the client has been told to go on: from here on it is slow if it sends nothing."""
        self._incoming.expects_continue = False
        self._connection.sent()

    @property
    def awaits_client(self) -> bool:
        """True while the client is silent whose turn it is, and not the upstream."""
        return not (self._connection.writing_paused or self._incoming.awaits_continue)
