"""The gateway's certificate and its replacement while the gateway serves."""

import asyncio
import datetime
import ssl
from contextlib import suppress
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from structlog.testing import capture_logs

from gateway.proxy.certificate import Certificate


def write(folder: Path, name: str, *, password: bytes | None = None) -> None:
    """Write a new certificate for a name, and its key, over the old ones."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    protection = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, protection)
    for file, content in (
        ("certificate.pem", certificate.public_bytes(serialization.Encoding.PEM)),
        ("key.pem", pem),
    ):
        fresh = folder / f"{file}.new"
        fresh.write_bytes(content)
        fresh.replace(folder / file)


async def served_name(certificate: Certificate) -> str:
    """Return the common name in the certificate of a new connection."""
    server = await asyncio.start_server(
        lambda _, writer: writer.close(), "127.0.0.1", 0, ssl=certificate.context
    )
    trusting = ssl.create_default_context()
    trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
    port = server.sockets[0].getsockname()[1]
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trusting)
    der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    with suppress(OSError):
        await reader.read()
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()
    server.close()
    await server.wait_closed()
    name = x509.load_der_x509_certificate(der).subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value
    assert isinstance(name, str)
    return name


async def test_a_new_certificate_is_served_from_the_next_handshake_on(tmp_path: Path) -> None:
    write(tmp_path, "old.test")
    certificate = Certificate(tmp_path / "certificate.pem", tmp_path / "key.pem")
    assert await served_name(certificate) == "old.test"
    assert not certificate.refresh()
    tomorrow = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=1)
    assert abs(certificate.expires_at - tomorrow.timestamp()) < 60

    watching = asyncio.create_task(certificate.watch(every=0.01))
    write(tmp_path, "new.test")
    for _ in range(200):
        await asyncio.sleep(0.01)
        if await served_name(certificate) == "new.test":
            break
    else:
        pytest.fail("the new certificate is not served")
    watching.cancel()


@pytest.mark.parametrize("damage", ["no PEM", "another key", "encrypted", "missing"])
async def test_files_that_cannot_be_used_keep_the_old_certificate(tmp_path: Path, damage: str) -> None:
    write(tmp_path, "old.test")
    certificate = Certificate(tmp_path / "certificate.pem", tmp_path / "key.pem")
    key = (tmp_path / "key.pem").read_bytes()
    if damage == "missing":
        (tmp_path / "key.pem").unlink()
    else:
        write(tmp_path, "new.test", password=b"secret" if damage == "encrypted" else None)
        if damage == "no PEM":
            (tmp_path / "certificate.pem").write_text("half a file")
        elif damage == "another key":
            (tmp_path / "key.pem").write_bytes(key)

    with capture_logs() as logged:
        assert not certificate.refresh()
        assert not certificate.refresh()

    assert [event["event"] for event in logged] == ["certificate_refused"]
    assert await served_name(certificate) == "old.test"

    write(tmp_path, "mended.test")
    assert certificate.refresh()
    assert await served_name(certificate) == "mended.test"


def test_an_error_names_files_that_do_not_match(tmp_path: Path) -> None:
    write(tmp_path, "old.test")
    key = (tmp_path / "key.pem").read_bytes()
    write(tmp_path, "new.test")
    (tmp_path / "key.pem").write_bytes(key)
    with pytest.raises(OSError, match=r"^server.tls: .*/certificate.pem and .*/key.pem do not match →"):
        Certificate(tmp_path / "certificate.pem", tmp_path / "key.pem")
    (tmp_path / "key.pem").write_text("half a file")
    with pytest.raises(OSError, match=r"^server.tls: .*/key.pem cannot be used → give PEM files"):
        Certificate(tmp_path / "certificate.pem", tmp_path / "key.pem")


def test_a_certificate_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"server.tls: .*/none.pem cannot be read: No such file"):
        Certificate(tmp_path / "none.pem", tmp_path / "none.pem")
