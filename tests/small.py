"""Networks and steps small enough to reckon by hand."""

import math

import torch
from torch import nn

from fedcl.learning.step import Step
from fedcl.learning.strategy import Strategy
from fedcl.models.base import Layers, Model
from fedcl.registry import STRATEGY
from fedcl.tasks.segmentation import Segmentation

TASK = Segmentation(1, 2)


class Fixed(nn.Module):
    """A network that answers the logits it was given, whatever it is shown."""

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits)
        self.shown: list[torch.Tensor] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.shown.append(x)
        return self.logits.expand(len(x), -1, -1, -1)


class Whole(Model):
    """A model whose only features are the network's outputs."""

    def watched(self, network: nn.Module) -> Layers:
        return Layers(bottleneck=[network])


def logits(*probabilities: float) -> torch.Tensor:
    """Two-class logits of one row of pixels, given the probability of class 1 of each."""
    p = torch.tensor(probabilities)
    return torch.stack([torch.log(1 - p), torch.log(p)]).reshape(1, 2, 1, -1)


def step(
    student: torch.Tensor, teacher: torch.Tensor | None, /, batch: int = 1, **more: object
) -> Step:
    """Return a step over empty images with networks that answer these logits."""
    width = student.shape[-1]
    network = Fixed(student)
    start = {name: value.detach().clone() for name, value in network.named_parameters()}
    given = dict(
        task=TASK,
        inputs=torch.zeros(batch, 1, 1, width),
        targets=torch.zeros(batch, 1, 1, width, dtype=torch.int64),
        student=network,
        teacher=None if teacher is None else Fixed(teacher),
        rng=torch.Generator().manual_seed(0),
        start=start,
    )
    return Step(**(given | more))


def ce(q: float, p: float) -> float:
    """CE(q, p) of one pixel with two classes."""
    return -(1 - q) * math.log(1 - p) - q * math.log(p)


def make(name: str, **settings: object) -> Strategy:
    return STRATEGY.make({"name": name, **settings})
