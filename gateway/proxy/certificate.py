"""The certificate of the gateway's listener, which is read again when its files change."""

import asyncio
import math
import ssl
from collections.abc import Iterable
from pathlib import Path
from typing import Final, TypeAlias

import structlog
from cryptography import x509

CHECK_SECONDS: Final = 10.0
"""How often the files are checked."""
# Without a given password, OpenSSL asks the terminal for that of an encrypted key. A server has no terminal.
_NO_PASSWORD: Final = ""

_State: TypeAlias = tuple[tuple[int, int, int] | None, ...]


class Certificate:
    """A certificate and its key, in a TLS context with the files that were read last.

    Raises OSError, which names the file, when a file cannot be read or the two do not match.
    """

    def __init__(self, certificate: Path, key: Path) -> None:
        self._files = (certificate, key)
        self._seen = self._state()
        self.context = self._load()
        self.expires_at = self._expiry()
        """When the certificate expires, in Unix seconds."""

    async def watch(self, every: float = CHECK_SECONDS) -> None:
        """Check the files every `every` seconds, for ever."""
        while True:
            await asyncio.sleep(every)
            self.refresh()

    def refresh(self) -> bool:
        """Use the files from the next handshake on, if they changed and are valid; return whether they are.

        Files that cannot be used are logged once, and the old certificate stays.
        """
        seen = self._state()
        if seen == self._seen:
            return False
        self._seen = seen
        try:
            # A context that fails halfway would have half a pair, so try with another context first.
            self._load()
            self.context.load_cert_chain(*self._files, password=_NO_PASSWORD)
        except OSError as error:
            structlog.get_logger().error("certificate_refused", file=str(self._files[0]), detail=str(error))
            return False
        self.expires_at = self._expiry()
        structlog.get_logger().info("certificate_loaded", file=str(self._files[0]))
        return True

    def _load(self) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        try:
            context.load_cert_chain(*self._files, password=_NO_PASSWORD)
        except OSError as error:
            raise unusable("server.tls", self._files, error) from error
        return context

    def _expiry(self) -> float:
        """Read the certificate once more. If it has changed meanwhile, the next check reads it again."""
        try:
            first = x509.load_pem_x509_certificates(self._files[0].read_bytes())[0]
        except (OSError, ValueError):
            return math.nan
        return first.not_valid_after_utc.timestamp()

    def _state(self) -> _State:
        """Return a value that changes when a file is written, or replaced by another file or link."""
        return tuple(map(_fingerprint, self._files))


def unusable(setting: str, files: Iterable[Path], error: OSError) -> OSError:
    """Return the error that says which PEM file of a setting cannot be used, why, and what to do."""
    for file in files:
        try:
            file.open("rb").close()
        except OSError as closed:
            return OSError(
                f"{setting}: {file} cannot be read: {closed.strerror} → create it, or correct the path"
            )
    names = " and ".join(map(str, dict.fromkeys(files)))
    if isinstance(error, ssl.SSLError) and error.reason == "KEY_VALUES_MISMATCH":
        return OSError(f"{setting}: {names} do not match → give the key of this certificate")
    return OSError(f"{setting}: {names} cannot be used → give PEM files, a private key without a password")


def _fingerprint(file: Path) -> tuple[int, int, int] | None:
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size
