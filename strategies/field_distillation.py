"""Continual neural fields: the old field answers for the old coordinates."""

from dataclasses import dataclass, replace

from torch import Tensor, nn

from fedcl.errors import ConfigError
from fedcl.learning.step import Step
from fedcl.learning.strategy import Partition, Requirements, Teaching
from fedcl.models.base import OWN, FieldModel
from fedcl.settings import setting
from fedcl.tasks.field import Field
from strategies.parts.distillation import Distilling

SIGNAL = 10.0  # weight of the old outputs where new ones come, but no new coordinates


@dataclass
class FieldDistillation(Distilling):
    """Visser & Wolterink, arXiv 2511.21409: L = L_fit + weight * mean |f(c) - f_teacher(c)|^2.

    The coordinates c are drawn on the grid of all earlier sites; where these are the site's
    own coordinates (new outputs of an old image), one pass serves both terms. Where only some are
    (the mask of one frame of a cine), the old outputs are distilled there as well, beside the new
    ones: that frame takes all of the new loss, and few of the coordinates drawn lie in it. No old
    value is kept: the teacher's are computed once per stage.

    Attributes:
        weight: null is the number of old coordinates per new one, or 10 where none is new.
        here: weight of the old outputs at those of the site's own coordinates that are old, where
            not all of them are.
        bank: whether the field of every stage goes on answering for that stage's coordinates,
            so that errors do not add up from teacher to teacher.
        frozen: whether all but tables and latents is fixed after the first stage; of a DINER
            that leaves little more than a look-up table.
    """

    losses = ("old", "here")

    weight: float | None = setting(None, low=0, high=1e6)
    here: float = setting(2.0, low=0, high=1e6)
    bank: bool = setting(False)
    frozen: bool = setting(False)

    @property
    def requirements(self) -> Requirements:
        """See `Strategy.requirements`."""
        return Requirements(task=Field)

    @property
    def teaching(self) -> Teaching:
        """See `Strategy.teaching`."""
        return replace(super().teaching, bank=self.bank)

    def check(self, task: Field, model: FieldModel) -> None:
        """Check that there is something to distil, and something to train.

        Raises:
            ConfigError: patients differ from site to site, or all that is to learn is fixed.
        """
        if not task.shared and self.weight != 0:
            raise ConfigError(
                "strategy.weight: with scenario.shared=false earlier coordinates are those of "
                "other patients; give strategy.weight=0 or take strategy=finetune"
            )
        if self.frozen and (not model.own or len(task.names) > 1):
            raise ConfigError(
                "strategy.frozen: only tables and latents would be trained, and this model has "
                "none or new outputs are to come; take model=diner and scenario.masks=[]"
            )

    def distil(self, step: Step) -> dict[str, Tensor]:
        """Return the term on old coordinates."""
        past = step.past
        if self.weight == 0 or past is None:  # all that is old is at hand as well
            return {}
        automatic = SIGNAL if past.ratio is None else past.ratio
        weight = automatic if self.weight is None else self.weight
        if past.aligned and step.index is not None:
            targets = past.samples.targets[step.index]
            return {"old": weight * step.task.loss(step.outputs, targets)}
        index = step.draw(len(past.samples))
        outputs = step.student(past.samples.inputs[index])
        terms = {"old": weight * step.task.loss(outputs, past.samples.targets[index])}
        if past.here is not None and step.index is not None:
            terms["here"] = self.here * step.task.loss(step.outputs, past.here[step.index])
        return terms

    def partition(self, network: nn.Module, stage: int) -> Partition:
        """Freeze the weights of the network proper, once the first stage is over."""
        names = {name for name, _ in network.named_parameters()} if self.frozen and stage else set()
        return Partition(frozen=frozenset(names - OWN))
