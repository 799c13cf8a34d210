"""Networks made without fedcl, and what a run begins with that is given a file of their weights."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.networks.nets import UNet
from torch import Tensor

from fedcl.app.simulation import APP, nodes_of
from fedcl.arrays import Arrays
from fedcl.config.hydra import compose
from fedcl.config.schema import Config
from fedcl.server.architecture import architectures
from fedcl.server.begin import begun
from fedcl.server.checkpoint import Checkpoint
from fedcl.server.run import Server
from fedcl.wire.local_grid import InProcessGrid
from tests.conftest import TINY

SHORT = [
    *TINY, "timeline.rounds=1", "learner.steps=2", "timeline.stages=[[A],[B]]", "strategy=finetune",
]  # fmt: skip
"""Two hospitals, two stages of a round: half a second."""

Weights = dict[str, Tensor]


def unet(
    dims: int = 2, channels: int = 1, classes: int = 2, norm: str = "instance", seed: int = 7
) -> UNet:
    """Return the network of `SHORT`, built by MONAI alone, with weights of its own."""
    torch.manual_seed(seed)
    return UNet(
        spatial_dims=dims, in_channels=channels, out_channels=classes, channels=(4, 8),
        strides=(2,), num_res_units=1, norm=norm,
    )  # fmt: skip


def weights(**settings: Any) -> Weights:
    """Return the weights of such a network."""
    return dict(unet(**settings).state_dict())


def begin(*overrides: str, base: Sequence[str] = SHORT) -> tuple[Arrays, dict[str, Any]]:
    """Return what the one architecture of a run begins with, and what is told of it."""
    (one,) = architectures(Config.parse(compose([*base, *overrides])).job, ["A"]).values()
    return begun(one)


def same(found: Mapping[str, np.ndarray], wanted: Mapping[str, Tensor]) -> bool:
    """Return whether arrays are these, bit for bit and type by type."""
    return found.keys() == wanted.keys() and all(
        found[key].dtype == value.numpy().dtype
        and found[key].shape == tuple(value.shape)
        and found[key].tobytes() == value.numpy().tobytes()
        for key, value in wanted.items()
    )


def server(folder: Path, *overrides: str, grid: InProcessGrid | None = None) -> Server:
    """Return a server that has not begun."""
    settings = Config.parse(compose([*SHORT, *overrides]))
    grid = grid or InProcessGrid(APP, list(nodes_of(settings, folder).values()))
    return Server(grid, settings, Checkpoint(folder / "checkpoint"))
