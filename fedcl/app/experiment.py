"""What every run is, simulated or deployed: a folder, a log, MLflow, figures, results."""

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from fedcl import interruption
from fedcl.effort import Clock
from fedcl.errors import writing
from fedcl.files import write_atomically
from fedcl.reporting.figures import draw
from fedcl.server.outcome import outcome
from fedcl.server.results import FILE, Results
from fedcl.server.run import Server
from fedcl.tasks.base import Picture
from fedcl.tracking.names import SCHEME

log = logging.getLogger("fedcl")

STATUS = {"completed": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}


def conduct(
    server: Server,
    folder: Path,
    values: Mapping[str, Any],
    clock: Clock,
    terminal: logging.Handler,
    pictures: Callable[[], Sequence[Picture]] = lambda: (),
) -> Results:
    """Run an experiment from its first round, or from where its state is, to its results.

    Args:
        server: not started yet.
        folder: of the run; claimed by this process.
        values: the configuration, to be stored.
        clock: begun when this process began with it.
        terminal: where warnings go.
        pictures: draws test cases, where images may be seen.

    Returns:
        What is written to results.json as well.

    Raises:
        FedclError: it cannot begin, in which case nothing is written, or not go on.
    """
    about, status = server.meet(), "failed"
    config, values = server.config, _numbered(values, server.state.begun)
    tracker = None
    if config.tracking.enabled:
        from fedcl.reporting.mlflow import Tracker

        tracker = Tracker(config, folder, values, server.state, about)
        server.watchers.append(tracker)
    # Only now that configuration, data and MLflow are known to be good is anything written.
    with _logging(folder / "log.txt", terminal):
        reason = None
        try:
            with writing(folder / "config.yaml"):
                # In the order given: sites may arrive in the order in which they are listed.
                text = yaml.safe_dump(dict(values), sort_keys=False)
                write_atomically(folder / "config.yaml", text.encode())
            server.run(about, clock)
            status = "completed"
            if config.run.figures:
                _draw(server, folder, pictures)
        except KeyboardInterrupt:
            status, reason = "interrupted", interruption.reason()
            raise
        except Exception as error:
            reason = str(error).partition("\n")[0] or type(error).__name__
            log.debug("the run failed", exc_info=True)
            raise
        finally:
            found = outcome(config, server.state, status, reason)
            file = folder / FILE
            try:
                with writing(file):
                    write_atomically(file, json.dumps(found.values(), indent=1).encode())
            finally:
                if tracker:
                    tracker.finish(STATUS[status])
    return found


def _numbered(values: Mapping[str, Any], begun: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration with models of the registry by version: an alias moves.

    Args:
        values: the configuration.
        begun: of every architecture that began with weights, what was taken.
    """
    found = dict(values)
    for name, told in begun.items():
        if told["file"].startswith(SCHEME):
            several = values.get("models") or {}
            if name in several:
                found["models"] = {
                    **found["models"], name: {**several[name], "weights": told["file"]}
                }  # fmt: skip
            else:
                found["model"] = {**values["model"], "weights": told["file"]}
    return found


def _draw(server: Server, folder: Path, pictures: Callable[[], Sequence[Picture]]) -> None:
    """Draw a run's figures; one that cannot be drawn or written takes nothing from the run."""
    try:
        found, task = outcome(server.config, server.state), server.config.job.task
        legend = task.drawing.legend if task.drawing is not None else ""
        draw(found, pictures(), legend, folder / "figures")
    except Exception as error:  # a full disk, data that are gone, sites too many for a picture
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        log.warning("not all figures could be drawn (%s); the results are complete", reason)
        log.debug("no figures", exc_info=True)


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
