"""Prepared images kept on disk, by what they were made of and how.

A file's name is the SHA-256 of names and contents of all source files and of every setting that has
a say, so that runs at the same time may share a folder, and a changed file or setting makes another
name. Files are written under another name first: there are no half-written ones. One that is gone
or cannot be read is made again, if its sources are still the same.
"""

import contextlib
import hashlib
import json
import logging
import os
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from fedcl.data.files import data_beside
from fedcl.data.notes import Note
from fedcl.data.scans import WHOLE, Box, Content, Counts, Scan
from fedcl.errors import DataError
from fedcl.files import write_atomically

VERSION = 2
"""Of how images are prepared: another number, and none that was kept is used."""
ARRAYS = ("image", "labels", "own", "places")
FRESH = 2.0
"""Seconds after a change in which a second one might not show in a file's time."""
ABANDONED = 86400.0
"""Seconds after which nobody goes on writing a file."""
SUFFIX = ".safetensors"

log = logging.getLogger("fedcl")


def folder() -> Path:
    """Return where prepared images lie: FEDCL_CACHE, or `fedcl` in the user's cache folder."""
    given = os.environ.get("FEDCL_CACHE")
    if given:
        return Path(given).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "fedcl"


@dataclass(frozen=True)
class OnDisk:
    """The arrays of a scan in a file; see `Content`.

    Attributes:
        file: that has them, by names that begin with `prefix`.
        prefix: see `file`.
        again: makes the arrays again where it is gone or damaged.
    """

    file: Path
    prefix: str
    again: "Callable[[], Made]" = field(compare=False, repr=False)

    def image(self, box: Box = WHOLE) -> Tensor:
        """See `Content.image`."""
        return self._part("image", (slice(None), *box), lambda content: content.image(box))

    def labels(self, box: Box = WHOLE) -> Tensor:
        """See `Content.labels`."""
        return self._part("labels", box, lambda content: content.labels(box))

    def truth(self) -> Tensor:
        """See `Content.truth`."""
        return self._part("own", WHOLE, lambda content: content.truth())

    def places(self) -> Tensor:
        """See `Content.places`."""
        every = (slice(None), slice(None))
        return self._part("places", every, lambda content: content.places())

    def _part(self, name: str, box: tuple[slice, ...], made: Callable[[Content], Tensor]) -> Tensor:
        """Return a part of an array in the file; what is `made` anew where that is gone."""
        try:
            return self._read(name, box)
        except (OSError, SafetensorError) as error:
            _say_lost(self.file.parent, type(error).__name__)
            scans, _ = self.again()
        return made(scans[int(self.prefix[:-1])].content)

    def _read(self, name: str, box: tuple[slice, ...]) -> Tensor:
        with safe_open(self.file, framework="pt") as stored:
            found: Tensor = stored.get_slice(f"{self.prefix}{name}")[box]
        return found


@cache
def _say_lost(folder: Path, reason: str) -> None:
    """Say once of a folder that files in it cannot be read any more: each part is made anew."""
    log.warning("FEDCL_CACHE: what is lost in %s is prepared anew each time (%s)", folder, reason)


Made = tuple[list[Scan], list[Note]]
"""What was made of some files: the scans, in memory, and what was noted."""


