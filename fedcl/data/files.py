"""Which files of a folder are data: names, extensions, and what is none."""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fedcl.data.notes import Notes
from fedcl.errors import ConfigError, DataError
from fedcl.settings import closest

NIFTI = (".nii", ".nii.gz")
PICTURES = (
    ".png", ".tif", ".tiff", ".jpg", ".jpeg", ".bmp", ".gif", ".ppm", ".pgm", ".pnm",
)  # fmt: skip
VOLUMES = (".mha", ".mhd", ".nrrd", ".nhdr")
HEADER = 65536
"""Bytes within which a header names the file of its values."""
EXTENSIONS = (*PICTURES, *NIFTI, *VOLUMES)


def bad(site: str, file: Path, what: str) -> DataError:
    """Return the error that names site, file and what is wrong with it."""
    return DataError(f"site {site}: {printable(f'{file.parent.name}/{file.name}: {what}')}")


def printable(text: str) -> str:
    """Return text in one line, whatever names of files it holds."""
    return "".join(sign if sign.isprintable() else f"\\x{ord(sign):02x}" for sign in text)


def folder_of(text: str, key: str) -> Path:
    """Return the folder that a setting names, whether or not it is there.

    Raises:
        ConfigError: no folder could have that name.
    """
    try:
        path = Path(text).expanduser()
        path.exists()
    except (OSError, RuntimeError, ValueError) as error:  # too long a name, a user who is not there
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError(f"{key}: {printable(text[:100])}: {reason}") from None
    return path


@contextmanager
def reading(site: str) -> Iterator[None]:
    """Turn what the file system or a decoder raises while data are read into one line."""
    try:
        yield
    except (OSError, UnicodeError, RecursionError, MemoryError) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        file = getattr(error, "filename", None)
        where = f"{file}: " if file else ""
        raise DataError(f"site {site}: {printable(f'{where}{reason}')}") from error


def natural(stem: str) -> tuple[list[str | int], str]:
    """Return a sorting key that puts slice 2 before slice 10."""
    parts = re.split(r"(\d+)", stem)
    return [int(part) if i % 2 else part for i, part in enumerate(parts)], stem


def composed(name: str) -> str:
    """Return a name in Unicode's composed form (NFC): some systems store "ü" as two signs."""
    return unicodedata.normalize("NFC", name)


def is_nifti(file: Path) -> bool:
    """Return whether a file is NIfTI, by its name."""
    return file.name.lower().endswith(NIFTI)


def is_volume(file: Path) -> bool:
    """Return whether a file, or a folder of DICOM slices, may hold a volume."""
    return file.name.lower().endswith((*NIFTI, *VOLUMES)) or file.is_dir()


def data_beside(file: Path) -> list[Path]:
    """Return the files in which the values of a MetaImage or NRRD lie whose header names them.

    Whether they are there or not. Of one file alone, or of other formats, there are none.
    """
    if not file.name.lower().endswith((".mhd", ".nhdr")):
        return []
    try:
        with file.open("rb") as stream:
            head = stream.read(HEADER).decode(errors="replace")
    except OSError:  # reading it will say
        return []
    named = re.search(r"^(?:ElementDataFile\s*=|data\s*file\s*:)\s*(\S.*?)\s*$", head, re.M | re.I)
    if named is None or named[1].upper().startswith(("LOCAL", "LIST")):
        return []
    return [file.parent / named[1]]


def hidden(path: Path) -> bool:
    """Return whether a file or folder is none of the user's: dotfiles, AppleDouble (`._x`)."""
    return path.name.startswith(".") or path.name == "__MACOSX"


def stem_of(name: str) -> str | None:
    """Return a file's name (NFC) without the extension; None where its kind is not read."""
    extension = next((e for e in EXTENSIONS if name.lower().endswith(e)), None)
    return None if extension is None else composed(name[: -len(extension)])


def visible(site: str, folder: Path) -> list[Path]:
    """Return what lies in `folder` and is not hidden, by name.

    Raises:
        DataError: it cannot be looked into.
    """
    try:
        return sorted(path for path in folder.iterdir() if not hidden(path))
    except OSError as error:
        raise DataError(f"site {site}: folder {folder}: {error.strerror}") from error


def listed(site: str, folder: Path, notes: Notes) -> dict[str, Path]:
    """Return the readable files of `folder` by their name without extension.

    Args:
        site: whose folder it is, for messages.
        folder: is not searched below.
        notes: gets what is left out: sub-folders, and files of kinds that are not read.

    Raises:
        DataError: no file to read, or two of one name.
    """
    files: dict[str, Path] = {}
    others: list[Path] = []
    for path in visible(site, folder):
        stem = stem_of(path.name)
        if not _writable(path.name):
            raise bad(site, path, "a name that is no text (UTF-8); rename it")
        if stem is None:
            others.append(path)
        elif stem in files:
            raise bad(site, path, f"same name as {files[stem].name}; keep one")
        else:
            files[stem] = path
    beside = {raw for path in files.values() for raw in data_beside(path)}
    others = [path for path in others if path not in beside]
    for path in others:
        what = "folders are not searched" if path.is_dir() else "files of a kind not read"
        notes.add(f"{folder.name}/: {what}", path.name)
    if not files:
        kinds = Counter(path.suffix or path.name for path in others if path.is_file())
        there = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(4))
        below = [path.name for path in others if path.is_dir()]
        there += f"{', ' * bool(there)}folders {', '.join(below[:3])}" if below else ""
        found = f" (there is: {there})" if there else ""
        raise DataError(
            f"site {site}: folder {folder}: no file to read{found}; read are {' '.join(EXTENSIONS)}"
        )
    return files


def paired(
    site: str, images: dict[str, Path], masks: dict[str, Path]
) -> dict[str, tuple[Path, Path]]:
    """Return image and mask file of every name.

    Raises:
        DataError: a file has no partner; names the file and the name that comes closest.
    """
    lone = sorted(images.keys() ^ masks.keys())
    if lone:
        file = (images | masks)[lone[0]]
        other, there = ("masks", masks) if lone[0] in images else ("images", images)
        free = sorted(there.keys() - (images.keys() & masks.keys()))
        near = closest(lone[0], free, surely=len(free) == 1)
        raise bad(site, file, f"no file of this name in {other}{near} ({len(lone)} such in all)")
    return {stem: (images[stem], masks[stem]) for stem in images}


def _writable(name: str) -> bool:
    """Return whether a name can be written down and sent."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def text_of(file: Path) -> str:
    """Return a small text file's content, whatever editor it went through.

    A byte-order mark is taken off, and bytes that are no UTF-8 are replaced: keys and numbers
    are in ASCII.
    """
    return file.read_text(encoding="utf-8-sig", errors="replace")
