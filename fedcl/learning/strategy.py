"""What every strategy offers, to the server and to the hospital.

A strategy is one dataclass in one file: its fields are the settings of its YAML, its
methods say what differs from federated fine-tuning, which is what this base class does.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from fedcl.arrays import Arrays
from fedcl.contracts import guard
from fedcl.data.samples import Samples, Stacked
from fedcl.learning.hooks import (
    CHECKS,
    EARLY,
    LARGEST,
    OWN,
    Form,
    Partition,
    Plan,
    Reporting,
    Requirements,
    RoundSummary,
    SiteSummary,
    StageSummary,
    Teaching,
)
from fedcl.learning.step import DRIFT, Activations, Step, joined, named
from fedcl.models.base import Model
from fedcl.tasks.base import Task
from fedcl.timeline import Timeline

__all__ = [
    "LARGEST", "OWN", "Form", "Partition", "Plan", "Reporting", "Requirements", "RoundSummary",
    "SiteSummary", "StageSummary", "Strategy", "Teaching", "declared",
]  # fmt: skip


@dataclass
class Strategy:
    """Federated fine-tuning, and the hooks by which a method departs from it.

    Attributes:
        losses: names of the loss terms that `objective` and `distil` give besides the task's own;
            the server takes no others from hospitals.
        leaves: what leaves a site besides what the task names, in words; written into every run's
            results and into model cards. Where there is a `reporting`, it must be told.
    """

    losses: ClassVar[tuple[str, ...]] = ()
    leaves: ClassVar[str] = ""

    def __init_subclass__(cls) -> None:
        """Have what the hooks of a method return checked: a slip is told where it is made."""
        guard(cls, CHECKS, "strategy", EARLY)

    # --- before a run ----------------------------------------------------------------

    @property
    def requirements(self) -> Requirements:
        """What the method needs of a run."""
        return Requirements()

    @property
    def teaching(self) -> Teaching | None:
        """Which model teaches, or None for a method without a teacher."""
        return None

    def check(self, task: Any, model: Any) -> None:
        """Raise `ConfigError` where the settings do not fit.

        Args:
            task: one that it requires.
            model: an architecture of the run.
        """

    def plan(self, timeline: Timeline, stage: int) -> Plan:
        """Return who trains in `stage` and who is tested after it (-1: before the first)."""
        return Plan(timeline.participants(stage), timeline.sites)

    def partition(self, network: nn.Module, stage: int) -> Partition:
        """Return what of `network` stays at the hospital, and what is not trained in `stage`."""
        return Partition()

    # --- at the hospital -------------------------------------------------------------

    def objective(self, step: Step) -> dict[str, Tensor]:
        """Return the named loss terms of one step; their sum is minimised."""
        return (
            step.loss()
            if step.teacher is None
            else joined(step.loss(), named("distil", self.distil(step)))
        )

    def distil(self, step: Step) -> dict[str, Tensor]:
        """Return the named, weighted terms that keep the teacher's knowledge."""
        return {}

    def auxiliary(
        self, student: Activations, teacher: Activations, inputs: Tensor
    ) -> nn.Module | None:
        """Make a module trained beside the student; it stays at the hospital.

        Args:
            student: what an untrained network of its architecture makes of `inputs`.
            teacher: likewise.
            inputs: one of the site's samples.

        Raises:
            ConfigError: the architectures do not fit.
        """
        return None

    def buffer(self, samples: Samples, rng: torch.Generator) -> Stacked | None:
        """Return which training samples the hospital keeps to rehearse in later stages."""
        return None

    def recall(self, summary: SiteSummary) -> Mapping[str, Tensor]:
        """Return what a site makes of what the server remembers; steps have it as `memory`.

        Asked once per stage in which the server remembers anything or a model teaches, before the
        site's first training in it, and again where the teacher is another one.
        """
        return summary.memory

    def reporting(self, network: nn.Module, task: Any, shape: Sequence[int]) -> Reporting | None:
        """Return what hospitals tell of a stage besides weights; None, and none is asked.

        Args:
            network: the model.
            task: one that the method requires.
            shape: of a sample, (C, H, W) or (C, D, H, W) for an image.
        """
        return None

    def answering(self, network: nn.Module, task: Any) -> nn.Module:
        """Return what answers where a network is tested or put to use: by default itself.

        Args:
            network: in evaluation mode, with the weights of a round.
            task: one that the method requires.
        """
        return network

    # --- at the server ---------------------------------------------------------------

    def refine(self, summary: RoundSummary) -> Arrays:
        """Return the global weights of a round, given what the sites sent and its average."""
        return summary.joined

    def remember(self, summary: StageSummary) -> Arrays:
        """Return what the server sends along from now on; called at the end of a stage."""
        return summary.memory


def declared(task: Task, strategy: Strategy, model: Model) -> frozenset[str]:
    """Return the names of the loss terms that training can have."""
    drift = [DRIFT] if strategy.teaching is not None and strategy.teaching.drift else []
    return frozenset((task.term, *strategy.losses, *model.losses, *drift))
