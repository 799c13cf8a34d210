"""Three strategies compared from Python: `python examples/three_strategies.py`.

The same as `simulate.py -m strategy=finetune,lwf,joint`, with the numbers at hand. Half a minute.
"""

from pathlib import Path
from tempfile import TemporaryDirectory

from fedcl.app.simulation import simulate
from fedcl.config.hydra import compose

SMALL = [
    "engine=inprocess", "tracking.enabled=false", "run.figures=false",
    "scenario.size=32", "scenario.patients=8", "model.channels=[8,16]",
    "timeline.rounds=2", "learner.steps=20",
]  # fmt: skip

if __name__ == "__main__":
    print("strategy    AVG    BWT")
    with TemporaryDirectory() as folder:
        for strategy in ("finetune", "lwf", "joint"):
            values = compose([*SMALL, f"strategy={strategy}"])
            metrics = simulate(values, Path(folder) / strategy).metrics
            print(f"{strategy:10} {metrics['avg']:.3f} {metrics['bwt']:+.3f}")
