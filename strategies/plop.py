"""PLOP: pooled features stay where they were, and sure old answers fill the background."""

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from fedcl.errors import ConfigError
from fedcl.learning.step import Step
from fedcl.learning.strategy import Requirements
from fedcl.settings import setting
from strategies.parts.distillation import Distilling, filled


@dataclass
class PLOP(Distilling):
    """PLOP (Douillard et al., CVPR 2021): L = L_seg(pseudo-labels) + pod * L_pod.

    - L_pod ("local POD"), mean over the model's scales: the squared distance between the
      student's and the teacher's embedding of a feature map; the embedding joins, for every
      number s of windows, the map averaged over s windows along each axis by itself, and
      is scaled to length 1.
    - Pseudo-labels: background pixels take the teacher's class where the entropy of its
      answer is below `entropy`. They are meant for classes that the new site does not
      mark (scenario.unmarked), and then are of these or background; where it marks all of
      them, as in a change of scanner, they have little to do.

    Attributes:
        pod: weight of the feature term.
        windows: numbers of windows, 1 being the whole map.
        entropy: as a share of the largest possible, log K; 0 for no pseudo-labels.
    """

    losses, corrects = ("pod",), True
    pod: float = setting(0.3, low=0)
    windows: list[int] = setting(factory=lambda: [1, 2, 4], low=1)
    entropy: float = setting(0.001, low=0, high=1)

    def __post_init__(self) -> None:
        """Check the windows."""
        if not self.windows:
            raise ConfigError("strategy.windows: at least one number of windows needed, got []")

    @property
    def requirements(self) -> Requirements:
        """Features, which are compared."""
        return replace(super().requirements, features=True)

    def objective(self, step: Step) -> dict[str, Tensor]:
        """Return L_seg on pseudo-labels and L_pod."""
        if step.teacher is None:
            return super().objective(step)
        pairs = zip(step.activations.features, step.teacher_activations.features, strict=True)
        apart = [(self.embed(a) - self.embed(b)).square().sum(dim=1).mean() for a, b in pairs]
        return {
            "seg": step.task.loss(step.outputs, self.pseudo_labels(step)),
            "pod": self.pod * torch.stack(apart).mean(),
        }

    def pseudo_labels(self, step: Step) -> Tensor:
        """Return the labels, with the teacher's where it is sure, shape (B, 1, H, W)."""
        q = step.teacher_answers
        entropy = -(q * torch.log(q.clamp_min(1e-12))).sum(dim=1, keepdim=True)
        sure = entropy < self.entropy * math.log(q.shape[1])
        return filled(step.targets, q.argmax(dim=1, keepdim=True), sure, step.task)

    def embed(self, feature: Tensor) -> Tensor:
        """Return the embedding of a feature map (B, F, ...), shape (B, P)."""
        shape = feature.shape[2:]
        pool: Any = F.adaptive_avg_pool2d if len(shape) == 2 else F.adaptive_avg_pool3d
        parts = []
        for count in self.windows:
            for axis in reversed(range(len(shape))):
                size = [min(count, n) if a == axis else n for a, n in enumerate(shape)]
                parts.append(pool(feature, tuple(size)).flatten(1))
        return F.normalize(torch.cat(parts, dim=1), dim=1)
