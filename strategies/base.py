"""What every strategy offers, to the server and to the hospital.

A strategy is one dataclass in one file: its fields are the settings of its YAML, its
methods say what differs from federated fine-tuning, which is what this base class does.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import torch
from monai.losses import DiceCELoss
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from fedcl.settings import setting
from fedcl.timeline import Timeline

segmentation_loss: Callable[[Tensor, Tensor], Tensor] = DiceCELoss(
    softmax=True, to_onehot_y=True, smooth_nr=1.0, smooth_dr=1.0
)


@dataclass
class Teacher:
    """Which model teaches; from the second stage on.

    Attributes:
        refresh: "stage", the global model at the end of the previous stage; "round", that
            of the previous round; "ema", an exponential moving average over rounds.
        decay: share of the old average kept per round ("ema").
    """

    refresh: str = setting("stage", choices=("stage", "round", "ema"))
    decay: float = setting(0.9, low=0, high=1)


@dataclass
class Step:
    """One training step as a strategy sees it.

    Attributes:
        images: float32, shape (B, C, H, W).
        labels: int64 class indices, shape (B, 1, H, W).
        student: the network being trained.
        teacher: the frozen teacher, or None where there is none yet.
        rng: the step's source of randomness.
        lookup: the teacher's probabilities on these images where they are cached.
    """

    images: Tensor
    labels: Tensor
    student: nn.Module
    teacher: nn.Module | None
    rng: torch.Generator
    lookup: Callable[[], Tensor] | None = None

    @cached_property
    def logits(self) -> Tensor:
        """The student's logits on the images, shape (B, K, H, W)."""
        return self.student(self.images)

    @cached_property
    def taught(self) -> Tensor:
        """The teacher's class probabilities on the images, shape (B, K, H, W)."""
        return self.lookup() if self.lookup else self.teach(self.images)

    def teach(self, inputs: Tensor) -> Tensor:
        """Return the teacher's class probabilities on `inputs`, without gradient."""
        assert self.teacher is not None
        return probabilities(self.teacher, inputs)

    def probe(self, inputs: Tensor) -> Tensor:
        """Return the student's logits on synthetic `inputs`.

        Batch normalisation uses the batch's own statistics, as in training, but its
        running statistics are left alone: they must describe images only.
        """
        with held_statistics(self.student):
            return self.student(inputs)

    def noise(self, mean: float, std: float) -> Tensor:
        """Draw Normal(mean, std) noise of the images' shape."""
        drawn = torch.randn(self.images.shape, generator=self.rng)
        return drawn.mul_(std).add_(mean).to(self.images.device)


@dataclass
class Strategy:
    """Federated fine-tuning, and the hooks by which a method departs from it."""

    # --- at the server ---------------------------------------------------------------

    def cohort(self, timeline: Timeline, stage: int) -> list[str]:
        """Return the sites that train in `stage`."""
        return timeline.participants(stage)

    def evaluated(self, timeline: Timeline, stage: int) -> list[str]:
        """Return the sites evaluated after `stage` (-1: before the first): all of them."""
        return timeline.sites

    @property
    def teaching(self) -> Teacher | None:
        """Which model teaches, or None for a method without a teacher."""
        return None

    def local(self, key: str) -> bool:
        """Return whether the weight array `key` stays at the hospital, never averaged."""
        return False

    # --- at the hospital -------------------------------------------------------------

    def objective(self, step: Step) -> dict[str, Tensor]:
        """Return the named loss terms of one step; their sum is minimised."""
        terms = {"seg": segmentation_loss(step.logits, step.labels)}
        if step.teacher is not None:
            terms |= self.distil(step)
        return terms

    def distil(self, step: Step) -> dict[str, Tensor]:
        """Return the named, weighted terms that keep the teacher's knowledge."""
        return {}


def soft_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """CE(q, p) = -sum_c q_c log p_c, mean over batch and pixels.

    Args:
        logits: shape (B, K, H, W); p = softmax over K.
        target: the probabilities q, same shape.
    """
    return F.cross_entropy(logits, target)


@torch.no_grad()
def probabilities(network: nn.Module, inputs: Tensor) -> Tensor:
    """Return softmax over classes of the network's logits, shape (B, K, H, W)."""
    return torch.softmax(network(inputs).float(), dim=1)


@contextmanager
def held_statistics(network: nn.Module) -> Iterator[None]:
    """Let batch-normalisation layers normalise by the batch without recording it."""
    layers = [m for m in network.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    for layer in layers:
        layer.track_running_stats = False
    try:
        yield
    finally:
        for layer in layers:
            layer.track_running_stats = True
