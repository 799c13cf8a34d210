"""The federation's certificate authority: hospitals trust what it has signed.

Its key lies encrypted with the operator; nothing that runs needs it.
"""

import datetime
import getpass
import ipaddress
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from fedcl.errors import ConfigError

LIFE = datetime.timedelta(days=3653)
"""Of the authority, and of the SuperLink's certificate, which only its own machine ever sees."""
VALID = datetime.timedelta(days=825)
"""Of the certificate that hospitals see: as long as common TLS libraries accept."""
SECRET = "FEDCL_PASSPHRASE"
SHORTEST = 8


@dataclass(frozen=True)
class Authority:
    """Who signs the server's certificates.

    Attributes:
        certificate: what hospitals have of it.
        key: its own, in memory alone.
    """

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @classmethod
    def new(cls) -> Self:
        """Make an authority."""
        key = ec.generate_private_key(ec.SECP384R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "fedcl federation")])
        identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
        root = _begin(name, name, key.public_key(), _start() + LIFE, authority=True)
        root = root.add_extension(identifier, critical=False)
        return cls(root.sign(key, hashes.SHA384()), key)

    @classmethod
    def read(cls, certificate: Path, key: Path, passphrase: str) -> Self:
        """Read an authority.

        Raises:
            ConfigError: its key is not there, or the passphrase is another one.
        """
        if not key.is_file():
            raise ConfigError(f"deploy: {key} is not here; without it nothing can be signed")
        try:
            private = serialization.load_pem_private_key(key.read_bytes(), passphrase.encode())
        except ValueError:
            raise ConfigError(f"deploy: {key} cannot be read with this passphrase") from None
        assert isinstance(private, ec.EllipticCurvePrivateKey)  # as it was made here
        return cls(x509.load_pem_x509_certificate(certificate.read_bytes()), private)

    def encrypted(self, passphrase: str) -> bytes:
        """Return its key as PEM, which the passphrase opens."""
        return self.key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(passphrase.encode()),
        )

    def sign(self, host: str, valid: datetime.timedelta) -> tuple[bytes, bytes]:
        """Return, as PEM, a certificate for a host, good for this machine too, and its key.

        Args:
            host: a name or an IPv4 address.
            valid: for how long, but no longer than the authority itself.
        """
        key = ec.generate_private_key(ec.SECP384R1())
        names = dict.fromkeys(_general(name) for name in ("localhost", "127.0.0.1", host))
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host[:64])])
        end = min(_start() + valid, self.certificate.not_valid_after_utc)
        signed = _begin(subject, self.certificate.subject, key.public_key(), end, authority=False)
        signed = signed.add_extension(x509.SubjectAlternativeName(list(names)), critical=False)
        signed = signed.add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()),
            critical=False,
        )
        private = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        certificate = signed.sign(self.key, hashes.SHA384())
        return certificate.public_bytes(serialization.Encoding.PEM), private


def passphrase(file: Path | None, *, new: bool) -> str:
    """Return what opens the authority's key: from a file, the environment or the terminal.

    Args:
        file: holds it in its first line.
        new: it is being chosen: the terminal asks twice.

    Raises:
        ConfigError: there is none, or it is too short.
    """
    if file is not None:
        try:
            given = (file.read_text().splitlines() or [""])[0]
        except (OSError, UnicodeError) as error:
            reason = getattr(error, "strerror", None) or "it is no text"
            raise ConfigError(f"deploy --passphrase-file: {file}: {reason}") from None
    elif SECRET in os.environ:
        given = os.environ[SECRET]
    elif sys.stdin.isatty():
        given = getpass.getpass("Passphrase of the authority's key: ")
        if new and getpass.getpass("Once more: ") != given:
            raise ConfigError("deploy: the two passphrases differ")
    else:
        raise ConfigError(
            f"deploy: no terminal to ask for the passphrase; give --passphrase-file or {SECRET}"
        )
    if len(given) < SHORTEST:
        raise ConfigError(f"deploy: a passphrase has {SHORTEST} characters at least")
    return given


def ends(certificate: Path) -> datetime.datetime:
    """Return when the first certificate of a PEM file ends.

    Raises:
        ConfigError: it holds none.
    """
    try:
        return x509.load_pem_x509_certificate(certificate.read_bytes()).not_valid_after_utc
    except (OSError, ValueError):
        raise ConfigError(f"deploy: {certificate} cannot be read as a certificate") from None


def _start() -> datetime.datetime:
    """Return from when on a certificate is good: clocks differ."""
    return datetime.datetime.now(datetime.UTC) - datetime.timedelta(minutes=5)


def _general(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _begin(
    subject: x509.Name,
    issuer: x509.Name,
    public: ec.EllipticCurvePublicKey,
    end: datetime.datetime,
    *,
    authority: bool,
) -> x509.CertificateBuilder:
    """Return what every certificate has."""
    usage = x509.KeyUsage(
        digital_signature=not authority, key_cert_sign=authority, crl_sign=authority,
        content_commitment=False, key_encipherment=False, data_encipherment=False,
        key_agreement=False, encipher_only=False, decipher_only=False,
    )  # fmt: skip
    constraints = x509.BasicConstraints(ca=authority, path_length=0 if authority else None)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(_start())
        .not_valid_after(end)
        .add_extension(constraints, critical=True)
        .add_extension(usage, critical=True)
    )
