"""A simulation from configuration to results: the run's folder, engine, server, figures."""

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from flwr.app import Message
from rich.logging import RichHandler

from fedcl import arrays
from fedcl.app.experiment import conduct
from fedcl.app.run_folder import claimed, claimed_new
from fedcl.config.faults import STRAGGLE, Plan
from fedcl.config.groups import DEPLOYED
from fedcl.config.schema import Config
from fedcl.config.stored import stored
from fedcl.config.timeline import inlined
from fedcl.effort import Clock
from fedcl.errors import ConfigError
from fedcl.hospital.cache import Cache
from fedcl.hospital.client_app import client_app
from fedcl.hospital.faulty_app import faulty_app
from fedcl.hospital.site import Hospital
from fedcl.learning import loop
from fedcl.reporting.console import Display, console
from fedcl.reporting.figures import MANY
from fedcl.server.checkpoint import Checkpoint
from fedcl.server.events import Watcher
from fedcl.server.results import Results
from fedcl.server.run import Server
from fedcl.server.state import State
from fedcl.tasks.base import Picture
from fedcl.timeline import POOL
from fedcl.wire import records
from fedcl.wire.local_grid import InProcessGrid, LocalGrid, NodeConfig
from fedcl.wire.ray_grid import RayGrid

APP, FAULTY = "fedcl.hospital.client_app:client_app", "fedcl.hospital.faulty_app:faulty_app"


def simulate(values: Mapping[str, Any], folder: Path) -> Results:
    """Run the experiment that `values` describes, in a new folder; see `begin`."""
    with claimed_new(folder) as mine:
        return begin(values, mine, Config.parse(values))


def begin(values: Mapping[str, Any], folder: Path, config: Config) -> Results:
    """Run the experiment that `values` describes.

    Args:
        values: the composed configuration.
        folder: the run's folder; claimed by this process, and holding no run yet.
        config: the same, checked.

    Returns:
        What is written to results.json as well.

    Raises:
        FedclError: one line that says what is wrong; for bad configuration or data
            nothing is left behind.
    """
    values = {**values, "timeline": inlined(values.get("timeline") or {})}
    return play(config, folder, state=None, values=values)


def resume(folder: Path, change: Callable[[dict[str, Any]], None]) -> Results:
    """Go on with the run in `folder` from its last checkpoint.

    One that is complete has nothing to do but to tell MLflow what that could not be told before.

    Args:
        folder: the run's folder.
        change: may change the stored configuration (where data lie, the engine, tracking).

    Raises:
        FedclError: there is no run to go on with, or it cannot go on.
    """
    values = stored(folder)
    change(values)
    done = Results.read(folder)
    if done is not None and done.completed:
        console.print(f"{folder} is complete already", markup=False, soft_wrap=True)
        tracking = Config.parse(values).tracking
        if tracking.enabled:
            from fedcl.reporting.mlflow import deliver

            with claimed(folder):
                count = deliver(tracking.uri, folder, tracking.wait)
            if count:
                console.print(f"MLflow was told {count} entries that had waited")
        return done
    config = Config.parse(values)
    with claimed(folder):
        return play(
            config, folder, state=Checkpoint(folder / "checkpoint").load(config), values=values
        )


def play(
    config: Config,
    folder: Path,
    state: State | None,
    values: Mapping[str, Any],
    watchers: Sequence[Watcher] = (),
) -> Results:
    """Run a simulation from a state, or from its first round, to its end.

    Args:
        config: the run, checked.
        folder: of the run; claimed by this process.
        state: to go on from; None, and the run begins.
        values: the configuration, to be stored.
        watchers: told how the run goes, after the terminal.

    Raises:
        FedclError: see `conduct`.
    """
    clock = Clock()
    torch.set_num_threads(config.job.learner.threads)
    nodes, cache = nodes_of(config, folder), Cache()
    with Display() as display, _engine(config, nodes, cache, display.replied) as grid:
        told = [display, *watchers]
        server = Server(grid, config, Checkpoint(folder / "checkpoint"), state, watchers=told)
        return conduct(
            server,
            folder,
            values,
            clock,
            terminal=RichHandler(logging.WARNING, console=console, show_path=False),
            pictures=lambda: _pictures(server.config, server.state, nodes, cache),
        )


