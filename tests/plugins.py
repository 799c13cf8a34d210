"""Plug-ins of other distributions, installed into folders of a test."""

import shutil
from pathlib import Path

OWN = """
from __future__ import annotations

from dataclasses import dataclass, field

from fedcl.learning.strategy import Strategy
from fedcl.settings import setting


@dataclass
class Part:
    chunk: int = setting(1, effect=False)
    width: int = setting(1)


@dataclass
class Own(Strategy):
    chunk: int = setting(1, effect=False)
    part: Part = field(default_factory=Part)
    prior: str | None = setting(None, travels=False)
"""
"""A strategy some of whose settings, and of those within them, change nothing."""


def install(folder: Path, key: str, name: str, code: str) -> Path:
    """Install a distribution whose module defines a plug-in `Own`; return its metadata."""
    (folder / f"{name}_module.py").write_text(code)
    metadata = folder / f"{name}-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[fedcl.{key}]\n{name} = {name}_module:Own\n")
    return metadata


def uninstall(metadata: Path) -> None:
    """Remove a distribution's metadata."""
    shutil.rmtree(metadata)
