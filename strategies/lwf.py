"""Learning without forgetting: the old model's answers on the new images."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from fedcl.learning.step import Step
from fedcl.settings import setting
from strategies.parts.distillation import Distilling, soft_cross_entropy


@dataclass
class LwF(Distilling):
    """LwF (Li & Hoiem, TPAMI 2018) for segmentation: L = L_seg + kd * CE(q, p).

    q are the teacher's probabilities on the new site's images, p the student's.

    Attributes:
        kd: weight of the distillation term.
    """

    losses: ClassVar[tuple[str, ...]] = ("kd",)

    kd: float = setting(1.0, low=0)

    def distil(self, step: Step) -> dict[str, Tensor]:
        """Return the distillation term."""
        return {"kd": self.kd * soft_cross_entropy(step.outputs, step.teacher_answers)}
