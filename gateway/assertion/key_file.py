"""Signing keys in a file, which all gateways share. The gateway makes it, and only its user may read it."""

import fcntl
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import orjson

from gateway.core.assertion import OVERLAP, SigningKey, SigningKeyUnusable

_MODE: Final = 0o600
_KEPT_SECONDS: Final = 24 * OVERLAP
"""For how long the file keeps a key after another one signs: longer than it is published."""


class KeyFile:
    """A `KeyStore` in a file: JSON with one entry for each key."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def load(self) -> Sequence[SigningKey]:
        """Return all keys; none if there is no file."""
        return self._read()

    async def add(self, pem: str, algorithm: str, ahead: float, *, rotate: bool) -> None:
        """Add a key, in one step, while no other process does."""
        if not rotate and self._has(algorithm):
            # A file that may only be read is good enough.
            return
        with self._locked():
            keys = self._read()
            if keys and not rotate and self._has(algorithm):
                return
            now = time.time()
            begun = [key.signs_from for key in keys if key.signs_from < now - _KEPT_SECONDS]
            kept = [key for key in keys if key.signs_from >= max(begun, default=0.0)]
            self._write([*kept, SigningKey(pem, algorithm, now + ahead if keys else now)])

    def _has(self, algorithm: str) -> bool:
        keys = self._read()
        return bool(keys) and max(keys, key=lambda key: key.signs_from).algorithm == algorithm

    def _read(self) -> list[SigningKey]:
        try:
            document = orjson.loads(self._path.read_bytes())
            return [
                SigningKey(str(entry["pem"]), str(entry["alg"]), float(entry["signs_from"]))
                for entry in document["keys"]
            ]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise OSError(
                f"assertion.key_file: {self._path} cannot be read: {error.strerror or error}"
            ) from error
        except SigningKeyUnusable as error:
            raise OSError(f"assertion.key_file: a key in {self._path} cannot be used: {error}") from error
        except (ValueError, TypeError, KeyError) as error:
            # Without the error's own text, which may have a part of a key.
            raise OSError(f"assertion.key_file: {self._path} is not a file of keys: move it away") from error

    def _write(self, keys: Sequence[SigningKey]) -> None:
        entries = [
            {"kid": key.kid, "alg": key.algorithm, "signs_from": key.signs_from, "pem": key.pem}
            for key in keys
        ]
        text = orjson.dumps({"keys": entries}, option=orjson.OPT_INDENT_2)
        new = self._path.with_name(f"{self._path.name}.new")
        try:
            new.unlink(missing_ok=True)
            descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _MODE)
            with os.fdopen(descriptor, "wb") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            new.replace(self._path)
        except OSError as error:
            raise OSError(
                f"assertion.key_file: {self._path} cannot be written: {error.strerror or error}"
            ) from error

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Exclude other processes; the lock is a file beside, because the file itself is replaced."""
        lock = self._path.with_name(f"{self._path.name}.lock")
        try:
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, _MODE)
        except OSError as error:
            raise OSError(f"assertion.key_file: {lock} cannot be made: {error.strerror or error}") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)
