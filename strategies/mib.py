"""MiB: distillation that knows what "background" meant to whom."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fedcl.errors import ConfigError, RunError
from fedcl.learning.step import Step
from fedcl.models.base import Model
from fedcl.settings import setting
from fedcl.tasks.segmentation import Segmentation
from strategies.lwf import LwF
from strategies.parts.distillation import judged_once, soft_cross_entropy


@dataclass
class MiB(LwF):
    """MiB (Cermelli et al., CVPR 2020): unbiased L_seg + kd * unbiased CE(q, p).

    - A site does not mark some classes: to it those are background, so in L_seg their
      probability counts as background's.
    - The teacher does not know some classes: in the distillation their probability counts as
      background's.

    Both terms correct for classes that come over time. Which they are follows from
    scenario.unmarked: what the site does not mark, and what no site that the teacher has learned
    from marks. Where every site marks all classes, as in a change of scanner, there are none and
    MiB is LwF, exactly.

    Attributes:
        unlabelled: classes that sites after the first stage leave unmarked, where the scenario
            does not say it.
        added: classes that the first stage does not have, likewise.
    """

    corrects = True

    unlabelled: list[int] = setting(factory=list, low=1)
    added: list[int] = setting(factory=list, low=1)

    def objective(self, step: Step) -> dict[str, Tensor]:
        """Return both unbiased terms."""
        if step.teacher is None:
            return super().objective(step)
        assert isinstance(step.task, Segmentation)
        if (
            self.unlabelled
            and torch.isin(
                step.targets, torch.tensor(self.unlabelled, device=step.targets.device)
            ).any()
        ):
            raise RunError(f"a site marks classes of strategy.unlabelled ({self.unlabelled})")
        seen = as_background(step.outputs, self.unlabelled)
        added = self.added or step.task.unknown(step.taught)
        known, answers = as_background(step.outputs, added), merged(step.teacher_answers, added)
        return {
            "seg": replace(step.task, naive=False).loss(seen, step.targets),
            "kd": self.kd * soft_cross_entropy(known, answers),
        }

    def check(self, task: Segmentation, model: Model) -> None:
        """See `Strategy.check`."""
        if task.candidates and task.form != "dice_ce":
            raise ConfigError(
                f"scenario.loss: there is no unbiased {task.form} for classes that are not marked; "
                "take dice_ce"
            )
        for key, listed in (("unlabelled", self.unlabelled), ("added", self.added)):
            if listed and task.candidates:
                raise ConfigError(f"strategy.{key}: scenario.unmarked says it already; take []")
            if len(set(listed)) < len(listed) or any(c >= task.classes for c in listed):
                raise ConfigError(
                    f"strategy.{key}: must be different classes below {task.classes}, got {listed}"
                )
        super().check(task, model)
        if self.unlabelled:
            judged_once(model)


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


def merged(q: Tensor, classes: list[int]) -> Tensor:
    """Return probabilities, those of `classes` background's; see `as_background`."""
    if not classes:
        return q
    answers = q.clone()
    answers[:, 0] += answers[:, classes].sum(dim=1)
    answers[:, classes] = 0
    return answers
