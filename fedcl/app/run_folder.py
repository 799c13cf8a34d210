"""A run's folder: claimed by one process, and the configuration stored in it."""

import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import yaml

from fedcl.errors import ConfigError
from fedcl.files import TakenError, lock


def holds_run(folder: Path) -> bool:
    """Return whether a run was begun in `folder`."""
    return any((folder / name).exists() for name in ("config.yaml", "results.json", "checkpoint"))


def stored(folder: Path) -> dict[str, Any]:
    """Return the configuration of the run in `folder`.

    Raises:
        ConfigError: there is none, or it cannot be read.
    """
    file = folder / "config.yaml"
    if not file.is_file():
        inside = sorted(path.parent.name for path in folder.glob("*/config.yaml"))
        hint = f"; a sweep is resumed run by run, here {', '.join(inside)}" if inside else ""
        raise ConfigError(f"run.resume: {folder} holds no run (there is no config.yaml){hint}")
    try:
        values = dict(yaml.safe_load(file.read_text()))
    except (OSError, ValueError, TypeError, yaml.YAMLError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"run.resume: {file} cannot be read ({reason})") from None
    for group in ("scenario", "strategy"):
        if not isinstance(values.get(group), Mapping) or "name" not in values[group]:
            raise ConfigError(f"run.resume: {file} has no {group} with a name")
    return values


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
