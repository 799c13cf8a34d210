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
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from flwr.app import Context
from flwr.serverapp import Grid, ServerApp
from rich.console import Console

from fedcl.app.experiment import conduct
from fedcl.app.past import Beginning, Past, accounted, plan, say, searched
from fedcl.app.run_folder import claimed, claimed_new, holds_run
from fedcl.config.groups import DECIDING, DEPLOYED
from fedcl.config.hydra import compose
from fedcl.config.schema import Config
from fedcl.config.stored import stored
from fedcl.effort import Clock
from fedcl.errors import ConfigError, FedclError
from fedcl.reporting.terminal import report
from fedcl.server.checkpoint import Checkpoint
from fedcl.server.forgetting import Hospitals
from fedcl.server.results import Results
from fedcl.server.run import Server
from fedcl.server.state import State
from fedcl.settings import flat
from fedcl.timeline import NAME
from fedcl.tracking.names import SCHEME
from fedcl.wire.limits import RUN
from fedcl.wire.superlink_grid import SuperLinkGrid

log = logging.getLogger("fedcl")

GROUPS = (
    "scenario", "strategy", "model", "models", "sites", "aggregation", "privacy", "timeline",
    "learner", "augment", "optimiser", "schedule", "release", "seed",
)  # fmt: skip
ENGINE = tuple(f"engine.{name}" for name in DECIDING)
RESUME, FORGET, SITE = "run.resume", "run.forget", "run.site"
OWN = (
    "scenario.root", "scenario.table", "scenario.splits", "strategy.teacher.file", "timeline.file",
    "model.weights",
)  # fmt: skip
"""Paths: of the hospitals or of this machine, never of who starts a run."""
SIMULATED = (
    "timeline.dropout", "timeline.stragglers", "timeline.centralised", "scenario.shift.strength",
)  # fmt: skip

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
    clock = Clock()
    runs = _runs()
    gone = withdrawn(context.run_config)
    if gone is not None:
        _forget(grid, runs, *gone, f"run-{context.run_id}", terminal, clock)
        return
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
            state = Checkpoint(folder / "checkpoint").load(config)
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
        outcome = conduct(server, folder, values, clock, terminal)
    Console(stderr=True).print(report(outcome))


def _runs() -> Path:
    """Return where this server keeps its runs."""
    return Path(os.environ.get("FEDCL_RUNS", "runs")).resolve()


def _forget(
    grid: Grid,
    runs: Path,
    name: str,
    site: str,
    successor: str,
    terminal: logging.Handler,
    clock: Clock,
) -> None:
    """Make the run that would have been without a hospital, and let all delete what they kept."""
    over, console = SuperLinkGrid(grid), Console(stderr=True)
    with claimed(runs / name):
        past = Past.of(runs / name)
        now, config = past.without(past.values, site)
        hospitals = Hospitals(over, config, name, successor)
        state, why = past.before(site, config, hospitals)
        for line in (plan(site, state, config, why), *accounted(config)):
            say(console, line)
        with claimed_new(runs / successor) as folder:
            torch.set_num_threads(config.job.learner.threads)
            server = Server(
                over,
                config,
                Checkpoint(folder / "checkpoint"),
                state,
                watchers=[Beginning(past, hospitals, site, folder)],
                name=folder.name,
            )
            outcome = conduct(server, folder, now, clock, terminal)
        console.print(report(outcome))
        deleted = hospitals.delete([one for stage in past.stages for one in stage])
        for line in (*deleted, *searched(past, past.values, site, folder)[0]):
            say(console, line)


def withdrawn(run_config: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return the run that is to be made anew and the hospital that it is to forget, if any.

    Args:
        run_config: from the network; see `asked_for`.

    Raises:
        ConfigError: it is not understood, or asks for something beside it.
    """
    given = dict(one.partition("=")[::2] for one in _overrides(run_config))
    if FORGET not in given:
        return None
    run, site = given[FORGET], given.get(SITE, "")
    known = re.fullmatch(RUN, run) and re.fullmatch(NAME, site)
    if not known or given.keys() != {FORGET, SITE}:
        raise ConfigError(
            f"{FORGET}: give the name of a run, such as run-123, {SITE}=NAME, and nothing beside it"
        )
    return run, site


def asked_for(run_config: Mapping[str, Any]) -> tuple[dict[str, Any], str | None]:
    """Return the configuration of a run and the name of the one to go on with, if any.

    Args:
        run_config: from the network; `overrides` is all it may hold.

    Raises:
        ConfigError: it asks for what only the server or a hospital may say, or is not understood.
    """
    overrides = _overrides(run_config)
    for override in overrides:
        _check(override)
    resumed = [override for override in overrides if override.startswith(f"{RESUME}=")]
    if resumed:
        name = resumed[0].partition("=")[2]
        if len(overrides) > 1 or not re.fullmatch(RUN, name):
            raise ConfigError(
                f"{RESUME}: give the name of a run, such as run-123, and nothing beside it"
            )
        return {}, name
    uri = os.environ.get("FEDCL_TRACKING")
    values = compose(overrides)
    values["engine"] |= {"name": DEPLOYED}
    for key, value in flat(values):  # whatever way it was said
        given = re.sub(r"^models\.[^.]+\.", "model.", key)
        named = str(value).startswith(SCHEME) or re.fullmatch(RUN, str(value))
        if given in OWN and value is not None and not (named and given == "model.weights"):
            raise ConfigError(
                f"run-config: {key}: a path; it is the server's or the hospital's own"
            )
        if key in SIMULATED and value:
            raise ConfigError(f"run-config: {key}: for simulations only")
    models = [values["model"], *dict(values["models"] or {}).values()]
    for model in (one for one in models if isinstance(one, dict)):
        if re.fullmatch(RUN, str(model.get("weights"))):  # of an earlier run of this server
            model["weights"] = str(_runs() / model["weights"])
    values["tracking"] = {"enabled": bool(uri), "uri": uri or ""}
    return values, None


def _overrides(run_config: Mapping[str, Any]) -> list[str]:
    """Return the overrides that a run's configuration is."""
    for key in run_config:
        if key != "overrides":
            raise ConfigError(f"run-config: no such key {str(key)!r}; there is: overrides")
    try:
        return shlex.split(str(run_config.get("overrides", "")))
    except ValueError as error:
        raise ConfigError(f"run-config: overrides cannot be read ({error})") from None


def _check(override: str) -> None:
    """Raise `ConfigError` where an override is not for whoever starts a run."""
    key = override.partition("=")[0]
    if "=" not in override or not re.fullmatch(r"[A-Za-z][\w.-]*", key):
        raise ConfigError(
            f"run-config: {override[:80]!r}: must be KEY=VALUE; what is more than that goes into a "
            "YAML of conf/, on the server and at every hospital"
        )
    if key.partition(".")[0] not in GROUPS and key not in (*ENGINE, RESUME):
        raise ConfigError(
            f"run-config: {key}: not for a deployed run; there are: "
            f"{', '.join((*GROUPS, *ENGINE, RESUME))}"
        )
    if "." not in key and key != "seed" and not re.fullmatch(rf"{key}=[\w-]+", override):
        raise ConfigError(f"run-config: {key}: must be a name")
    if "${" in override or "_target_" in override:
        raise ConfigError(f"run-config: {key}: must be a plain value, without ${{ or _target_")
