"""Certificates are checked in the same way on every version of Python."""

import ssl

import pytest

from gateway.core.tls import distrust, set_strictness
from gateway.proxy.upstream.endpoints.dial import tls_context
from gateway.proxy.upstream.options import TlsRules
from gateway.stores.redis.topology import server_at

STRICT = ssl.VerifyFlags.VERIFY_X509_STRICT


def breach(code: int, message: str) -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError(1, "certificate verify failed")
    error.verify_code, error.verify_message = code, message
    return error


@pytest.mark.parametrize("strict", [True, False])
def test_strictness_is_the_setting_and_not_the_default_of_python(strict: bool) -> None:
    for before in (STRICT, ssl.VerifyFlags.VERIFY_DEFAULT):
        context = ssl.create_default_context()
        context.verify_flags = before
        set_strictness(context, strict=strict)
        assert bool(context.verify_flags & STRICT) is strict
        assert context.verify_flags & ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("url", ["rediss://a", "rediss+sentinel://a/m", "rediss+cluster://a"])
def test_redis_is_checked_as_it_is_set(url: str, strict: bool) -> None:
    context = server_at(url, "{gateway}:", strict=strict).settings["tls"].context()
    assert bool(context.verify_flags & STRICT) is strict


@pytest.mark.parametrize("strict", [True, False])
def test_upstreams_are_checked_as_they_are_set(strict: bool) -> None:
    assert bool(tls_context(TlsRules(strict=strict)).verify_flags & STRICT) is strict


def test_a_refusal_for_strictness_names_its_setting() -> None:
    strict = distrust(breach(85, "Missing Authority Key Identifier"), "redis.tls.strict")
    assert strict.endswith("Missing Authority Key Identifier (`redis.tls.strict` requires this)")
    for code, message in (
        (20, "unable to get local issuer certificate"),
        (62, "hostname mismatch"),
        (10, "expired"),
    ):
        assert "strict" not in distrust(breach(code, message), "redis.tls.strict")
