"""Certificates for tests: an authority, what it signs for a server and for callers, and their files."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID


@dataclass
class Signed:
    """A certificate and its key, and where they are."""

    certificate: x509.Certificate
    cert: Path
    key: Path


class Authority:
    """Who signs. file: its own certificate."""

    def __init__(self, folder: Path, name: str = "authority") -> None:
        self.folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = _builder(self._name, self._name, self._key.public_key(), timedelta(days=1))
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        self.certificate = builder.sign(self._key, hashes.SHA256())
        self.file = folder / f"{name}.pem"
        self.file.write_bytes(_pem(self.certificate))

    def server(self, name: str = "server") -> Signed:
        """Sign for a server on loopback."""
        return self._sign(name, [x509.DNSName("localhost"), x509.IPAddress(ip_address("127.0.0.1"))])

    def caller(
        self, name: str, others: Sequence[x509.GeneralName] = (), valid: timedelta = timedelta(days=1)
    ) -> Signed:
        """Sign for a caller. others: its names beside the common one."""
        return self._sign(name, others, valid)

    def revoke(self, *signed: Signed) -> bytes:
        """Return the list of what is revoked, in PEM."""
        now = datetime.now(UTC)
        builder = x509.CertificateRevocationListBuilder().issuer_name(self._name)
        builder = builder.last_update(now - timedelta(hours=1)).next_update(now + timedelta(days=1))
        for each in signed:
            entry = x509.RevokedCertificateBuilder().serial_number(each.certificate.serial_number)
            builder = builder.add_revoked_certificate(entry.revocation_date(now - timedelta(hours=1)).build())
        return builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def trusting(self, caller: Signed | None = None) -> ssl.SSLContext:
        """Return what a client connects with that takes this authority's word. caller: who it says it is."""
        context = ssl.create_default_context(cafile=str(self.file))
        if caller is not None:
            context.load_cert_chain(caller.cert, caller.key)
        return context

    def _sign(self, name: str, others: Sequence[x509.GeneralName], valid: timedelta = timedelta(days=1)) -> Signed:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = _builder(subject, self._name, key.public_key(), valid)
        if others:
            builder = builder.add_extension(x509.SubjectAlternativeName(others), critical=False)
        uses = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
        certificate = builder.add_extension(uses, critical=False).sign(self._key, hashes.SHA256())
        cert, key_file = self.folder / f"{name}.crt", self.folder / f"{name}.key"
        cert.write_bytes(_pem(certificate))
        key_file.write_bytes(pem_of(key))
        return Signed(certificate, cert, key_file)


def pem_of(key: ec.EllipticCurvePrivateKey, password: bytes | None = None) -> bytes:
    """Return a private key in PEM."""
    hidden = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, hidden)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, valid: timedelta
) -> x509.CertificateBuilder:
    """Return what makes a certificate that has begun two days ago, and ends so long from now."""
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key)
    builder = builder.serial_number(x509.random_serial_number())
    return builder.not_valid_before(now - timedelta(days=2)).not_valid_after(now + valid)


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)
