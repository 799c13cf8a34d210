"""Two hundred random plans of faults on tiny runs: does every run end as it should?

`python -m benchmarks.fault_plans` plays them and writes a section of `benchmarks/RESULTS.md`.
A plan is drawn from its number: strategy, aggregation, quorum, faults and their chances.
"""

import logging
import random
import tempfile
from collections import Counter
from copy import deepcopy
from functools import lru_cache
from pathlib import Path
from typing import Any

import fedcl  # noqa: F401  isort: skip  (sets the environment)

import numpy as np
from rich.progress import track

from benchmarks.running import write_section
from fedcl.app.simulation import FAULTY, nodes_of
from fedcl.config.faults import KINDS
from fedcl.config.hydra import compose
from fedcl.config.schema import Config
from fedcl.effort import Clock
from fedcl.errors import RunError
from fedcl.server.checkpoint import Checkpoint
from fedcl.server.outcome import outcome
from fedcl.server.run import Server
from fedcl.wire.local_grid import InProcessGrid

PLANS = 200
SMALL = (
    "tracking.enabled=false", "scenario.size=32", "scenario.patients=6", "scenario.slices=2",
    "model.channels=[2,4]", "timeline.stages=[[A,B,C],[D,E]]", "timeline.rounds=2",
    "learner.steps=1", "engine=inprocess",
)  # fmt: skip
TEXT = """## fault plans

{plans} random plans of faults (crash, hang, not finite, another shape, the other sign, too far,
stragglers, sites away), each on a run of five hospitals, two stages and four rounds, with a random
strategy, aggregation and quorum. A run that failed, always with a reason of one line, was gone on
with from its checkpoint. No global model was ever not finite.

{table}

Regenerate with `python -m benchmarks.fault_plans`.
"""


@lru_cache(maxsize=32)
def _base(*overrides: str) -> dict[str, Any]:
    """Return a configuration; composing it takes longer than to play a plan."""
    return compose([*SMALL, *overrides])


def drawn(number: int) -> dict[str, Any]:
    """Return the configuration of a plan."""
    rng = random.Random(number)
    strategy = rng.choice(["finetune", "ted", "ewc", "fedbn", "replay", "individual"])
    needs = ["model.norm=batch"] if strategy == "fedbn" else []
    rule = rng.choice(["fedavg", "fedavg", "median"])
    values = deepcopy(_base(f"strategy={strategy}", *needs, f"aggregation={rule}"))
    values["seed"] = values["scenario"]["seed"] = rng.randrange(3)
    values["engine"] |= {
        "quorum": rng.choice([0.3, 0.5, 2]),
        "norm_bound": rng.choice([None, 2.0]),
    }
    values["timeline"] |= {
        "stragglers": rng.choice([0, 0.2]),
        "dropout": rng.choice([0, 0.3]),
    }
    for kind in rng.sample(KINDS, rng.randint(1, 4)):
        some = {site: rng.uniform(0, 0.15) for site in "ABCDE" if rng.random() < 0.7}
        values["faults"][kind] = rng.choice([rng.uniform(0, 0.15), some])
    values["faults"]["factor"] = rng.choice([-3.0, 10.0, 1e30, 1e39])
    return values


def lethal(number: int) -> bool:
    """Return whether an update may be finite and so long that no network survives it."""
    faults = drawn(number)["faults"]
    return faults["factor"] == 1e30 and bool(faults["scale"])


def play(number: int, folder: Path) -> list[str]:
    """Run a plan, and again from its checkpoint while it fails; return how each run ended.

    Raises:
        AssertionError: it did not end as it should.
    """
    config = Config.parse(drawn(number))
    checkpoint, ends = Checkpoint(folder / "checkpoint"), []
    for _ in range(3 if lethal(number) else 60):
        grid = InProcessGrid(FAULTY, list(nodes_of(config, folder).values()))
        server = Server(grid, config, checkpoint, checkpoint.load())
        try:
            server.run(server.meet(), Clock())
        except RunError as error:
            assert str(error) and "\n" not in str(error)
            ends.append("failed")
        else:
            done = outcome(config, server.state).values()
            assert done["rounds"] == 4 and len(done["matrix"]) == 2
            ends.append("completed")
        state = checkpoint.load()
        assert state is not None
        for array in state.weights.values():
            assert np.isfinite(array).all()
        if ends[-1] == "completed":
            break
    return ends


def main() -> None:
    """Play all plans and write the section."""
    for name in ("fedcl", "flwr"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    counts: Counter[str] = Counter()
    for number in track(range(PLANS), "plans"):
        with tempfile.TemporaryDirectory() as folder:
            ends = play(number, Path(folder))
        if ends[-1] == "completed":
            counts["completed" if len(ends) == 1 else "failed, gone on with, completed"] += 1
        else:
            assert lethal(number), f"plan {number} does not come to its end"
            counts["failed again and again: an update 1e30 times too long had been averaged"] += 1
    table = [f"| {how} | {count} |" for how, count in sorted(counts.items())]
    text = "\n".join(["| how it ended | plans |", "| --- | --- |", *table])
    write_section("fault plans", TEXT.format(plans=PLANS, table=text))


if __name__ == "__main__":
    main()
