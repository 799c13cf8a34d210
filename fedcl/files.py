"""Writing files so that a crash leaves the old or the new, on whatever file system there is."""

import contextlib
import errno
import fcntl
import logging
import os
import time
import uuid
from functools import lru_cache
from pathlib import Path
from typing import IO

from fedcl.errors import ConfigError

log = logging.getLogger("fedcl")

UNSUPPORTED = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK}
"""What NFS, SMB and FUSE answer where they know no lock or no flush of a folder."""


def write_atomically(path: Path, content: bytes, shared: bool = False) -> None:
    """Write a file so that a crash leaves either the old or the new content, never half.

    Args:
        path: of the file; its folder is made.
        content: of the file.
        shared: whether several processes may write it at the same time.

    Raises:
        OSError: it cannot be written; the old one, if any, is as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{uuid.uuid4().hex}.part" if shared else f"{path.name}.part")
    try:
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            _flush(file.fileno(), path.parent)
        part.replace(path)
    except OSError:
        with contextlib.suppress(OSError):  # the first error is the one to tell
            part.unlink(missing_ok=True)
        raise


def sync(folder: Path) -> None:
    """Make what was renamed in `folder` durable, where the file system can."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        _flush(handle, folder)
    finally:
        os.close(handle)


def _flush(handle: int, folder: Path) -> None:
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
        _warn(
            f"{folder}: the file system cannot flush to disk ({error.strerror}); after a power "
            "cut the last snapshot may be lost"
        )


def lock(folder: Path) -> IO[str]:
    """Make a run's folder and claim it for this process, until it ends or closes what is returned.

    Where the file system knows no locks, nothing is claimed and a warning says so.

    Raises:
        ConfigError: another process is running there, or the folder cannot be made.
    """
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            file = (folder / ".lock").open("a")
        except FileNotFoundError:  # whoever held it has just left without a trace
            continue
        except OSError as error:
            raise ConfigError(f"run.dir: {folder}: {error.strerror or error}") from None
        try:
            _claim(file)
        except BlockingIOError:
            file.close()
            raise TakenError(f"run.dir: another process is running in {folder}") from None
        except OSError as error:
            if error.errno not in UNSUPPORTED:
                file.close()
                raise ConfigError(f"run.dir: {folder}: {error.strerror or error}") from None
            _warn(
                f"{folder}: the file system knows no locks ({error.strerror}); see to it that no "
                "other process runs there"
            )
        if _is(file, folder / ".lock"):
            return file
        file.close()


def _claim(file: IO[str]) -> None:
    """Lock a file; who only looks (`locked`) has it for an instant, and is waited for."""
    for _ in range(3):
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        time.sleep(0.05)
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def locked(folder: Path) -> bool:
    """Return whether a process has claimed a run's folder.

    Raises:
        OSError: the file system knows no locks, or lets nobody look.
    """
    try:
        with (folder / ".lock").open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def _is(file: IO[str], path: Path) -> bool:
    """Return whether an open file is the one at `path` still."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


class TakenError(ConfigError):
    """A folder that belongs to another run."""


@lru_cache(maxsize=64)
def _warn(text: str) -> None:
    """Warn once."""
    log.warning("%s", text)
