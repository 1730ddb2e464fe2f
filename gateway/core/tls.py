"""How strictly certificates of servers are checked: the same on every Python.

`ssl.create_default_context` asks for RFC 5280 to the letter from Python 3.13 on, and not before. An upgrade
of Python must not decide whether the authority of a company is still trusted: a setting does.
"""

import ssl
from typing import Final

_BREACHES: Final = range(79, 94)
"""X509_V_ERR_INVALID_CA's successors in OpenSSL 3: what only X509_V_FLAG_X509_STRICT finds."""


def set_strictness(context: ssl.SSLContext, *, strict: bool) -> None:
    """Ask for RFC 5280 to the letter (X509_V_FLAG_X509_STRICT), or do not.

    Either way a certificate of the trusted file is trusted though it is no root, as Python does since 3.13.
    """
    flags = context.verify_flags | ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN
    if strict:
        flags |= ssl.VerifyFlags.VERIFY_X509_STRICT
    else:
        flags &= ~ssl.VerifyFlags.VERIFY_X509_STRICT
    context.verify_flags = flags


def distrust(error: ssl.SSLCertVerificationError, setting: str) -> str:
    """Say why a certificate is not trusted; names the setting that is as strict, when it is for that."""
    why = f"its certificate is not trusted: {error.verify_message}"
    return f"{why} (`{setting}` asks for this)" if error.verify_code in _BREACHES else why
