"""What a site was sent once and keeps, by digest: a stage's teacher, what the server remembers."""

import hashlib
import os
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from flwr.app import ArrayRecord

from fedcl import arrays
from fedcl.errors import RunError

KEPT = 8
"""Files on a shelf; the one that was not asked for the longest time goes first."""


def digest(record: ArrayRecord) -> str:
    """Return the SHA-256 of names, types, shapes and values of a record's arrays."""
    sha = hashlib.sha256()
    for key in sorted(record):
        sha.update(f"{len(key)}:{key}".encode())
        sha.update(record[key].data)
    return sha.hexdigest()


@dataclass(frozen=True)
class Shelf:
    """A folder of safetensors files named by digest; sites of one machine may share it.

    Attributes:
        folder: where; None for a site that keeps nothing.
    """

    folder: Path | None

    def put(self, mark: str, record: ArrayRecord) -> None:
        """Keep a record under its digest."""
        path = self._path(mark)
        if path is None or path.exists():
            return
        # Of a name of its own: several processes may keep the same at the same time.
        part = path.with_suffix(f".{os.getpid()}")
        arrays.save_file(part, arrays.from_record(record))
        part.replace(path)
        every = sorted(path.parent.glob("*.safetensors"), key=_age, reverse=True)
        for old in every[KEPT:]:
            old.unlink(missing_ok=True)

    def get(self, mark: str) -> ArrayRecord | None:
        """Return what is kept under a digest; None where it is not there, or damaged."""
        path = self._path(mark)
        if path is None or not path.exists():
            return None
        try:
            found = _read(path, mark)
        except RunError:  # it will be sent again
            path.unlink(missing_ok=True)
            return None
        path.touch()
        return found

    def has(self, mark: str) -> bool:
        """Return whether something is kept under a digest."""
        path = self._path(mark)
        return path is not None and path.exists()

    def _path(self, mark: str) -> Path | None:
        """Return the file of a digest, which came from the network and is to name one."""
        if not re.fullmatch(r"[0-9a-f]{64}", mark):
            raise RunError(f"{mark[:80]!r} is no digest")
        return self.folder / f"{mark}.safetensors" if self.folder else None


def _age(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:  # another process was faster
        return 0.0


@lru_cache(maxsize=4)
def _read(path: Path, mark: str) -> ArrayRecord:
    """Return the record in a file; raises `RunError` where it is not that of the digest."""
    found = arrays.to_record(arrays.load_file(path))
    if digest(found) != mark:
        raise RunError(f"{path}: not what was written")
    return found
