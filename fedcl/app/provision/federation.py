"""A federation is prepared, and lives on: hospitals join and leave, keys and certificates change.

Every change is made in the folder first; then those that run are told. What cannot be told now, for
they do not run, they read when they start.
"""

import datetime
import re
from collections.abc import Sequence
from pathlib import Path

from cryptography.hazmat.primitives import serialization

from fedcl.app.provision.authority import LIFE, VALID, Authority, ends
from fedcl.app.provision.files import Settings, Writer, create, replace, settings
from fedcl.app.provision.hospitals import (
    agree,
    belonging,
    checked_names,
    new_key,
    public_key,
    retire,
    retired,
    tell_gate,
)
from fedcl.errors import ConfigError, RunError


def prepare(folder: Path, sites: Sequence[str], host: str, port: int, passphrase: str) -> None:
    """Write the folder of a federation.

    Args:
        folder: gets `server/`, `sites/SITE/` and the authority's key; must not be there yet.
        sites: the hospitals.
        host: of the server, as the hospitals reach it: a name or an IPv4 address.
        port: of the server; for itself, on one machine, it takes those that follow.
        passphrase: opens the authority's key.

    Raises:
        ConfigError: the folder is there or cannot be written, or a name cannot be used.
    """
    names = checked_names(list(sites), "--sites")
    if not re.fullmatch(r"[A-Za-z0-9.-]{1,253}", host):
        raise ConfigError(f"deploy --host: {host!r} is neither a name nor an IPv4 address")
    highest = 65534 - len(names)  # those that follow are taken as well
    if not 1024 <= port <= highest:
        raise ConfigError(f"deploy --port: must be from 1024 to {highest}, got {port}")
    if folder.exists():
        raise ConfigError(f"deploy: {folder} is there already; give another folder")
    folder = folder.resolve()
    try:
        folder.mkdir(mode=0o700, parents=True)
    except OSError as error:
        raise ConfigError(f"deploy: {folder} cannot be made ({error.strerror})") from None
    about = Settings(host, port, {}).joined_by(names)
    (folder / "sites").mkdir(mode=0o700)
    authority = Authority.new()
    create(folder / "authority.key", authority.encrypted(passphrase), 0o600)
    _write_server(folder / "server", about, authority)
    for site in names:
        _write_site(folder, site, about, None)
    tell_gate(folder / "server")


def add(folder: Path, sites: Sequence[str], given: Path | None) -> list[str]:
    """Let more hospitals in; return what was done, in words.

    Args:
        folder: of the federation.
        sites: the new ones.
        given: the public key of a hospital that has made its key itself; None: keys are made.

    Raises:
        ConfigError: a name cannot be used or is taken, or the key cannot be read.
    """
    server, names = folder / "server", checked_names(list(sites), "--add")
    _one_key(server, names, given, "--add")
    about = settings(server).joined_by(names)
    for site in names:
        if (server / "hospitals" / f"{site}.pub").exists():
            raise ConfigError(f"deploy --add: {site} belongs to it already")
        if (folder / "sites" / site).exists():
            raise ConfigError(
                f"deploy --add: {folder / 'sites' / site} is there already; move it away"
            )
    about.keep(server)
    for site in names:
        _write_site(folder, site, about, given)
    return [f"{site}: give it its folder, {folder / 'sites' / site}" for site in names] + _tell(
        server
    )


def revoke(folder: Path, sites: Sequence[str]) -> list[str]:
    """Let hospitals in no more; return what was done, in words.

    What is under way from them is refused from this moment on; a key that was revoked can never be
    registered again.

    Raises:
        ConfigError: one does not belong to the federation.
    """
    server, names = folder / "server", checked_names(list(sites), "--revoke")
    for site in names:
        _belongs(server, site, "--revoke")
    for site in names:
        retire(server, site)
    return _tell(server)


def rotate(folder: Path, sites: Sequence[str], given: Path | None) -> list[str]:
    """Give hospitals new keys, and let their old ones in no more; return what was done.

    Args:
        folder: of the federation.
        sites: the hospitals; the others go on undisturbed.
        given: the public key of a hospital that has made its key itself; None: keys are made.

    Raises:
        ConfigError: one does not belong to the federation, or the key cannot be read.
    """
    server, names = folder / "server", checked_names(list(sites), "--rotate")
    _one_key(server, names, given, "--rotate")
    for site in names:
        _belongs(server, site, "--rotate")
    said = []
    for site in names:
        retire(server, site)
        _write_key(folder, site, given)
        if given is None:
            said.append(f"{site}: give it its new key, {folder / 'sites' / site / 'key'}")
    return said + _tell(server)


