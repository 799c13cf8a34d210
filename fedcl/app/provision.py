"""The command `fedcl deploy`: a folder for the server and one for every hospital.

Certificates and keys are made here, with the library that Flower itself uses; each folder holds
what its owner needs to start, and no other's private key.
"""

import datetime
import ipaddress
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from fedcl.errors import ConfigError

TEMPLATES = Path(__file__).parent / "deploy"
VALID = datetime.timedelta(days=825)
NAME = r"[A-Za-z0-9][A-Za-z0-9_-]{0,49}"
"""What a hospital may be called here: its name stands in scripts."""
HERE = ("127.0.0.1", "localhost")
"""Hosts that only this machine reaches; others get a gate before the SuperLink."""


def prepare(folder: Path, sites: Sequence[str], host: str, port: int) -> None:
    """Write the folder of a federation.

    Args:
        folder: gets `server/` and `sites/SITE/`; must not be there yet.
        sites: the hospitals.
        host: of the server, as the hospitals reach it: a name or an IPv4 address.
        port: of the server; for itself, on one machine, it takes those that follow.

    Raises:
        ConfigError: the folder is there or cannot be written, or a name cannot be used.
    """
    for site in sites:
        if not re.fullmatch(NAME, site):
            raise ConfigError(
                f"deploy --sites: {site!r}: take up to 50 letters, digits, _ and - for a name"
            )
    if len(set(sites)) < len(sites) or not sites:
        raise ConfigError("deploy --sites: every hospital once, and one at least")
    if not re.fullmatch(r"[A-Za-z0-9.-]{1,253}", host):
        raise ConfigError(f"deploy --host: {host!r} is neither a name nor an IPv4 address")
    highest = 65534 - len(sites)  # those that follow are taken as well
    if not 1024 <= port <= highest:
        raise ConfigError(f"deploy --port: must be from 1024 to {highest}, got {port}")
    if folder.exists():
        raise ConfigError(f"deploy: {folder} is there already; give another folder")
    templates = Environment(
        loader=FileSystemLoader(TEMPLATES), undefined=StrictUndefined, keep_trailing_newline=True
    )

    inner = port if host in HERE else port + 1
    common = {"host": host, "port": port, "inner": inner, "programs": Path(sys.executable).parent}

    def write(path: Path, template: str, mode: int = 0o644, **values: object) -> None:
        _write(path, templates.get_template(template).render(common | values).encode(), mode)

    folder = folder.resolve()
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise ConfigError(f"deploy: {folder} cannot be made ({error.strerror})") from None
    certificate, signed, key = _certificates(host)
    server = folder / "server"
    _write(server / "ca.crt", certificate)
    _write(server / "server.pem", signed)
    _write(server / "server.key", key, 0o600)
    write(server / "start.sh", "superlink.sh", 0o755)
    write(
        server / "flwr" / "config.toml", "config.toml", name="federation",
        certificate=server / "ca.crt",
    )  # fmt: skip
    write(server / "fedcl-server.service", "unit.service", name="fedcl-server",
          what="the server", folder="server", script="start.sh")  # fmt: skip
    write(server / "compose.yaml", "compose.yaml", gate=host not in HERE)
    if host not in HERE:
        write(server / "nginx.conf", "nginx.conf")
        write(server / "gate.sh", "gate.sh", 0o755)
        write(server / "fedcl-gate.service", "unit.service", name="fedcl-gate",
              what="the server's gate", folder="server", script="gate.sh")  # fmt: skip
    for number, site in enumerate(sites, start=1):
        private, public = _node_key()
        own = folder / "sites" / site
        _write(own / "key", private, 0o600)
        _write(own / "key.pub", public)
        _write(server / "hospitals" / f"{site}.pub", public)
        _write(own / "ca.crt", certificate)
        write(own / "start.sh", "supernode.sh", 0o755, site=site, own_port=inner + number)
        write(own / "fedcl-site.service", "unit.service", name="fedcl-site",
              what=f"hospital {site}", folder=site, script="start.sh")  # fmt: skip
        write(own / "compose.yaml", "compose.yaml", gate=False)
    for inside in (folder, *folder.rglob("*")):
        if inside.is_dir():
            inside.chmod(0o700)


def _write(path: Path, content: bytes, mode: int = 0o644) -> None:
    """Write a file that nobody may read, from its first byte, for whom it is not meant."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(handle, "wb") as file:
        file.write(content)
    path.chmod(mode)


def _certificates(host: str) -> tuple[bytes, bytes, bytes]:
    """Return, as PEM, the authority's certificate, the server's, and the server's key.

    The authority's own key is forgotten: nothing else is ever signed with it.
    """
    authority, server = (ec.generate_private_key(ec.SECP384R1()) for _ in range(2))
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "fedcl federation")])
    now = datetime.datetime.now(datetime.UTC) - datetime.timedelta(minutes=5)
    names: list[x509.GeneralName] = [
        x509.DNSName("localhost"),
        x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
    ]
    try:
        names.append(x509.IPAddress(ipaddress.ip_address(host)))
    except ValueError:
        names.append(x509.DNSName(host))

    def begin(subject: x509.Name, public: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now)
            .not_valid_after(now + VALID)
        )

    def usage(*, signs: bool) -> x509.KeyUsage:
        return x509.KeyUsage(
            digital_signature=not signs, key_cert_sign=signs, crl_sign=signs,
            content_commitment=False, key_encipherment=False, data_encipherment=False,
            key_agreement=False, encipher_only=False, decipher_only=False,
        )  # fmt: skip

    issued = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.public_key())
    root = begin(issuer, authority.public_key())
    root = root.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    root = root.add_extension(usage(signs=True), critical=True)
    root = root.add_extension(
        x509.SubjectKeyIdentifier.from_public_key(authority.public_key()), critical=False
    )
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host[:64])])
    signed = begin(subject, server.public_key())
    signed = signed.add_extension(
        x509.SubjectAlternativeName(list(dict.fromkeys(names))), critical=False
    )
    signed = signed.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    signed = signed.add_extension(usage(signs=False), critical=True)
    signed = signed.add_extension(issued, critical=False)
    certificates = [one.sign(authority, hashes.SHA384()) for one in (root, signed)]
    first, second = (one.public_bytes(serialization.Encoding.PEM) for one in certificates)
    key = server.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return first, second, key


def _node_key() -> tuple[bytes, bytes]:
    """Return a hospital's private and public key, as OpenSSH writes them."""
    key = ec.generate_private_key(ec.SECP384R1())
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.OpenSSH,
        serialization.NoEncryption(),
    )
    public = key.public_key().public_bytes(
        serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    )
    return private, public + b"\n"
