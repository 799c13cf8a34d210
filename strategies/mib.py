"""MiB: distillation that knows what "background" meant to whom."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fedcl.errors import ConfigError, RunError
from fedcl.learning.step import Step
from fedcl.settings import setting
from fedcl.tasks.segmentation import Segmentation
from strategies.lwf import LwF
from strategies.parts.distillation import soft_cross_entropy


@dataclass
class MiB(LwF):
    """MiB (Cermelli et al., CVPR 2020): unbiased L_seg + kd * unbiased CE(q, p).

    - New sites do not mark the classes `unlabelled`: to them those are background, so in
      L_seg their probability counts as background's.
    - The teacher does not know the classes `added`: in the distillation their probability
      counts as background's.

    Both terms correct for classes that come over time. Where every site marks all classes,
    as in a change of scanner, both lists are empty and MiB is LwF, exactly.

    Attributes:
        unlabelled: classes that sites after the first stage leave unmarked.
        added: classes that the first stage does not have.
    """

    unlabelled: list[int] = setting(factory=list, low=1)
    added: list[int] = setting(factory=list, low=1)

    def objective(self, step: Step) -> dict[str, Tensor]:
        """Return both unbiased terms."""
        if step.teacher is None:
            return super().objective(step)
        if (
            self.unlabelled
            and torch.isin(
                step.targets, torch.tensor(self.unlabelled, device=step.targets.device)
            ).any()
        ):
            raise RunError(f"a site marks classes of strategy.unlabelled ({self.unlabelled})")
        seen = as_background(step.outputs, self.unlabelled)
        known = as_background(step.outputs, self.added)
        return {
            "seg": step.task.loss(seen, step.targets),
            "kd": self.kd * soft_cross_entropy(known, self.answers(step.teacher_answers)),
        }

    def answers(self, q: Tensor) -> Tensor:
        """Return the teacher's probabilities, those of classes it does not know background's."""
        if not self.added:
            return q
        merged = q.clone()
        merged[:, 0] += merged[:, self.added].sum(dim=1)
        merged[:, self.added] = 0
        return merged

    def check(self, task: Segmentation, model: Any) -> None:
        """See `Strategy.check`."""
        for key, listed in (("unlabelled", self.unlabelled), ("added", self.added)):
            if len(set(listed)) < len(listed) or any(c >= task.classes for c in listed):
                raise ConfigError(
                    f"strategy.{key}: must be different classes below {task.classes}, got {listed}"
                )


def as_background(logits: Tensor, classes: list[int]) -> Tensor:
    """Return logits by which background has taken over the probability of `classes`.

    Args:
        logits: shape (B, K, H, W), background first.
        classes: of them, without 0.
    """
    if not classes:
        return logits
    merged = logits.clone()
    merged[:, 0] = torch.logsumexp(logits[:, [0, *classes]], dim=1)
    merged[:, classes] = -1e4  # probability 0, and finite where it is multiplied by 0
    return merged
