"""What the server tells those who watch a run."""

from dataclasses import dataclass
from typing import Protocol

from fedcl.config.schema import Config
from fedcl.server.state import State
from fedcl.wire.messages import Hello


@dataclass(frozen=True)
class Round:
    """What one round showed.

    Attributes:
        stage: counted from 0.
        number: counted from 1 over all stages.
        cohort: the sites whose data were trained on.
        losses: mean loss terms per site that delivered.
        validation: mean score of the validation cases, per site of the cohort.
    """

    stage: int
    number: int
    cohort: list[str]
    losses: dict[str, dict[str, float]]
    validation: dict[str, float]


class Watcher(Protocol):
    """Something that is told how a run goes: a progress display, MLflow."""

    def started(self, config: Config, state: State, about: dict[str, Hello]) -> None:
        """The hospitals have answered; `state` is new or resumed."""

    def round_began(self, stage: int, number: int, cohort: list[str]) -> None:
        """The sites of `cohort` have been asked to train round `number` of the run."""

    def round_done(self, done: Round, state: State) -> None:
        """A round is over; told again if the run is resumed from before it was saved."""

    def stage_done(self, config: Config, state: State) -> None:
        """Every site was evaluated after a stage; told again as `round_done` is."""
