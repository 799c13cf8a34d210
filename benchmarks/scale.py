"""What a round costs the server with many sites, beside Flower's own simulation.

`python -m benchmarks.scale` has idle sites answer real rounds: fedcl's whole server (greeting,
planning, tests, training, validation, checkpoints) in this process and on Ray, and Flower's
`run_simulation` with FedAvg. Sites send the weights back that they were sent, so that what is
measured is neither data nor training. Every figure comes from a process of its own; engines take
turns.
"""

import argparse
import itertools
import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

import fedcl  # noqa: F401  isort: skip  (sets the environment)

from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation

from fedcl import arrays
from fedcl.config.hydra import compose
from fedcl.config.schema import Config
from fedcl.effort import peak_memory
from fedcl.server.checkpoint import Checkpoint
from fedcl.server.events import Round, Watcher
from fedcl.server.run import Server
from fedcl.server.state import State
from fedcl.tasks.metrics import SEGMENTATION
from fedcl.wire import records
from fedcl.wire.answers import Hello, Scored, Update
from fedcl.wire.local_grid import InProcessGrid
from fedcl.wire.ray_grid import RayGrid
from fedcl.wire.requests import EvaluateRequest, TrainRequest

SIZES = {"tiny": "[4,8]", "2.5 MB": "[32,64,128,160]", "8 MB": "[64,128,192,256]"}
"""Channels of U-Nets, by the bytes of their weights."""
ENGINES = ("inprocess", "ray", "flower")

idle = ClientApp()
"""A site that has nothing to do, for fedcl's server and for Flower's."""


@idle.query("hello")
def hello(message: Message, context: Context) -> Message:
    """Say who it is."""
    site = str(context.node_config["site"])
    told = Hello(site, digest="0", train=1, val=1, test=1, samples=1, shape=[1, 32, 32])
    return Message(told.pack(), reply_to=message)


@idle.train()
def train(message: Message, context: Context) -> Message:
    """Send the weights back."""
    if "request" not in message.content:  # Flower's
        metrics = MetricRecord({"num-examples": 1})
        content = RecordDict({"arrays": message.content["arrays"], "metrics": metrics})
        return Message(content, reply_to=message)
    call = TrainRequest.unpack(message.content)
    update = Update(records.from_record(call.arrays), call.round, 1, {"seg": 0.0}, 0.0)
    return Message(update.pack(), reply_to=message)


@idle.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Score one case."""
    if "request" not in message.content:  # Flower's
        metrics = MetricRecord({"num-examples": 1, "dice": 1.0})
        return Message(RecordDict({"metrics": metrics}), reply_to=message)
    call = EvaluateRequest.unpack(message.content)
    names = SEGMENTATION if call.split == "test" else SEGMENTATION[:1]
    scored = Scored(["0"], {name: [1.0] for name in names}, 0.0, 0.0)
    return Message(scored.pack(), reply_to=message)


class Ends(Watcher):
    """Notes when rounds are over, and the processor time until then."""

    def __init__(self) -> None:
        self.ends: list[tuple[float, float]] = []

    def note(self, *_: object) -> None:
        """Take the time."""
        self.ends.append((time.perf_counter(), time.process_time()))

    def round_done(self, done: Round, state: State) -> None:
        """See `note`."""
        self.note()

    def per_round(self) -> dict[str, float]:
        """Return the median wall and processor seconds from one to the next."""
        wall, cpu = zip(*self.ends, strict=True)
        return {
            name: statistics.median(b - a for a, b in itertools.pairwise(times))
            for name, times in (("seconds", wall), ("cpu", cpu))
        }


def with_fedcl(sites: int, config: Config, folder: Path) -> dict[str, float]:
    """Run one stage with fedcl's server; return the cost of a round."""
    nodes = [{"site": site} for site in config.timeline.sites]
    app, watch = "benchmarks.scale:idle", Ends()
    here = config.engine.name == "inprocess"
    grid = InProcessGrid(app, nodes) if here else RayGrid(app, nodes, workers=os.cpu_count())
    with closing(grid):
        server = Server(grid, config, Checkpoint(folder), watchers=[watch])
        about = server.meet()
        watch.note()
        server.run(about, time.perf_counter())
    return watch.per_round()


