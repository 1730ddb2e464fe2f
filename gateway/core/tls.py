"""The strictness of certificate checks: the same on every version of Python.

`ssl.create_default_context` checks RFC 5280 strictly since Python 3.13, and not before. A setting, not an
upgrade of Python, must decide whether a company's authority is trusted.
"""

import ssl
from typing import Final

_BREACHES: Final = range(79, 94)
"""X509_V_ERR_INVALID_CA's successors in OpenSSL 3: errors that only X509_V_FLAG_X509_STRICT finds."""


def set_strictness(context: ssl.SSLContext, *, strict: bool) -> None:
    """Turn strict RFC 5280 (X509_V_FLAG_X509_STRICT) on or off.

    In both cases, a certificate in the trusted file is trusted even if it is not a root, as in Python 3.13.
    """
    flags = context.verify_flags | ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN
    if strict:
        flags |= ssl.VerifyFlags.VERIFY_X509_STRICT
    else:
        flags &= ~ssl.VerifyFlags.VERIFY_X509_STRICT
    context.verify_flags = flags


def distrust(error: ssl.SSLCertVerificationError, setting: str) -> str:
    """Return why a certificate is not trusted, with the strict setting if that is the cause."""
    why = f"its certificate is not trusted: {error.verify_message}"
    return f"{why} (`{setting}` requires this)" if error.verify_code in _BREACHES else why
