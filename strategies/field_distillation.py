"""Continual neural fields: the old field answers for the old coordinates."""

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from fedcl.arrays import of_network, under
from fedcl.errors import ConfigError
from fedcl.field import Field
from fedcl.settings import setting
from strategies.base import Arrays, Distilling, Past, Step

ALIGNED = 10.0  # weight of the old outputs where the new ones have the same coordinates


@dataclass
class FieldDistillation(Distilling):
    """Visser & Wolterink, arXiv 2511.21409: L = L_fit + weight * mean |f(c) - f_teacher(c)|^2.

    The coordinates c are drawn on the grid of all earlier sites; where these are the site's
    own coordinates (new outputs of an old image), one pass serves both terms. No old value is
    kept: the teacher's are computed once per stage.

    Attributes:
        weight: "auto" is the number of old coordinates per new one, or 10 where they are the
            same; or a number.
        bank: whether the field of every stage goes on answering for that stage's coordinates,
            so that errors do not add up from teacher to teacher.
        frozen: whether all but tables and latents is fixed after the first stage.
    """

    needs: ClassVar[type] = Field

    weight: Any = "auto"
    bank: bool = setting(False)
    frozen: bool = setting(False)

    def __post_init__(self) -> None:
        """Check the weight, which is a word or a number."""
        number = isinstance(self.weight, int | float) and not isinstance(self.weight, bool)
        if self.weight != "auto" and not (number and 0 <= self.weight < 1e6):
            raise ConfigError(
                f"strategy.weight: must be auto or a number from 0, got {self.weight!r}"
            )

    def distil(self, step: Step) -> dict[str, Tensor]:
        """Return the term on old coordinates."""
        past = step.past
        assert past is not None, "a field knows the coordinates of others"
        if past.aligned and step.index is not None:
            index, outputs = step.index, step.outputs
        else:
            index = step.draw(len(past.samples))
            outputs = step.student(past.samples.inputs[index])
        weight = self.weight
        if weight == "auto":
            weight = ALIGNED if past.aligned else past.ratio
        return {"old": weight * step.task.loss(outputs, past.samples.targets[index])}

    def remember(self, past: Past) -> Arrays:
        """Return the fields of all stages so far, "STAGE/...", if they are banked."""
        if not self.bank:
            return {}
        new = {f"{past.stage}/{key}": value for key, value in of_network(past.network).items()}
        return past.memory | new

    def teachers(self, memory: Arrays, stages: int) -> list[Arrays]:
        """Return the field of every earlier stage, if they are banked."""
        return [under(f"{stage}/", memory) for stage in range(stages)] if self.bank else []

    def fixed(self, network: nn.Module, stage: int) -> set[str]:
        """Return the weights of the network proper, once the first stage is over."""
        if not self.frozen or stage == 0:
            return set()
        return {name for name, _ in network.named_parameters()} - {"table", "latent"}
