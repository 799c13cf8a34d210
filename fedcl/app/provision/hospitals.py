"""Who belongs to a federation: what lies in `server/hospitals`, a public key per hospital.

The SuperLink and the gate before it are told from there; see `agree`.
"""

import base64
import hashlib
import re
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from fedcl.app.provision.files import replace, settings
from fedcl.errors import ConfigError

if TYPE_CHECKING:
    from fedcl.wire.control import Control

NAME = r"[A-Za-z0-9][A-Za-z0-9_-]{0,49}"
"""What a hospital may be called here: its name stands in scripts."""


def checked_names(sites: list[str], option: str) -> list[str]:
    """Return names of hospitals that can be used.

    Raises:
        ConfigError: one cannot, or there is none, or one is there twice.
    """
    for site in sites:
        if not re.fullmatch(NAME, site):
            raise ConfigError(
                f"deploy {option}: {site!r}: take up to 50 letters, digits, _ and - for a name"
            )
    if len(set(sites)) < len(sites) or not sites:
        raise ConfigError(f"deploy {option}: every hospital once, and one at least")
    return sites


def new_key() -> tuple[bytes, bytes]:
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


def public_key(path: Path) -> bytes:
    """Return a public key as Flower sends it: PEM.

    Raises:
        ConfigError: the file holds none that Flower takes.
    """
    try:
        key = serialization.load_ssh_public_key(path.read_bytes())
    except (OSError, ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise ConfigError(f"{path}: no public key of ssh-keygen -t ecdsa")
    return key.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def belonging(server: Path) -> dict[str, bytes]:
    """Return the hospitals that belong to the federation, and the public key of each."""
    return {path.stem: public_key(path) for path in sorted((server / "hospitals").glob("*.pub"))}


def retire(server: Path, site: str) -> None:
    """Take a hospital's key out of the federation for good: Flower registers none twice."""
    path = server / "hospitals" / f"{site}.pub"
    (server / "revoked").mkdir(mode=0o700, exist_ok=True)
    digest = hashlib.sha256(public_key(path)).hexdigest()
    path.rename(server / "revoked" / f"{site}-{digest[:16]}.pub")


def retired(server: Path) -> list[bytes]:
    """Return the public keys that were revoked."""
    return [public_key(path) for path in (server / "revoked").glob("*.pub")]


def tell_gate(server: Path) -> None:
    """Write the list by which the gate knows hospitals; it sees for itself that it is new."""
    lines = [
        f'"{base64.b64encode(key).decode()}" {site};\n' for site, key in belonging(server).items()
    ]
    replace(server / "hospitals.map", "".join(lines).encode(), 0o600)


def agree(server: Path, patience: float = 0.0) -> list[str]:
    """Let the SuperLink know the hospitals that belong to the federation, and no other.

    Nothing else is touched: whoever is connected and stays notices nothing.

    Args:
        server: the server's folder.
        patience: seconds to wait for the SuperLink.

    Returns:
        What was changed, in words.

    Raises:
        RunError: the SuperLink does not answer.
    """
    wanted, changed = belonging(server), []
    with superlink(server, patience) as link:
        known = {node.public_key: node for node in link.nodes()}
        for key, node in known.items():
            if wanted.get(node.name) != key:
                link.unregister(node)
                changed.append(f"{node.name or node.node_id}: not let in any more")
        for site, key in wanted.items():
            if key not in known or known[key].name != site:
                link.register(key, site)
                changed.append(f"{site}: let in")
    return changed


def superlink(server: Path, patience: float = 0.0) -> AbstractContextManager["Control"]:
    """Open a link to a server's own SuperLink; see `fedcl.wire.control.controlled`."""
    from fedcl.wire.control import controlled  # Flower takes seconds, and mistakes are told before

    return controlled(f"127.0.0.1:{settings(server).inner}", server / "ca.crt", patience)
