"""Upstreams behind TLS: which certificates are trusted, and what is sent."""

import asyncio
import datetime
import ipaddress
import os
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from gateway.core.reasons import Denial
from gateway.core.tls import set_strictness
from gateway.proxy.upstream.balancer import Upstream
from gateway.proxy.upstream.options import TlsRules, UpstreamRules
from gateway.proxy.upstream.parser import ResponseParser
from tests.proxy.services import REQUEST, Receiver, TlsUpstream, acquire, exchange
from tests.sockets import Exchange, RawUpstream


@dataclass(frozen=True)
class Authority:
    """A certificate authority for one test."""

    folder: Path
    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @classmethod
    def create(cls, folder: Path, name: str) -> "Authority":
        key = ec.generate_private_key(ec.SECP256R1())
        subject = _name(name)
        certificate = (
            _builder(subject, subject, key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(key, hashes.SHA256())
        )
        authority = cls(folder, key, certificate)
        (folder / f"{name}.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        return authority

    def issue(self, name: str, *, apart: bool = False) -> Path:
        """Issue a certificate for a name. Its key is in the same file, or with `apart` in `<name>.key`."""
        key = ec.generate_private_key(ec.SECP256R1())
        names: list[x509.GeneralName] = [x509.DNSName(name)]
        if name == "localhost":
            names.append(x509.IPAddress(ipaddress.ip_address("127.0.0.1")))
        certificate = (
            _builder(_name(name), self.certificate.subject, key.public_key())
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .sign(self.key, hashes.SHA256())
        )
        secret = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        path = self.folder / f"{name}.crt"
        path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM) + (b"" if apart else secret))
        (self.folder / f"{name}.key").write_bytes(secret)
        return path


def _name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
    )


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    authority = Authority.create(tmp_path_factory.mktemp("tls"), "authority")
    for name in ("localhost", "orders.internal"):
        authority.issue(name)
    authority.issue("gateway", apart=True)
    return authority


def serving(authority: Authority, name: str = "localhost", *, mutual: bool = False) -> TlsUpstream:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(authority.folder / f"{name}.crt")
    if mutual:
        context.load_verify_locations(authority.folder / "authority.pem")
        context.verify_mode = ssl.CERT_REQUIRED
        # This test is not about client certificates.
        set_strictness(context, strict=False)
    return TlsUpstream(context)


def upstream(
    server: TlsUpstream, tls: TlsRules, *, host: str = "localhost", connect_timeout: float = 2.0
) -> Upstream:
    url = f"https://{host}:{server.port}"
    return Upstream(UpstreamRules("orders", (url,), connect_timeout=connect_timeout, tls=tls))


def trusting(authority: Authority, **rules: str) -> TlsRules:
    return TlsRules(ca=authority.folder / "authority.pem", **rules)  # type: ignore[arg-type]  # text only


async def test_a_certificate_of_the_configured_authority_is_trusted(authority: Authority) -> None:
    async with serving(authority) as server:
        service = upstream(server, trusting(authority))
        first, second = await exchange(service), await exchange(service)
        assert (first.body, second.body, len(server.wires)) == (b"ok", b"ok", 1)
        assert server.names == ["localhost"]
        service.close()


async def test_an_authority_that_violates_rfc_5280_is_trusted_unless_strict(
    authority: Authority,
) -> None:
    """It has no Authority Key Identifier. Python 3.13 requires one by default; the gateway does not."""
    async with serving(authority) as server:
        await exchange(upstream(server, trusting(authority)))
        with pytest.raises(Denial, match="Missing Authority Key Identifier") as caught:
            await exchange(upstream(server, replace(trusting(authority), strict=True)))
    assert "`upstreams.orders.tls.strict` requires this" in str(caught.value)


async def test_an_address_is_found_in_the_certificate(authority: Authority) -> None:
    async with serving(authority) as server:
        service = upstream(server, trusting(authority), host="127.0.0.1")
        assert (await exchange(service)).body == b"ok"
        service.close()


@pytest.mark.parametrize("where", ["system", "other"])
async def test_a_certificate_of_an_unknown_authority_is_refused(
    authority: Authority, tmp_path: Path, where: str
) -> None:
    Authority.create(tmp_path, "other")
    tls = TlsRules() if where == "system" else TlsRules(ca=tmp_path / "other.pem")
    async with serving(authority) as server:
        with pytest.raises(Denial, match=r"upstream_unreachable: .*certificate is not trusted: "):
            await exchange(upstream(server, tls))
        assert server.requests == []


async def test_a_certificate_for_another_name_is_refused(authority: Authority) -> None:
    async with serving(authority, "orders.internal") as server:
        with pytest.raises(Denial, match=r"upstream_unreachable: .*not trusted: Hostname mismatch"):
            await exchange(upstream(server, trusting(authority)))
        assert server.requests == []


