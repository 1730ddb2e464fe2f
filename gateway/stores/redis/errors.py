"""Translates errors of redis-py and the network to `StoreUnavailable` in plain words, without secrets."""

import os
import re
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from gateway.core.model import StoreUnavailable, Tier
from gateway.core.tls import distrust

_WHAT_WAS_SENT: Final = ", with args beginning with"
"""From here on, Redis' answer to an unknown command repeats it, perhaps with a password or a subject."""


@contextmanager
def translated(address: str) -> Iterator[None]:
    """Raise `StoreUnavailable` for each error of the driver, the network or Redis."""
    try:
        yield
    except (RedisError, OSError, ValueError, TypeError) as error:
        raise StoreUnavailable(Tier.REDIS, f"{address}: {in_words(error)}") from error


def in_words(error: Exception) -> str:
    """Return what is wrong with a server, without its address and without the data sent to it."""
    if isinstance(error, (TimeoutError, RedisTimeoutError)):
        return "no answer in time"
    cause: BaseException | None = error
    if isinstance(error, RedisConnectionError):
        cause = error.__cause__ or error.__context__
    if isinstance(cause, OSError):
        return _of_the_network(cause)
    if isinstance(error, RedisConnectionError):
        return str(error) or "the connection was lost"
    if isinstance(error, RedisError):
        return f"refuses the command: {str(error).partition(_WHAT_WAS_SENT)[0]}"
    return "cannot be asked"


def _of_the_network(error: OSError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return distrust(error, "redis.tls.strict")
    if isinstance(error, ssl.SSLError):
        return f"TLS cannot be established: {error.reason or 'the other side speaks none'}"
    # The event loop's text repeats the address. With several addresses, the error has no number.
    number = error.errno or next(iter(map(int, re.findall(r"\[Errno (\d+)\]", str(error)))), None)
    if number is not None and not isinstance(error, socket.gaierror):
        return os.strerror(number)
    if isinstance(error, ConnectionResetError):
        return "the connection was lost"
    return error.strerror or "cannot connect"