def with_flower(sites: int, weights: ArrayRecord, rounds: int) -> dict[str, float]:
    """Run as many rounds with Flower's simulation; return the cost of one."""
    server, watch = ServerApp(), Ends()

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        strategy = FedAvg(
            min_train_nodes=sites, min_evaluate_nodes=sites, min_available_nodes=sites
        )
        config = ConfigRecord({})
        strategy.start(
            grid, weights, num_rounds=rounds, train_config=config, evaluate_fn=watch.note
        )

    run_simulation(
        server_app=server,
        client_app=idle,
        num_supernodes=sites,
        backend_config={
            "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
            "init_args": {"address": "local", "include_dashboard": False, "log_to_driver": False},
        },
    )
    return watch.per_round()


def measured(engine: str, sites: int, size: str, rounds: int) -> dict[str, float]:
    """Return what rounds cost in this process, which does nothing else.

    Returns:
        Per round `seconds` and processor seconds of the driver (`cpu`), the bytes of the weights
        (`size`), and the most memory that the driver has held (`memory`).
    """
    logging.getLogger("flwr").handlers.clear()
    config = Config.parse(
        compose(
            [
                f"scenario.hospitals={max(6, sites)}",
                f"timeline.per_stage={max(6, sites)}",
                f"timeline.rounds={rounds}",
                f"model.channels={SIZES[size]}",
                f"engine={'inprocess' if engine == 'inprocess' else 'ray'}",
                "strategy=finetune",
                "tracking.enabled=false",
            ]
        )
    )
    (name,) = config.job.models
    weights = records.to_record(arrays.of_network(config.job.network(name, [])))
    if engine == "flower":
        cost = with_flower(sites, weights, rounds)
    else:
        with tempfile.TemporaryDirectory() as folder:
            cost = with_fedcl(sites, config, Path(folder) / "checkpoint")
    return cost | {"size": records.size_of(weights), "memory": peak_memory()}


def main() -> None:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sites", type=int, nargs="*", default=[6, 50, 200, 1000])
    parser.add_argument("--size", choices=SIZES, default="8 MB")
    parser.add_argument("--engines", nargs="*", choices=ENGINES, default=list(ENGINES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--patience", type=float, default=600.0, help="seconds for each figure")
    parser.add_argument("--alone", action="store_true", help="one figure, as JSON")
    options = parser.parse_args()
    if options.alone:
        found = measured(options.engines[0], options.sites[0], options.size, options.rounds)
        print(json.dumps(found))
        return
    print(f"rounds of idle sites, weights of {options.size}, median of {options.rounds}:")
    print("   sites  engine     s/round  CPU s/round  ms/site  driver MB")
    for sites in options.sites:
        for engine in options.engines:
            command = [sys.executable, "-m", "benchmarks.scale", "--alone", "--engines", engine]
            command += ["--sites", str(sites), "--size", options.size]
            command += ["--rounds", str(options.rounds)]
            try:
                done = subprocess.run(
                    command, capture_output=True, text=True, timeout=options.patience, check=True
                )
            except (subprocess.TimeoutExpired, subprocess.CalledProcessError) as error:
                print(f"  {sites:6d}  {engine:9s}  {str(error).rpartition(']')[2]}", flush=True)
                continue
            one = json.loads(done.stdout.splitlines()[-1])
            print(
                f"  {sites:6d}  {engine:9s}  {one['seconds']:7.2f}  {one['cpu']:11.2f}"
                f"  {1000 * one['seconds'] / sites:7.1f}  {one['memory'] / 2**20:9.0f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
