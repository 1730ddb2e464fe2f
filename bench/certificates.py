"""A certificate for the measured listeners, made for each run."""

import datetime
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from bench.processes import HOST


@dataclass(frozen=True, slots=True)
class Certificate:
    """PEM files of a self-signed certificate with a key on P-256."""

    chain: Path
    key: Path
    both: Path
    """Certificate and key in one file, for HAProxy."""

    @classmethod
    def make(cls, folder: Path) -> Self:
        """Make a certificate for the address of the proxies."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "bench")])
        now = datetime.datetime.now(datetime.UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address(HOST))]), critical=False)
            .sign(key, SHA256())
        )
        chain = certificate.public_bytes(Encoding.PEM)
        private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        files = [folder / name for name in ("tls.pem", "tls.key", "tls-both.pem")]
        for file, content in zip(files, (chain, private, chain + private), strict=True):
            file.touch(mode=0o600)
            file.write_bytes(content)
        return cls(*files)