def renew(folder: Path, passphrase: str) -> list[str]:
    """Sign a new certificate for the server; return what was done, in words.

    Hospitals notice nothing: they trust the authority.

    Raises:
        ConfigError: there is no gate and so no such certificate, or the authority's key cannot be
            read.
    """
    server = folder / "server"
    about = settings(server)
    last = ends(server / "ca.crt")
    if not about.gated:
        raise ConfigError(
            f"deploy --renew: without a gate the certificate lasts as long as the authority, until "
            f"{last:%Y-%m-%d}"
        )
    authority = Authority.read(server / "ca.crt", folder / "authority.key", passphrase)
    replace(server / "server.pem", b"".join(authority.sign(about.host, VALID)), 0o600)
    said = [f"the server's certificate lasts until {expires(folder):%Y-%m-%d}; the gate takes it"]
    if last < datetime.datetime.now(datetime.UTC) + VALID:
        said.append(
            f"the authority ends on {last:%Y-%m-%d}: prepare a new federation before and give "
            "every hospital its folder"
        )
    return said


def expires(folder: Path) -> datetime.datetime:
    """Return when the first of the certificates ends that hospitals need.

    Args:
        folder: of the federation, or its server's.

    Raises:
        ConfigError: it is neither.
    """
    server = folder / "server" if (folder / "server").is_dir() else folder
    shown = "server.pem" if settings(server).gated else "superlink.pem"
    return min(ends(server / name) for name in ("ca.crt", shown))


def _write_server(server: Path, about: Settings, authority: Authority) -> None:
    write = Writer(about)
    create(server / "ca.crt", authority.certificate.public_bytes(serialization.Encoding.PEM))
    certificate, key = authority.sign("localhost", LIFE)
    create(server / "superlink.pem", certificate)
    create(server / "superlink.key", key, 0o600)
    write(server / "start.sh", "superlink.sh", 0o755)
    write(
        server / "flwr" / "config.toml", "config.toml", name="federation",
        certificate=server / "ca.crt",
    )  # fmt: skip
    write(server / "fedcl-server.service", "unit.service", name="fedcl-server",
          what="the server", folder="server", script="start.sh")  # fmt: skip
    write(server / "compose.yaml", "compose.yaml", health=f"https://127.0.0.1:{about.inner}/health")
    if about.gated:
        create(server / "server.pem", b"".join(authority.sign(about.host, VALID)), 0o600)
        write(server / "nginx.conf", "nginx.conf")
        write(server / "gate.sh", "gate.sh", 0o755)
        write(server / "fedcl-gate.service", "unit.service", name="fedcl-gate",
              what="the server's gate", folder="server", script="gate.sh")  # fmt: skip
    (server / "hospitals").mkdir(mode=0o700)
    about.keep(server)


def _write_site(folder: Path, site: str, about: Settings, given: Path | None) -> None:
    write, own, port = Writer(about), folder / "sites" / site, about.ports[site]
    _write_key(folder, site, given)
    create(own / "ca.crt", (folder / "server" / "ca.crt").read_bytes())
    write(own / "start.sh", "supernode.sh", 0o755, site=site, own_port=port)
    write(own / "fedcl-site.service", "unit.service", name="fedcl-site",
          what=f"hospital {site}", folder=site, script="start.sh")  # fmt: skip
    write(own / "compose.yaml", "compose.yaml", gate=False, health=None)


def _write_key(folder: Path, site: str, given: Path | None) -> None:
    """Write a hospital's new key, or only what it has given: its public one."""
    own = folder / "sites" / site
    own.mkdir(mode=0o700, parents=True, exist_ok=True)
    if given is None:
        private, public = new_key()
        replace(own / "key", private, 0o600)
    else:
        public = given.read_bytes()
    replace(own / "key.pub", public)
    replace(folder / "server" / "hospitals" / f"{site}.pub", public)


def _one_key(server: Path, sites: list[str], given: Path | None, option: str) -> None:
    """Raise `ConfigError` where a given key cannot be that of the hospitals asked for."""
    if given is not None:
        if len(sites) > 1:
            raise ConfigError(f"deploy {option}: --public-key is of one hospital")
        if public_key(given) in (*belonging(server).values(), *retired(server)):
            raise ConfigError(
                f"deploy {option}: {given}: a hospital has this key, or had it; make another one"
            )


def _belongs(server: Path, site: str, option: str) -> None:
    settings(server)
    if not (server / "hospitals" / f"{site}.pub").exists():
        raise ConfigError(f"deploy {option}: {site} does not belong to it")


def _tell(server: Path) -> list[str]:
    """Tell those that run who belongs to the federation now; return what was done, in words."""
    tell_gate(server)
    try:
        return agree(server)
    except RunError as error:
        return [f"{error}; it is told when it starts"]
