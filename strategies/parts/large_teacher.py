"""Strategies whose teacher may be of another architecture than the student."""

from dataclasses import dataclass, replace
from pathlib import Path

from fedcl.errors import ConfigError
from fedcl.learning.strategy import LARGEST, Teaching
from fedcl.settings import setting
from strategies.parts.distillation import Distilling, Teacher


@dataclass
class LargeTeacher(Teacher):
    """Which model teaches: as for other strategies, but of one architecture for all sites.

    Sites of other architectures are taught as soon as there is a teacher: by refresh "round" or
    "ema" from the second round on, by "stage" from the second stage on, and always by a file.

    Attributes:
        model: the architecture, by its name in `models` or of a model; null is the largest.
        file: safetensors of one trained before, which then teaches in all stages.
        peers: whether sites of its own architecture are taught as well, from the second stage
            on, so that the large model keeps what it knew of earlier sites.
    """

    model: str | None = None
    file: str | None = setting(None, travels=False)
    peers: bool = True

    def __post_init__(self) -> None:
        """Check that nothing is asked for that a file makes void, nor what nothing would use."""
        super().__post_init__()
        if self.file is not None and self.refresh != "stage":
            raise ConfigError(
                f"strategy.teacher.refresh: {self.refresh}, but a teacher from a file stays as it "
                "is; leave one of the two out"
            )


@dataclass
class DistillingLarge(Distilling):
    """A distilling strategy whose teacher is, by default, the largest of the run's networks."""

    teacher: LargeTeacher = setting(factory=LargeTeacher)

    @property
    def teaching(self) -> Teaching:
        """See `Strategy.teaching`."""
        return replace(
            super().teaching,
            architecture=self.teacher.model or LARGEST,
            peers=self.teacher.peers,
            file=Path(self.teacher.file) if self.teacher.file else None,
        )
