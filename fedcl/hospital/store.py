"""What a site keeps on its disk: what it was sent once, and the state of its own."""

import os
import re
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from flwr.app import ArrayRecord

from fedcl import arrays
from fedcl.arrays import Arrays, load_file, save_file
from fedcl.errors import RunError
from fedcl.hospital.cache import Cache
from fedcl.wire import records
from fedcl.wire.records import digest

FILES = 8
"""Files in such a folder; the one that was not asked for the longest time goes first."""


@dataclass(frozen=True)
class Received:
    """A folder of safetensors files named by digest; sites of one machine may share it.

    Attributes:
        folder: where; None for a site that keeps nothing.
        cache: has the last ones that were read.
    """

    folder: Path | None
    cache: Cache

    def put(self, mark: str, record: ArrayRecord) -> None:
        """Keep a record under its digest."""
        path = self._path(mark)
        if path is None or path.exists():
            return
        arrays.save_file(path, records.from_record(record), shared=True)
        # With what a process left that was killed while it wrote.
        every = sorted(path.parent.glob("*.safetensors*"), key=_age, reverse=True)
        for old in every[FILES:]:
            old.unlink(missing_ok=True)

    def get(self, mark: str) -> ArrayRecord | None:
        """Return what is kept under a digest; None where it is not there, or damaged."""
        path = self._path(mark)
        if path is None or not path.exists():
            return None
        try:
            found = self.cache.get("received", (path, mark), lambda: _read(path, mark), most=4)
        except RunError:  # it will be sent again
            path.unlink(missing_ok=True)
            return None
        with suppress(FileNotFoundError):  # another process has dropped it since
            os.utime(path)
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


def _read(path: Path, mark: str) -> ArrayRecord:
    """Return the record in a file; raises `RunError` where it is not that of the digest."""
    found = records.to_record(arrays.load_file(path))
    if digest(found) != mark:
        raise RunError(f"{path}: not what was written")
    return found


class SiteState:
    """Arrays a method keeps at the hospital: one version per round, never sent.

    The server says which version a call starts from, so a repeated or resumed round
    starts from the same arrays; that version and a few before it are kept, and those at the ends
    of stages, which a run that goes back to one begins with.
    """

    OLDER = 2

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def load(self, version: int) -> Arrays:
        """Return the arrays of `version`; none for version 0, before the first round."""
        return load_file(self.file(version)) if version else {}

    def save(
        self,
        version: int,
        arrays: Mapping[str, np.ndarray],
        base: int,
        needed: Collection[int] = (),
    ) -> None:
        """Write `version`, reached from version `base`; drop those well before `base`.

        Versions after `base` may be of rounds the server never heard of: it will go on
        asking for `base` until it has. None that is `needed` is dropped.
        """
        save_file(self.file(version), arrays)
        old = [p for p in sorted(self.folder.glob("round-*.safetensors")) if p < self.file(base)]
        for path in {*old[: -self.OLDER]} - {*map(self.file, needed)}:
            path.unlink(missing_ok=True)

    def once(self, name: str, make: Callable[[], Arrays]) -> Arrays:
        """Return arrays that are made when first asked for, and the same ever after."""
        file = self.folder / f"{name}.safetensors"
        if not file.exists():
            save_file(file, make())
        return load_file(file)

    def file(self, version: int) -> Path:
        """Return where a version lies."""
        return self.folder / f"round-{version:06d}.safetensors"
