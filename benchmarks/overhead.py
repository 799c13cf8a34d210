"""What fedcl costs on top of the mathematics, and on top of nothing at all.

`python benchmarks/overhead.py` prints

1. the time of an in-process run over that of a bare PyTorch loop that does the same batches
   and ends, bit for bit, with the same weights (alternating, median of the pairs' ratios);
2. seconds per round of do-nothing clients on RayGrid and on Flower's `run_simulation`.
"""

import argparse
import itertools
import logging
import os
import statistics
import tempfile
import time
from contextlib import closing
from pathlib import Path

import fedcl  # noqa: F401  isort: skip  (sets the environment)

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation

from fedcl import arrays
from fedcl.app import simulation
from fedcl.config.hydra import compose
from fedcl.config.schema import Config
from fedcl.seeding import seeded, torch_rng
from fedcl.tasks.losses import segmentation_loss
from fedcl.tasks.metrics import SEGMENTATION, case_scores
from fedcl.wire.ray_grid import RayGrid


def bare(config: Config) -> str:
    """Do what a fine-tuning run does, and nothing else; return the weights' digest."""
    job, timeline = config.job, config.timeline
    data = {site: job.scenario.load(site, None, job.seed) for site in timeline.sites}
    stacks = {
        site: (
            torch.cat([case.images for case in cases.train]),
            torch.cat([case.labels for case in cases.train]).unsqueeze(1).long(),
        )
        for site, cases in data.items()
    }
    network = job.network("unet", timeline.sites)
    weights = {k: v.clone() for k, v in network.state_dict().items()}

    def evaluate(split: str, sites: list[str]) -> None:
        network.load_state_dict(weights)
        network.eval()
        for site in sites:
            for case in getattr(data[site], split):
                with torch.no_grad():
                    found = network(case.images).softmax(1).max(1).indices
                names = ("dice",) if split == "val" else SEGMENTATION
                case_scores(found, case.labels, job.scenario.task.classes, case.spacing, names)

    evaluate("test", timeline.sites)
    for stage, cohort in enumerate(timeline.stages):
        for round_ in range(timeline.rounds * stage + 1, timeline.rounds * (stage + 1) + 1):
            mean = {k: torch.zeros(v.shape, dtype=torch.float64) for k, v in weights.items()}
            total = sum(len(stacks[site][0]) for site in cohort)
            for site in cohort:
                images, labels = stacks[site]
                network.load_state_dict(weights)
                network.train()
                lr = job.learner.rate(stage)
                optimiser = torch.optim.Adam(network.parameters(), lr, fused=True)
                with seeded("train", job.seed, site, stage, round_):
                    rng = torch_rng("batches", job.seed, site, stage, round_)
                    for _ in range(job.learner.epochs):
                        for index in torch.randperm(len(images), generator=rng).split(
                            job.learner.batch_size
                        ):
                            loss = segmentation_loss(network(images[index]), labels[index])
                            optimiser.zero_grad()
                            loss.backward()
                            optimiser.step()
                for key, value in network.state_dict().items():
                    mean[key] += value.double() * (len(images) / total)
            weights = {k: v.to(weights[k].dtype) for k, v in mean.items()}
            evaluate("val", list(cohort))
        evaluate("test", timeline.sites)
    return arrays.digest({k: v.numpy() for k, v in weights.items()})


def against_bare_loop(rounds: int, repeats: int) -> None:
    """Print the ratio of an in-process run to the bare loop."""
    torch.set_num_threads(1)
    values = compose(
        [
            "strategy=finetune",
            "engine=inprocess",
            "tracking.enabled=false",
            f"timeline.rounds={rounds}",
        ]
    )
    config = Config.parse(values)
    config.job.network("unet", [])(torch.zeros(1, 1, 64, 64))  # warm up
    ratios = []
    for number in range(repeats):
        began = time.perf_counter()
        alone = bare(config)
        between = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            results = simulation.simulate(values, Path(folder) / "run")
        ended = time.perf_counter()
        assert results.weights_sha256 == alone, "the two did not do the same"
        ratios.append((ended - between) / (between - began))
        print(
            f"  {number + 1}: bare {between - began:6.2f} s   fedcl {ended - between:6.2f} s"
            f"   ratio {ratios[-1]:.3f}"
        )
    print(f"in-process run / bare loop, {rounds} rounds per stage, same weights bit for bit:")
    print(f"  median of {repeats}: {statistics.median(ratios):.3f} (target: at most 1.10)")


idle = ClientApp()


@idle.train()
def do_nothing(message: Message, context: Context) -> Message:
    """Send the arrays back."""
    content = {
        "arrays": message.content["arrays"],
        "metrics": MetricRecord({"num-examples": 1}),
    }
    return Message(RecordDict(content), reply_to=message)


def rounds_of_nothing(grid: Grid, clients: int, rounds: int, size: int) -> list[float]:
    """Run Flower's FedAvg over `clients` idle nodes; return the seconds of each round."""
    ends: list[float] = []

    def note(round_: int, _: ArrayRecord) -> None:
        ends.append(time.perf_counter())

    strategy = FedAvg(fraction_evaluate=0.0, min_train_nodes=clients, min_available_nodes=clients)
    weights = ArrayRecord({"w": Array(np.ones(size, np.float32))})
    strategy.start(grid, weights, num_rounds=rounds, evaluate_fn=note)
    return [after - before for before, after in itertools.pairwise(ends)]


def on_raygrid(clients: int, rounds: int, size: int, cpus: int) -> float:
    """Return the median seconds per round on RayGrid."""
    nodes = [{"site": f"S{number}"} for number in range(clients)]
    with closing(RayGrid("benchmarks.overhead:idle", nodes, workers=cpus)) as grid:
        return statistics.median(rounds_of_nothing(grid, clients, rounds, size))


def on_flower(clients: int, rounds: int, size: int) -> float:
    """Return the median seconds per round on Flower's own simulation."""
    times: list[float] = []
    server = ServerApp()

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        times.extend(rounds_of_nothing(grid, clients, rounds, size))

    run_simulation(
        server_app=server,
        client_app=idle,
        num_supernodes=clients,
        backend_config={
            "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
            "init_args": {"address": "local", "include_dashboard": False, "log_to_driver": False},
        },
    )
    return statistics.median(times)


def against_flower(counts: list[int], rounds: int, size: int) -> None:
    """Print the cost of a round of idle clients on both engines."""
    cpus = os.cpu_count() or 1
    print(f"a round of do-nothing clients on {cpus} workers, median of {rounds}:")
    print("  clients   RayGrid   Flower run_simulation   ratio (target: at most 0.33)")
    for clients in counts:
        ours = on_raygrid(clients, rounds, size, cpus)
        theirs = on_flower(clients, rounds, size)
        print(f"  {clients:7d}  {ours:7.3f} s   {theirs:17.3f} s   {ours / theirs:.2f}")


def main() -> None:
    """Read the command line and run both parts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=8, help="per stage, in part 1")
    parser.add_argument("--repeats", type=int, default=5, help="pairs, in part 1")
    parser.add_argument("--clients", type=int, nargs="*", default=[6, 50, 200])
    parser.add_argument("--floats", type=int, default=10, help="weights sent, in part 2")
    options = parser.parse_args()
    logging.getLogger("flwr").handlers.clear()
    against_bare_loop(options.rounds, options.repeats)
    against_flower(options.clients, max(5, options.repeats), options.floats)


if __name__ == "__main__":
    main()