async def test_the_server_name_can_be_configured(authority: Authority) -> None:
    async with serving(authority, "orders.internal") as server:
        service = upstream(server, trusting(authority, server_name="orders.internal"))
        assert (await exchange(service)).body == b"ok"
        assert server.names == ["orders.internal"]
        service.close()


async def test_without_verification_any_server_is_trusted(authority: Authority) -> None:
    async with serving(authority, "orders.internal") as server:
        service = upstream(server, TlsRules(verify=False))
        assert (await exchange(service)).body == b"ok"
        service.close()


@pytest.mark.parametrize("known", [False, True])
async def test_an_upstream_that_requires_a_client_certificate_gets_it(
    authority: Authority, *, known: bool
) -> None:
    folder = authority.folder
    tls = TlsRules(
        ca=folder / "authority.pem",
        certificate=folder / "gateway.crt" if known else None,
        key=folder / "gateway.key" if known else None,
    )
    async with serving(authority, mutual=True) as server:
        service = upstream(server, tls)
        if known:
            assert (await exchange(service)).body == b"ok"
        else:
            # With TLS 1.3 the refusal may arrive after the handshake.
            with pytest.raises(Denial, match=r"upstream_(unreachable|protocol_error)"):
                await exchange(service)
            assert server.requests == []
        service.close()


async def test_a_server_that_speaks_no_tls_is_unreachable(authority: Authority) -> None:
    async with RawUpstream() as server:
        url = server.url.replace("http:", "https:")
        service = Upstream(UpstreamRules("orders", (url,), connect_timeout=0.3, tls=trusting(authority)))
        with pytest.raises(Denial, match=r"upstream_(unreachable|timeout)"):
            await acquire(service)
        assert server.requests == []


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_a_large_body_arrives_completely(
    authority: Authority, loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    body = os.urandom(4 * 1024 * 1024)

    async def run() -> None:
        async with asyncio.timeout(20), serving(authority) as server:
            server.answer(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            service = upstream(server, trusting(authority))
            for _ in range(2):
                assert (await exchange(service)).body == body
            assert len(server.wires) == 1
            with pytest.raises(Denial, match="not trusted: Hostname mismatch"):
                await acquire(upstream(server, trusting(authority, server_name="other")))
            service.close()

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(run())


@pytest.mark.parametrize("field", ["ca", "certificate"])
async def test_a_file_that_cannot_be_read_stops_the_start(tmp_path: Path, field: str) -> None:
    with pytest.raises(OSError, match=r"^upstreams.orders.tls: .*/none.pem cannot be read: No such file"):
        Upstream(UpstreamRules("orders", ("https://a",), tls=TlsRules(**{field: tmp_path / "none.pem"})))  # type: ignore[arg-type]  # a path by its name


# Ends ----------------------------------------------------------------------------------------------

BODY = b"0123456789" * 20_000


async def ends(server: RawUpstream, service: Upstream, head: bytes, body: bytes, how: str) -> Receiver:
    """Answer once and end the connection. `late`: read nothing of the answer before that."""
    closed = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        writer = exchange.wire.writer
        await exchange.send(head + body)
        if "told" in how.split():
            writer.close()
            await writer.wait_closed()
        else:
            raw = writer.get_extra_info("socket")
            # The written data is still delivered. TLS is not told.
            with socket.socket(fileno=os.dup(raw.fileno())) as wire:
                wire.shutdown(socket.SHUT_WR)
        closed.set()

    server.behave(script)
    connection = await acquire(service, fresh=True)
    receiver = Receiver()
    connection.begin(REQUEST, ResponseParser(bodiless=False), receiver)
    if "late" in how.split():
        connection.pause_reading()
        await asyncio.sleep(0.05)
        connection.resume_reading()
    try:
        await receiver.whole()
    finally:
        connection.owner.release(connection)
    return receiver


@pytest.mark.parametrize("how", ["told", "told late", "cut"])
@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_a_body_that_ends_with_the_connection_needs_a_close_notify(
    authority: Authority, how: str, loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    """RFC 9112 §9.8: without a close_notify, the body is incomplete, unless it has a length or chunks."""

    async def run() -> None:
        async with asyncio.timeout(30), serving(authority) as server:
            service = upstream(server, trusting(authority))
            for size in (10, 20_000):
                body = BODY[:size]
                for head in (
                    b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size,
                    b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % size,
                ):
                    assert (await ends(server, service, head, body, how)).body == body
                chunked = b"%x\r\n%b\r\n0\r\n\r\n" % (size, body)
                head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
                assert (await ends(server, service, head, chunked, how)).body == chunked
                assert service._choices[0].outlier_detection.failures == 0
                head = b"HTTP/1.0 200 OK\r\n\r\n"
                if "told" in how:
                    assert (await ends(server, service, head, body, how)).body == body
                else:
                    with pytest.raises(Denial, match="close_notify"):
                        await ends(server, service, head, body, how)
                    assert service._choices[0].outlier_detection.failures == 1
                    service._choices[0].outlier_detection.succeeded()
            service.close()

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(run())
