"""What redis-py and the network raise → `StoreUnavailable` in plain words, without secrets."""

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

_WHAT_WAS_SENT: Final = ", with args beginning with"
"""Begins the end of Redis' answer to an unknown command, which may have had a password or a subject in it."""


@contextmanager
def translated(address: str) -> Iterator[None]:
    """Raise `StoreUnavailable` for whatever goes wrong between here and Redis."""
    try:
        yield
    except (TimeoutError, RedisTimeoutError) as error:
        raise StoreUnavailable(Tier.REDIS, f"{address}: no answer in time") from error
    except RedisConnectionError as error:
        raise StoreUnavailable(Tier.REDIS, f"{address}: {_words(error)}") from error
    except RedisError as error:
        raise StoreUnavailable(Tier.REDIS, f"{address}: refuses the command: {_answer(error)}") from error
    except (OSError, ValueError, TypeError) as error:
        raise StoreUnavailable(Tier.REDIS, f"{address}: cannot be asked") from error


def _answer(error: RedisError) -> str:
    return str(error).partition(_WHAT_WAS_SENT)[0]


def _words(error: RedisConnectionError) -> str:
    cause = error.__cause__ or error.__context__
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {cause.verify_message}"
    if isinstance(cause, ssl.SSLError):
        return f"TLS cannot be established: {cause.reason or 'the other side speaks none'}"
    if isinstance(cause, OSError):
        # An event loop's own text names the address again; with several addresses, it has no number.
        number = cause.errno or next(iter(map(int, re.findall(r"\[Errno (\d+)\]", str(cause)))), None)
        if number is not None and not isinstance(cause, socket.gaierror):
            return os.strerror(number)
        return cause.strerror or "cannot connect"
    return str(error) or "the connection was lost"
