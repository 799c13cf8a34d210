"""What a server has at the end of a stage, small enough to reckon by hand."""

from typing import Any

import torch
from torch import nn

from fedcl.learning.strategy import StageSummary
from fedcl.tasks.segmentation import Segmentation


def past(network: nn.Module, **more: Any) -> StageSummary:
    given = dict(
        task=Segmentation(1, 2),
        stage=0,
        network=network,
        shape=(1, 4, 4),
        memory={},
        reports={},
        samples={},
        rng=torch.Generator().manual_seed(0),
    )
    return StageSummary(**(given | more))


class Line(nn.Module):
    """Logits (0, a x + b) of every pixel x."""

    def __init__(self, a: float = 0.5, b: float = 0.0) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(torch.tensor(a)), nn.Parameter(torch.tensor(b))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([torch.zeros_like(x), self.a * x + self.b], dim=1)