@dataclass(frozen=True)
class Kept:
    """A folder of prepared images.

    Attributes:
        place: the folder.
        most: bytes that it may hold; the least recently used go first.
    """

    place: Path
    most: float

    def scans(self, files: Sequence[Path], settings: Any, make: Callable[[], Made]) -> Made:
        """Return what `make` makes of `files`, or made before.

        Args:
            files: the sources.
            settings: all else that it depends on, as JSON can have it.
            make: makes it anew.

        Raises:
            DataError: the folder cannot be written to.
        """
        file = self._file(files, settings)

        def anew(whatever_room: bool) -> Made:
            made = make()
            if self._file(files, settings) != file:
                raise DataError(f"{files[0]}: it, or a file with it, has changed during the run")
            if whatever_room or self._held() < self.most:
                self._write(file, made)
            return made

        again = partial(anew, False)
        found = self._found(file, again)
        if found is None:
            made = anew(True)  # what was used least recently goes, see `trim`
            found = self._found(file, again) or made
        return found

    def _file(self, sources: Sequence[Path], settings: Any) -> Path:
        """Return the file of what is made of some sources as they are now."""
        told = [[f"{file.parent.name}/{file.name}", self._digest(file)] for file in sources]
        named = json.dumps([VERSION, told, settings])
        return self.place / f"{hashlib.sha256(named.encode()).hexdigest()}{SUFFIX}"

    def _held(self) -> int:
        """Return how many bytes of prepared images the folder holds."""
        held = 0
        for path in self.place.glob(f"*{SUFFIX}"):
            with contextlib.suppress(OSError):  # another run has removed it
                held += path.stat().st_size
        return held

    def trim(self, used: Sequence[Scan]) -> int:
        """Remove what was used least recently where the folder holds too much.

        And what a process that was killed has left half-written.

        Returns:
            How many of the scans `used` are in files that had to go.
        """
        there = []
        for part in self.place.rglob("*.part"):
            with contextlib.suppress(OSError):  # another run has removed it
                if time.time() - part.stat().st_mtime > ABANDONED:
                    part.unlink()
        for path in self.place.glob(f"*{SUFFIX}"):
            try:
                known = path.stat()
            except OSError:  # another run has removed it
                continue
            there.append((known.st_mtime, known.st_size, path))
        left = sum(size for _, size, _ in there)
        gone = set()
        for _, size, path in sorted(there):
            if left <= self.most:
                break
            path.unlink(missing_ok=True)
            gone.add(path)
            left -= size
        return sum(isinstance(s.content, OnDisk) and s.content.file in gone for s in used)

    def _found(self, file: Path, again: Callable[[], Made]) -> Made | None:
        """Return what a file tells of its scans; None where there is none, or a damaged one."""
        try:
            with safe_open(file, framework="pt") as stored:
                told = json.loads(stored.metadata()["told"])
            with contextlib.suppress(OSError):  # on a disk that is read alone
                os.utime(file)
        except (OSError, SafetensorError, ValueError, LookupError, TypeError):
            return None
        scans = [
            _scan(one, OnDisk(file, f"{number}/", again))
            for number, one in enumerate(told["scans"])
        ]
        return scans, [Note(what, tuple(items)) for what, items in told["notes"]]

    def _write(self, file: Path, made: Made) -> None:
        scans, notes = made
        arrays: dict[str, Tensor] = {}
        for number, scan in enumerate(scans):
            content = scan.content
            every = (content.image(), content.labels(), content.truth(), content.places())
            for name, array in zip(ARRAYS, every, strict=True):
                arrays[f"{number}/{name}"] = array.contiguous()
        told = {
            "scans": [_told(scan) for scan in scans],
            "notes": [(note.what, note.items) for note in notes],
        }
        self._put(file, save(arrays, {"told": json.dumps(told)}))

    def _put(self, file: Path, content: bytes) -> None:
        try:
            write_atomically(file, content, shared=True)
        except OSError as error:
            raise DataError(
                f"scenario.cache: {self.place}: {error.strerror}; FEDCL_CACHE names another folder"
            ) from error

    def _digest(self, file: Path) -> str:
        """Return the SHA-256 of a file, or of a folder's; known again by place, size and time."""
        if file.is_dir():
            inside = sorted(path for path in file.iterdir() if path.is_file())
            return hashlib.sha256("".join(map(self._digest, inside)).encode()).hexdigest()
        beside = data_beside(file)
        if beside:
            every = self._own_digest(file) + "".join(map(self._own_digest, beside))
            return hashlib.sha256(every.encode()).hexdigest()
        return self._own_digest(file)

    def _own_digest(self, file: Path) -> str:
        """Return the SHA-256 of one file's content."""
        known = file.stat()
        # The time of the last change of any kind, which no program can set back.
        times = f"{known.st_mtime_ns}\0{known.st_ctime_ns}"
        mark = f"{file.resolve()}\0{known.st_size}\0{times}\0{known.st_ino}"
        note = self.place / "known" / hashlib.sha256(mark.encode()).hexdigest()
        try:
            told = note.read_text("ascii")
            if re.fullmatch("[0-9a-f]{64}", told):
                return told
        except (OSError, UnicodeError):  # not met before, or damaged
            pass
        if not file.is_file():
            raise DataError(f"{file}: neither a file nor a folder")
        with file.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        if time.time() - known.st_mtime > FRESH:
            self._put(note, digest.encode())
        return digest


def _told(scan: Scan) -> dict[str, Any]:
    """Return what a file tells of a scan."""
    return {
        "shape": scan.shape, "own": scan.own, "spacing": scan.spacing, "plane": scan.plane,
        "counts": [scan.counts.classes, scan.counts.ignored],
        "kept": [scan.kept.classes, scan.kept.ignored],
        "lowest": scan.lowest, "digest": scan.digest,
    }  # fmt: skip


def _scan(told: dict[str, Any], content: OnDisk) -> Scan:
    """Read what `_told` wrote."""
    counts, kept = (Counts(tuple(told[name][0]), told[name][1]) for name in ("counts", "kept"))
    channels, *shape = told["shape"]
    own, (along, down, across) = told["own"], told["spacing"]
    return Scan(
        (channels, shape[0], shape[1], shape[2]), (own[0], own[1], own[2]), (along, down, across),
        told["plane"], counts, kept, tuple(told["lowest"]), told["digest"], content,
    )  # fmt: skip
