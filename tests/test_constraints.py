"""What is installed: pinned versions, and at hospitals only files whose hash is written down."""

import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.conftest import ROOT

BUILDS = {"torch"}
"""Packages whose build differs by machine."""


def pinned(name: str) -> dict[str, str]:
    """Return the versions that a file of constraints pins, by package."""
    found = re.findall(r"^([\w.-]+)==(\S+)", (ROOT / name).read_text(), re.MULTILINE)
    return {canonicalize_name(package): version for package, version in found}


def needed(package: str, known: set[str]) -> Iterator[str]:
    """Yield what a package cannot do without here, and what that cannot."""
    for line in requires(package) or []:
        one = Requirement(line)
        name = canonicalize_name(one.name)
        if name in known or not (one.marker is None or one.marker.evaluate({"extra": ""})):
            continue
        known.add(name)
        yield name
        yield from needed(name, known)


def test_a_hospital_installs_what_is_tested_here_and_all_of_it():
    hospital, tested = pinned("constraints-hospital.txt"), pinned("constraints.txt")
    differs = {name for name in hospital if hospital[name] != tested.get(name, hospital[name])}
    assert not differs, "run make hashes"
    assert {*needed("fedcl", set())} - BUILDS <= hospital.keys(), "run make hashes"
    assert not BUILDS & hospital.keys()


def test_every_package_of_a_hospital_has_hashes_and_nothing_else_is_said():
    name = r"[A-Za-z0-9_.-]+==\S+(?: ; [^\\]+)?"
    digest = r" \\\n    --hash=sha256:[0-9a-f]{64}"
    text = (ROOT / "constraints-hospital.txt").read_text()
    assert re.fullmatch(rf"(?:{name}(?:{digest})+\n)+", text)


@pytest.mark.exhaustive  # downloads a gigabyte
def test_a_hospital_can_install_by_hashes_alone(tmp_path: Path):
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    pip = [tmp_path / "venv" / "bin" / "python", "-m", "pip"]
    hashed = ["--require-hashes", "--no-deps", "-r", "constraints-hospital.txt"]
    own = ["--no-deps", "--no-build-isolation", "."]
    for what in (hashed, ["-c", "constraints.txt", "torch==2.13.0"], own):
        subprocess.run([*pip, "install", "-q", *what], cwd=ROOT, check=True)
    subprocess.run([*pip, "check"], check=True)
    fedcl = tmp_path / "venv" / "bin" / "fedcl"
    done = subprocess.run([fedcl, "inspect"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
