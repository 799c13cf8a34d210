"""Data of one's own in a layout of one's own: `python examples/own_data.py`.

The layout is `examples/plugins/sites/rings.py`. For images and masks in the usual formats nothing
has to be written: see `scenario=folder`.
"""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

sys.path.insert(0, str(Path(__file__).parent / "plugins"))

from fedcl.app.simulation import simulate
from fedcl.config.hydra import compose

RUN = [
    "engine=inprocess", "tracking.enabled=false", "run.figures=false", "strategy=lwf",
    "model.channels=[8,16]", "timeline.rounds=2", "learner.steps=20",
]  # fmt: skip


def write(root: Path) -> None:
    """Write two hospitals with eight patients each, whose rings are bright and dark."""
    y, x = np.mgrid[:32, :32] - 16.0
    for site, contrast in (("bright", 2.0), ("dark", -2.0)):
        (root / site).mkdir(parents=True)
        for number in range(8):
            rng = np.random.default_rng([number, site == "dark"])
            distance = np.hypot(y - rng.integers(-4, 5), x - rng.integers(-4, 5))
            mask = np.stack([(distance > 4) & (distance < 9)] * 3)
            image = contrast * mask + rng.normal(0, 0.5, mask.shape)
            np.savez(root / site / f"patient{number}.npz", image=image, mask=mask)


if __name__ == "__main__":
    with TemporaryDirectory() as folder:
        write(Path(folder) / "data")
        values = compose([*RUN, "scenario=rings", f"scenario.root={folder}/data"])
        results = simulate(values, Path(folder) / "run")
        for stage, row in enumerate(results.matrix, start=1):
            scores = zip(results.sites, row, strict=True)
            told = ", ".join(f"{site} {score:.3f}" for site, score in scores)
            print(f"Dice after stage {stage}: {told}")
