"""Distillation where the teacher is sure."""

from dataclasses import dataclass

from torch import Tensor

from fedcl.learning.step import Step
from fedcl.settings import setting
from strategies.lwf import LwF


@dataclass
class Sure(LwF):
    """LwF at the pixels whose likeliest class has at least a given probability.

    Attributes:
        least: that probability.
    """

    least: float = setting(0.9, low=0.5, high=1)

    def distil(self, step: Step) -> dict[str, Tensor]:
        """Return the distillation term."""
        taught = step.teacher_answers
        sure = (taught.amax(dim=1) >= self.least).float()
        apart = -(taught * step.outputs.log_softmax(dim=1)).sum(dim=1)
        return {"kd": self.kd * (sure * apart).mean()}
