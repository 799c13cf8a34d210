"""The ServerApp: the same run over Flower's SuperLink and SuperNodes.

What comes from the network is one line of overrides; it can name no path and no code. Where runs
are kept and what tracks them is the server's own: the environment variables `FEDCL_RUNS` (a
folder, default `runs`) and `FEDCL_TRACKING` (MLflow's address, default none).
"""

import logging
import os
import re
import shlex
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from flwr.app import Context
from flwr.serverapp import Grid, ServerApp
from rich.console import Console

from fedcl.app.experiment import conduct
from fedcl.app.run_folder import claimed, holds_run
from fedcl.config.groups import DEPLOYED
from fedcl.config.hydra import compose
from fedcl.config.schema import Config
from fedcl.config.stored import stored
from fedcl.errors import ConfigError, FedclError
from fedcl.reporting.terminal import report
from fedcl.server.checkpoint import Checkpoint
from fedcl.server.results import Results
from fedcl.server.run import Server
from fedcl.server.state import State
from fedcl.settings import flat
from fedcl.tracking.names import SCHEME
from fedcl.wire.superlink_grid import SuperLinkGrid

log = logging.getLogger("fedcl")

GROUPS = (
    "scenario", "strategy", "model", "models", "sites", "aggregation", "privacy", "timeline",
    "learner", "augment", "optimiser", "schedule", "release", "seed",
)  # fmt: skip
ENGINE = ("engine.quorum", "engine.timeout", "engine.norm_bound")
RESUME = "run.resume"
OWN = (
    "scenario.root", "scenario.table", "scenario.splits", "strategy.teacher.file", "timeline.file",
    "model.weights",
)  # fmt: skip
"""Paths: of the hospitals or of this machine, never of who starts a run."""
SIMULATED = ("timeline.dropout", "timeline.stragglers", "timeline.centralised")

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the experiment that the run's configuration asks for.

    Raises:
        FedclError: it cannot begin or not go on; Flower then says that the run has failed.
    """
    terminal = logging.StreamHandler(sys.stderr)
    terminal.setLevel(logging.INFO)
    log.addHandler(terminal)
    log.setLevel(logging.INFO)
    try:
        _run(grid, context, terminal)
    except FedclError as error:
        sys.tracebacklimit = 0  # Flower logs the error: one line says it all
        raise error.with_traceback(None) from None
    finally:
        log.removeHandler(terminal)


def _run(grid: Grid, context: Context, terminal: logging.Handler) -> None:
    started = time.perf_counter()
    runs = Path(os.environ.get("FEDCL_RUNS", "runs")).resolve()
    values, resumed = asked_for(context.run_config)
    folder = runs / (resumed or f"run-{context.run_id}")
    state: State | None = None
    if resumed:
        values = stored(folder)
        done = Results.read(folder)
        if done is not None and done.completed:
            log.info("%s is complete already", folder)
            return
    config = Config.parse(values, simulated=False)
    with claimed(folder):
        if resumed:
            state = Checkpoint(folder / "checkpoint").load()
        elif holds_run(folder):
            raise ConfigError(f"{folder} already holds a run; go on with {RESUME}={folder.name}")
        torch.set_num_threads(config.job.learner.threads)
        server = Server(
            SuperLinkGrid(grid),
            config,
            Checkpoint(folder / "checkpoint"),
            state,
            name=folder.name,
        )
        log.info("run folder: %s", folder)
        outcome = conduct(server, folder, values, started, terminal)
    Console(stderr=True).print(report(outcome))


def asked_for(run_config: Mapping[str, Any]) -> tuple[dict[str, Any], str | None]:
    """Return the configuration of a run and the name of the one to go on with, if any.

    Args:
        run_config: from the network; `overrides` is all it may hold.

    Raises:
        ConfigError: it asks for what only the server or a hospital may say, or is not understood.
    """
    for key in run_config:
        if key != "overrides":
            raise ConfigError(f"run-config: no such key {str(key)!r}; there is: overrides")
    try:
        overrides = shlex.split(str(run_config.get("overrides", "")))
    except ValueError as error:
        raise ConfigError(f"run-config: overrides cannot be read ({error})") from None
    for override in overrides:
        _check(override)
    resumed = [override for override in overrides if override.startswith(f"{RESUME}=")]
    if resumed:
        name = resumed[0].partition("=")[2]
        if len(overrides) > 1 or not re.fullmatch(r"run-\d{1,20}", name):
            raise ConfigError(
                f"{RESUME}: give the name of a run, such as run-123, and nothing beside it"
            )
        return {}, name
    uri = os.environ.get("FEDCL_TRACKING")
    values = compose(overrides)
    values["engine"] |= {"name": DEPLOYED}
    for key, value in flat(values):  # whatever way it was said
        given = re.sub(r"^models\.[^.]+\.", "model.", key)
        registry = given == "model.weights" and str(value).startswith(SCHEME)
        if given in OWN and value is not None and not registry:
            raise ConfigError(
                f"run-config: {key}: a path; it is the server's or the hospital's own"
            )
        if key in SIMULATED and value:
            raise ConfigError(f"run-config: {key}: for simulations only")
    values["tracking"] = {"enabled": bool(uri), "uri": uri or ""}
    return values, None


def _check(override: str) -> None:
    """Raise `ConfigError` where an override is not for whoever starts a run."""
    key = override.partition("=")[0]
    if "=" not in override or not re.fullmatch(r"[A-Za-z][\w.-]*", key):
        raise ConfigError(f"run-config: {override[:80]!r}: must be KEY=VALUE")
    if key.partition(".")[0] not in GROUPS and key not in (*ENGINE, RESUME):
        raise ConfigError(
            f"run-config: {key}: not for a deployed run; there are: "
            f"{', '.join((*GROUPS, *ENGINE, RESUME))}"
        )
    if "." not in key and key != "seed" and not re.fullmatch(rf"{key}=[\w-]+", override):
        raise ConfigError(f"run-config: {key}: must be a name")
    if "$" in override or "_target_" in override:
        raise ConfigError(f"run-config: {key}: must be a plain value, without $ or _target_")
