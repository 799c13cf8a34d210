"""The files of a federation: written from the templates, readable by whom they are meant for."""

import dataclasses
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from fedcl.errors import ConfigError

TEMPLATES = Path(__file__).parents[1] / "deploy"
HERE = ("127.0.0.1", "localhost")
"""Hosts that only this machine reaches; others get a gate before the SuperLink."""


@dataclass(frozen=True)
class Settings:
    """What a federation was prepared with; kept with the server.

    Attributes:
        host: of the server, as hospitals reach it.
        port: the one that hospitals reach.
        ports: of each hospital ever, for itself on its own machine.
    """

    host: str
    port: int
    ports: dict[str, int]

    @property
    def gated(self) -> bool:
        """Return whether there is a gate before the SuperLink."""
        return self.host not in HERE

    @property
    def inner(self) -> int:
        """Return the SuperLink's own port."""
        return self.port + self.gated

    def joined_by(self, sites: list[str]) -> "Settings":
        """Return the settings with ports for more hospitals.

        Raises:
            ConfigError: there are no more ports.
        """
        ports = dict(self.ports)
        for site in sites:
            ports.setdefault(site, max([self.inner, *ports.values()]) + 1)
        if max(ports.values()) > 65535:
            raise ConfigError(f"deploy: no port is left for {sites[-1]}")
        return dataclasses.replace(self, ports=ports)

    def keep(self, server: Path) -> None:
        """Write them into the server's folder."""
        replace(server / "federation.json", json.dumps(vars(self), indent=1).encode())


def settings(server: Path) -> Settings:
    """Read what a federation was prepared with.

    Raises:
        ConfigError: the folder is not the server's of a federation.
    """
    path = server / "federation.json"
    try:
        return Settings(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        raise ConfigError(f"deploy: {path} cannot be read; give a folder made by it") from None


class Writer:
    """Fills in the templates."""

    def __init__(self, about: Settings) -> None:
        self._templates = Environment(
            loader=FileSystemLoader(TEMPLATES),
            undefined=StrictUndefined,
            keep_trailing_newline=True,
        )
        self._values = {
            "host": about.host, "port": about.port, "inner": about.inner,
            "gate": about.gated, "programs": Path(sys.executable).parent,
        }  # fmt: skip

    def __call__(self, path: Path, template: str, mode: int = 0o644, **values: object) -> None:
        """Write a file."""
        text = self._templates.get_template(template).render(self._values | values)
        create(path, text.encode(), mode)


def create(path: Path, content: bytes, mode: int = 0o644) -> None:
    """Write a new file that nobody may read, from its first byte, for whom it is not meant."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(handle, "wb") as file:
        file.write(content)
    path.chmod(mode)
    if os.geteuid() == 0:  # who runs the server must be able to read what root changes in it
        owner = path.parent.stat()
        os.chown(path, owner.st_uid, owner.st_gid)


def replace(path: Path, content: bytes, mode: int = 0o644) -> None:
    """Write a file whole or not at all, over the one that is there."""
    new = path.with_name(f".{path.name}.new")
    new.unlink(missing_ok=True)
    create(new, content, mode)
    new.rename(path)
