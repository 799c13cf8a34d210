"""Elastic weight consolidation: weights that mattered are held where they were."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedcl.arrays import Arrays, weighted_mean
from fedcl.data.labels import IGNORED
from fedcl.data.samples import Samples
from fedcl.learning.step import Step
from fedcl.learning.strategy import Form, Reporting, Requirements, StageSummary, Strategy, Teaching
from fedcl.settings import setting
from fedcl.tasks.segmentation import Segmentation


@dataclass
class EWC(Strategy):
    """EWC (Kirkpatrick et al., PNAS 2017), in its online form (Schwarz et al., ICML 2018).

    L = L_seg + weight / 2 * sum_i F_i (w_i - w*_i)^2, w* the global model at the end of the
    previous stage. F is the diagonal of the empirical Fisher information: for every training
    slice the squared gradient of its cross-entropy with the true labels, averaged over
    slices, then over hospitals by their numbers of slices, and summed over stages. Each
    stage's F is scaled to mean 1 over all weights, so that `weight` means the same for every
    model and loss scale.

    Attributes:
        weight: weight of the penalty.
    """

    losses = ("penalty",)
    leaves = "how much every weight matters to its images, one number per weight"

    weight: float = setting(0.3, low=0)

    @property
    def requirements(self) -> Requirements:
        """See `Strategy.requirements`."""
        return Requirements(task=Segmentation)

    @property
    def teaching(self) -> Teaching:
        """The anchor w* travels as the teacher does."""
        return Teaching()

    def distil(self, step: Step) -> dict[str, Tensor]:
        """Return the penalty."""
        assert step.teacher is not None
        anchor = dict(step.teacher.named_parameters())
        parts = [
            (step.memory[name] * (value - anchor[name]).square()).sum()
            for name, value in step.student.named_parameters()
        ]
        return {"penalty": self.weight / 2 * torch.stack(parts).sum()}

    def reporting(self, network: nn.Module, task: Segmentation, shape: Sequence[int]) -> Reporting:
        """See `Strategy.reporting`."""
        named = network.named_parameters()
        return Reporting({name: Form(one.shape, low=0.0) for name, one in named}, self.importance)

    def importance(self, network: nn.Module, samples: Samples) -> Arrays:
        """Return the importance of every parameter: the mean over samples."""
        named = dict(network.named_parameters())
        sums = {name: torch.zeros_like(value) for name, value in named.items()}
        for number in range(len(samples)):
            one = samples[torch.tensor([number])]
            value = self.sensitivity(network(one.inputs), one.targets)
            gradients = torch.autograd.grad(value, list(named.values()), materialize_grads=True)
            for name, gradient in zip(named, gradients, strict=True):
                sums[name] += self.magnitude(gradient)
        return {name: (total / len(samples)).cpu().numpy() for name, total in sums.items()}

    def remember(self, summary: StageSummary) -> Arrays:
        """Return the importance summed over stages."""
        mean = weighted_mean(list(summary.reports.values()), list(summary.samples.values()))
        scale = float(np.mean(np.concatenate([value.ravel() for value in mean.values()])))
        new = {key: value / np.float32(scale or 1.0) for key, value in mean.items()}
        return {key: value + summary.memory.get(key, 0) for key, value in new.items()}

    def sensitivity(self, logits: Tensor, label: Tensor) -> Tensor:
        """Return the number whose gradient tells importance, for one sample."""
        label = label.where(label >= 0, IGNORED)  # a class that is not known says nothing
        if not (label != IGNORED).any():
            return 0 * logits.sum()
        return F.cross_entropy(logits, label.squeeze(1), ignore_index=IGNORED)

    def magnitude(self, gradient: Tensor) -> Tensor:
        """Return the importance that one sample's gradient gives."""
        return gradient.square()
