"""A run's folder: claimed by one process."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from fedcl.files import TakenError, lock


def holds_run(folder: Path) -> bool:
    """Return whether a run was begun in `folder`."""
    return any((folder / name).exists() for name in ("config.yaml", "results.json", "checkpoint"))


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Hold the lock on `folder`; leave no trace if nothing was written."""
    file = lock(folder)
    try:
        yield
    finally:
        if os.listdir(folder) == [".lock"]:
            (folder / ".lock").unlink()
            folder.rmdir()
        file.close()


@contextmanager
def claimed_new(folder: Path, exact: bool = True) -> Iterator[Path]:
    """Hold the lock on a folder that holds no run yet.

    Args:
        folder: the one wanted.
        exact: whether no other will do. Two jobs that begin in the same second have the same
            default folder: one of them gets a number after its name.

    Raises:
        ConfigError: it holds a run, or another process runs there.
    """
    number, chosen = 1, folder
    while True:
        with ExitStack() as stack:
            try:
                stack.enter_context(claimed(chosen))
                if holds_run(chosen):
                    raise TakenError(
                        f"run.dir: {chosen} already holds a run; give another folder, or go on "
                        f"with run.resume={chosen}"
                    )
            except TakenError:
                if exact:
                    raise
            else:
                yield chosen
                return
        number += 1
        chosen = folder.with_name(f"{folder.name}-{number}")
