"""What every run is, simulated or deployed: a folder, a log, MLflow, figures, results."""

import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from fedcl import arrays
from fedcl.checkpoint import lock
from fedcl.errors import ConfigError, writing
from fedcl.figures import draw
from fedcl.results import results
from fedcl.server import Server
from fedcl.task import Picture

STATUS = {"completed": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}


def conduct(
    server: Server,
    folder: Path,
    values: Mapping[str, Any],
    started: float,
    terminal: logging.Handler,
    pictures: Callable[[], Sequence[Picture]] = lambda: (),
) -> dict[str, Any]:
    """Run an experiment from its first round, or from where its state is, to its results.

    Args:
        server: not started yet.
        folder: of the run; claimed by this process.
        values: the configuration, to be stored.
        started: `time.perf_counter()` when this process began with it.
        terminal: where warnings go.
        pictures: draws test cases, where images may be seen.

    Returns:
        The contents of results.json.

    Raises:
        FedclError: it cannot begin, in which case nothing is written, or not go on.
    """
    config, status = server.config, "failed"
    about = server.meet()
    # Only now that configuration, data and MLflow are known to be good is anything written.
    tracker = None
    if config.tracking.enabled:
        from fedcl.tracking import Tracker

        tracker = Tracker(config.tracking.uri, folder)
        server.watchers.append(tracker)
    with writing(folder / "config.yaml"):
        # In the order given: sites may arrive in the order in which they are listed.
        text = yaml.safe_dump(dict(values), sort_keys=False)
        arrays.write_atomically(folder / "config.yaml", text.encode())
    with _logging(folder / "log.txt", terminal):
        reason = None
        try:
            server.run(about, started)
            if config.run.figures:
                draw(
                    results(config, server.state),
                    pictures(),
                    config.job.scenario.task.legend,
                    folder / "figures",
                )
            status = "completed"
        except KeyboardInterrupt:
            status = "interrupted"
            raise
        except Exception as error:
            reason = str(error).partition("\n")[0] or type(error).__name__
            logging.getLogger("fedcl").debug("the run failed", exc_info=True)
            raise
        finally:
            outcome = results(config, server.state, status)
            if reason:
                outcome["reason"] = reason
            file = folder / "results.json"
            try:
                with writing(file):
                    arrays.write_atomically(file, json.dumps(outcome, indent=1).encode())
            finally:
                if tracker:
                    tracker.finish(STATUS[status])
    return outcome


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
        return dict(yaml.safe_load(file.read_text()))
    except (OSError, ValueError, TypeError, yaml.YAMLError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"run.resume: {file} cannot be read ({reason})") from None


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Hold the lock on `folder`; leave no trace if nothing was written."""
    folder.mkdir(parents=True, exist_ok=True)
    file = lock(folder)
    try:
        yield
    finally:
        if os.listdir(folder) == [".lock"]:
            (folder / ".lock").unlink()
            folder.rmdir()
        file.close()


@contextmanager
def _logging(path: Path, terminal: logging.Handler) -> Iterator[None]:
    """Write everything to `path` and warnings to `terminal`; quieten Flower."""
    file = logging.FileHandler(path)
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    ours, flower = logging.getLogger("fedcl"), logging.getLogger("flwr")
    ours.setLevel(logging.DEBUG)
    ours.propagate = flower.propagate = False
    ours.handlers, flower.handlers = [file, terminal], [file]
    flower.setLevel(logging.WARNING)
    try:
        yield
    finally:
        ours.handlers, flower.handlers = [], []
        file.close()
