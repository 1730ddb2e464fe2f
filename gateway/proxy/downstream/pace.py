"""How slow one client is: with its head, with its body, and with reading its response."""

from gateway.proxy.downstream.limits import Limits, TransferRate


class Pace:
    """The times and rates of one connection. `elapsed` is always the seconds since the last check."""

    __slots__ = ("_head_age", "_response", "_unsent", "body", "relieved")

    def __init__(self) -> None:
        self._head_age: float | None = None
        self._response = TransferRate()
        self._unsent = 0
        self.body = TransferRate()
        """The rate of the request's body."""
        self.relieved = False
        """Set to True when the client has taken enough of the written data."""

    def rest_head(self) -> None:
        """Note that no head is expected now."""
        self._head_age = None

    def head_is_late(self, elapsed: float, limits: Limits) -> bool:
        """Return whether the expected head has exceeded `header_timeout`."""
        self._head_age = 0.0 if self._head_age is None else self._head_age + elapsed
        return self._head_age > limits.header_timeout

    def body_is_late(self, received: int, elapsed: float, limits: Limits) -> bool:
        """Return whether the body, `received` bytes so far, is slower than `body_min_rate`."""
        return self.body.too_slow(received, elapsed, limits.body_min_rate, limits.rate_grace)

    def response_is_late(self, unsent: int, elapsed: float, limits: Limits, *, more_may_come: bool) -> bool:
        """Return whether the client takes its response slower than `response_min_rate`.

        `unsent` is the size of the write buffer. While more may be written to it (`more_may_come`), its size
        does not show how fast the client reads.
        """
        if not (unsent or self._unsent):
            return False
        grown, self._unsent = unsent > self._unsent, unsent
        relieved, self.relieved = self.relieved, False
        if not unsent or grown or relieved or more_may_come:
            self._response.rest()
        return self._response.too_slow(-unsent, elapsed, limits.response_min_rate, limits.rate_grace)