def nodes_of(config: Config, folder: Path) -> dict[str, NodeConfig]:
    """Return the node configuration of every site, as a hospital would write its own."""
    nodes: dict[str, NodeConfig] = {}
    received = str((folder / "checkpoint" / "received").resolve())  # kept once for all of them
    for site in config.timeline.sites:
        state = (folder / "checkpoint" / "sites" / site).resolve()
        nodes[site] = {"site": site, "state-path": str(state), "received-path": received}
        nodes[site]["simulated"] = True
        location = config.job.scenario.location(site)
        if location is not None:
            nodes[site]["data-path"] = str(location.resolve())
        chances = config.faults.of(site)
        if config.stragglers:
            chances[STRAGGLE] = config.stragglers
        if chances:
            plan = Plan(config.job.seed, config.faults.factor, chances)
            nodes[site] |= {"faults": plan.to_json()}
    if config.timeline.centralised:
        places = {site: node.get("data-path") for site, node in nodes.items()}
        state = (folder / "checkpoint" / "sites" / POOL).resolve()
        nodes[POOL] = {"site": POOL, "state-path": str(state), "pool": json.dumps(places)}
        nodes[POOL] |= {"received-path": received, "simulated": True}
    return nodes


@contextmanager
def _engine(
    config: Config,
    nodes: Mapping[str, NodeConfig],
    cache: Cache,
    on_reply: Callable[[Message], None],
) -> Iterator[LocalGrid]:
    """Open the engine; hospitals in this process share `cache` with whoever opens it."""
    engine, configured = config.engine, list(nodes.values())
    faulty = any("faults" in node for node in configured)
    if engine.name == "inprocess":
        app = faulty_app(cache) if faulty else client_app(cache)
        yield InProcessGrid(app, configured, on_reply)
        return
    if engine.name == DEPLOYED:
        raise ConfigError(
            "engine: superlink is what `flwr run` takes; simulate on inprocess or ray"
        )
    grid = RayGrid(
        FAULTY if faulty else APP,
        configured,
        on_reply,
        workers=engine.workers,
        num_cpus=engine.num_cpus,
        num_gpus=None if engine.num_gpus == "auto" else engine.num_gpus,
        address=engine.address,
        threads=config.job.learner.threads,
    )
    try:
        yield grid
    finally:
        grid.close()


def _pictures(
    config: Config, state: State, nodes: Mapping[str, NodeConfig], cache: Cache
) -> list[Picture]:
    """Draw test cases of each site, in this process.

    Images are read here, by whoever runs the simulation, where no hospital of this process has
    read them; no message can carry them.
    """
    text, drawing = config.job.to_json(), config.job.task.drawing
    if drawing is None:
        return []
    settings = config.job.learner
    device = loop.device_of(settings)
    pictures = []
    for site in config.timeline.sites[:MANY]:
        hospital = Hospital.of(nodes[site], text, cache=cache)
        model = hospital.role.model
        weights = arrays.under(config.job.prefix(model), state.weights)
        shared, _ = arrays.split(weights, hospital.local)
        network = hospital.load(
            model, records.to_record(shared), state.versions.get(site, 0), config.timeline.sites
        )
        answering = config.job.strategy.answering(network, hospital.task).to(device)
        for case in drawing.drawn(hospital.data(site).test):
            prediction = hospital.task.predict(answering, case, device, settings.amp)
            picture = drawing.picture(case, prediction)
            pictures.append(replace(picture, title=f"{site}: {picture.title}"))
    return pictures
