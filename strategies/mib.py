"""MiB: distillation that knows what "background" meant to whom."""

from dataclasses import dataclass, replace

from torch import Tensor

from fedcl.errors import ConfigError
from fedcl.learning.step import Step
from fedcl.models.base import Model
from fedcl.tasks.segmentation import Segmentation
from strategies.lwf import LwF
from strategies.parts.distillation import unbiased_cross_entropy


@dataclass
class MiB(LwF):
    """MiB (Cermelli et al., CVPR 2020): unbiased L_seg + kd * unbiased CE(q, p).

    - A site does not mark some classes: to it those are background, so in L_seg their
      probability counts as background's.
    - The teacher does not know some classes: in the distillation their probability counts as
      background's.

    Both terms correct for classes that come over time. Which they are scenario.unmarked says: what
    the site does not mark, and what no site that the teacher has learned from marks. Where every
    site marks all classes, as in a change of scanner, there are none and MiB is LwF, exactly.
    """

    corrects = True

    def objective(self, step: Step) -> dict[str, Tensor]:
        """Return both unbiased terms."""
        if step.teacher is None:
            return super().objective(step)
        assert isinstance(step.task, Segmentation)
        added = step.task.unknown(step.taught)
        return {
            "seg": replace(step.task, naive=False).loss(step.outputs, step.targets),
            "kd": self.kd * unbiased_cross_entropy(step.outputs, step.teacher_answers, added),
        }

    def check(self, task: Segmentation, model: Model) -> None:
        """See `Strategy.check`."""
        if task.candidates and task.form != "dice_ce":
            raise ConfigError(
                f"scenario.loss: there is no unbiased {task.form} for classes that are not marked; "
                "take dice_ce"
            )
        super().check(task, model)
