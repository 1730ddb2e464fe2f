"""TLS to Postgres with certificates that must follow RFC 5280 strictly (`postgres.tls.strict`).

The driver creates its own context from a DSN, never a strict one. For a DSN that verifies the server's
certificate, this module creates the same context with the flag. See libpq's documentation of `sslmode` and
its files (PostgreSQL, section 34.19).
"""

import os
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Final
from urllib.parse import parse_qs, urlsplit

from gateway.core.tls import set_strictness

_VERIFYING: Final = ("require", "verify-ca", "verify-full")


def strict_context(dsn: str) -> ssl.SSLContext | None:
    """Return the context for a DSN; None if it verifies no certificate, so the driver's context suffices.

    Raises OSError when a file, or a version of TLS, cannot be used.
    """
    query = {name: values[-1] for name, values in parse_qs(urlsplit(dsn).query).items()}
    mode = query.get("sslmode") or os.environ.get("PGSSLMODE")
    root = _file(query, "sslrootcert", "root.crt")
    if mode not in _VERIFYING or (mode == "require" and not root.exists()):
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = mode == "verify-full"
    context.load_verify_locations(cafile=root)
    set_strictness(context, strict=True)
    revoked = _file(query, "sslcrl", "root.crl")
    if "sslcrl" in query or revoked.exists():
        context.load_verify_locations(cafile=revoked)
        context.verify_flags |= ssl.VerifyFlags.VERIFY_CRL_CHECK_CHAIN
    certificate, key = _file(query, "sslcert", "postgresql.crt"), _file(query, "sslkey", "postgresql.key")
    if "sslcert" in query or certificate.exists():
        # With the empty password, OpenSSL does not ask the terminal for the password of an encrypted key.
        own = key if key.exists() else None
        context.load_cert_chain(certificate, own, password=query.get("sslpassword", ""))
    context.minimum_version = _version(query, "ssl_min_protocol_version", "TLSv1.2")
    if "ssl_max_protocol_version" in query:
        context.maximum_version = _version(query, "ssl_max_protocol_version", "")
    return context


def _file(query: Mapping[str, str], name: str, default: str) -> Path:
    named = query.get(name) or os.environ.get(f"PG{name.upper()}")
    return Path(named) if named else Path("~/.postgresql").expanduser() / default


def _version(query: Mapping[str, str], name: str, default: str) -> ssl.TLSVersion:
    version = query.get(name, default)
    try:
        return ssl.TLSVersion[version.replace(".", "_")]
    except KeyError as error:
        raise OSError(f"{name} of the DSN is not a version of TLS: {version!r}") from error
