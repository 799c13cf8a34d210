"""The code that a hospital has installed, beside the code that a run brings along.

What comes with a run is looked at and never executed. A hospital answers with its own code, and
refuses a run whose code is another: its answers would not be what the server takes them for.
"""

import hashlib
import lzma
import zipfile
import zlib
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path, PurePosixPath

import fedcl
from fedcl.errors import RunError, one_line

Digests = dict[str, str]
"""SHA-256 of files, by their paths in a checkout."""

PLACE = Path(fedcl.__file__).parents[1]
PACKAGES = ("fedcl", "sites", "strategies")
LARGEST = 100 * 2**20
"""Bytes of a bundle, unpacked."""
UNREADABLE = (
    zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError, ValueError,
    NotImplementedError, RuntimeError,
)  # fmt: skip
"""What reading a damaged zip file can raise."""


def installed(place: Path = PLACE) -> Digests:
    """Return the digests of what is installed.

    Args:
        place: the folder that holds the packages.
    """
    conf = place / "fedcl" / "conf"  # in a checkout it lies beside the packages
    conf = conf if conf.is_dir() else place / "conf"
    code = [path for top in PACKAGES for path in (place / top).rglob("*.py")]
    files = {path.relative_to(place).as_posix(): path for path in code}
    files |= {f"conf/{path.relative_to(conf).as_posix()}": path for path in conf.rglob("*.yaml")}
    return {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()}


def bundled(content: bytes) -> Digests:
    """Return the digests of what a run brings along.

    Args:
        content: the app, a zip file.

    Raises:
        RunError: it is none that can be read.
    """
    try:
        with zipfile.ZipFile(BytesIO(content)) as bundle:
            if sum(one.file_size for one in bundle.infolist()) > LARGEST:
                raise RunError(f"the run's code has more than {LARGEST} bytes")
            return {
                name: hashlib.sha256(bundle.read(name)).hexdigest()
                for name in bundle.namelist()
                if _counts(PurePosixPath(name))
            }
    except UNREADABLE as error:
        raise RunError(f"the run's code cannot be read ({one_line(str(error))})") from None


def _counts(path: PurePosixPath) -> bool:
    """Return whether a file is code or configuration."""
    top = path.parts[0] if path.parts else ""
    return (top in PACKAGES and path.suffix == ".py") or (top == "conf" and path.suffix == ".yaml")


def different(brought: Mapping[str, str], here: Mapping[str, str]) -> list[str]:
    """Return the files that are not the same on both sides."""
    names = {*brought, *here}
    return sorted(name for name in names if brought.get(name) != here.get(name))


def short(digests: Mapping[str, str]) -> str:
    """Return a name for a whole version, by which two can be told apart."""
    lines = "".join(f"{name} {digests[name]}\n" for name in sorted(digests))
    return hashlib.sha256(lines.encode()).hexdigest()[:12]
