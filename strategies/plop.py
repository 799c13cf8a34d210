"""PLOP: pooled features stay where they were, and sure old answers fill what is not marked."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from fedcl.errors import ConfigError
from fedcl.learning.hooks import SiteSummary
from fedcl.learning.step import Step
from fedcl.learning.strategy import Requirements
from fedcl.settings import setting
from fedcl.tasks.segmentation import Segmentation
from strategies.parts.distillation import Distilling

BINS = 1000  # of entropies, in which quantiles are found


@dataclass
class PLOP(Distilling):
    """PLOP (Douillard et al., CVPR 2021): L = L_seg(pseudo-labels) + pod * L_pod.

    - L_pod ("local POD"), mean over scales: the squared distance between the student's and the
      teacher's embedding of a feature map; that joins, for every number s of windows, the map
      averaged over s windows along each axis by itself, and is scaled to length 1.
    - Pseudo-labels: what a site does not mark (scenario.unmarked) takes the teacher's class where
      its answer's entropy, a share of the largest possible, is below a threshold: `entropy` or, if
      larger, the quantile `surest` of those with which it answers that class on the site's images.

    Attributes:
        pod: weight of the feature term.
        windows: numbers of windows, 1 being the whole map.
        surest: share of the teacher's answers of a class that become labels, by default half.
        entropy: what counts as sure in any case; with `surest=0`, 0 for no pseudo-labels.
    """

    losses = ("pod",)
    corrects = True
    pod: float = setting(0.3, low=0)
    windows: list[int] = setting(factory=lambda: [1, 2, 4], low=1)
    surest: float = setting(0.5, low=0, high=1)
    entropy: float = setting(0.001, low=0, high=1)

    def __post_init__(self) -> None:
        """Check the windows."""
        if not self.windows:
            raise ConfigError("strategy.windows: at least one number of windows needed, got []")

    @property
    def requirements(self) -> Requirements:
        """Features, which are compared."""
        return replace(super().requirements, features=True)

    def recall(self, summary: SiteSummary) -> Mapping[str, Tensor]:
        """Return the thresholds, "doubt" (K,), where there is something to fill in."""
        task = summary.task
        if summary.teacher is None or not task.candidates:
            return summary.memory
        counts = torch.zeros(task.classes * BINS, dtype=torch.int64, device=summary.samples.device)
        for part in summary.samples.parts():
            found, doubt = decided(task.answers(summary.teacher, part.inputs))
            place = found * BINS + (doubt * BINS).long().clamp(max=BINS - 1)
            place = place[possible(part.targets, found, task)]
            counts += torch.bincount(place, minlength=len(counts))
        edges = np.linspace(0, 1, BINS + 1)
        doubts = [
            np.interp(sure, np.cumsum([0, *row]), edges) if (sure := self.surest * row.sum()) else 0
            for row in counts.view(-1, BINS).cpu().numpy()
        ]
        return {"doubt": torch.tensor(doubts).to(part.inputs).clamp_min(self.entropy)}

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
        """Return the labels, with the teacher's where it is sure, shape (B, 1, ...)."""
        assert isinstance(step.task, Segmentation)
        if not step.task.candidates:
            return step.targets
        found, doubt = decided(step.teacher_answers)
        sure = doubt < step.memory["doubt"][found]
        return torch.where(sure & possible(step.targets, found, step.task), found, step.targets)

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


def decided(q: Tensor) -> tuple[Tensor, Tensor]:
    """Return class and entropy, as a share of log K, of answers (B, K, ...), both (B, 1, ...)."""
    entropy = -(q * torch.log(q.clamp_min(1e-12))).sum(dim=1, keepdim=True)
    return q.argmax(dim=1, keepdim=True), entropy / math.log(q.shape[1])


def possible(targets: Tensor, found: Tensor, task: Segmentation) -> Tensor:
    """Return where classes `found` are candidates for what is not marked; all (B, 1, ...)."""
    may = torch.zeros_like(targets, dtype=torch.bool)
    for number, classes in enumerate(task.candidates, start=1):
        may |= (targets == -number) & torch.isin(found, torch.tensor(classes).to(found))
    return may
