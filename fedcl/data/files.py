"""Which files of a folder are data: names, extensions, and what is none."""

import re
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fedcl.errors import ConfigError, DataError

NIFTI = (".nii", ".nii.gz")
PICTURES = (
    ".png", ".tif", ".tiff", ".jpg", ".jpeg", ".bmp", ".gif", ".ppm", ".pgm", ".pnm",
    ".ppm.gz", ".pgm.gz", ".pnm.gz",
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

    Whether they are there or not. Of one file alone, or of other formats, there are none; where
    there are several, the text that says so stands for them.
    """
    if not file.name.lower().endswith(VOLUMES) or not file.is_file():
        return []
    try:
        with file.open("rb") as stream:
            head = stream.read(HEADER).decode("latin-1")
    except OSError:  # reading it will say
        return []
    if file.name.lower().endswith((".nrrd", ".nhdr")):
        head = re.split(r"\r?\n\r?\n", head)[0]  # values may follow
    named = re.search(r"^(?:ElementDataFile\s*=|data\s*file\s*:)\s*(\S.*?)\s*$", head, re.M | re.I)
    if named is None or named[1].upper() == "LOCAL":
        return []
    return [file.parent / named[1]]


def hidden(path: Path) -> bool:
    """Return whether a file or folder is none of the user's: dotfiles, AppleDouble (`._x`)."""
    return path.name.startswith(".") or path.name == "__MACOSX"


def stem_of(name: str) -> str | None:
    """Return a file's name (NFC) without the extension; None where its kind is not read."""
    extension = max((e for e in EXTENSIONS if name.lower().endswith(e)), key=len, default=None)
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


def text_of(file: Path) -> str:
    """Return a small text file's content, whatever editor it went through.

    A byte-order mark is taken off, and bytes that are no UTF-8 are replaced: keys and numbers
    are in ASCII.
    """
    return file.read_text(encoding="utf-8-sig", errors="replace")
