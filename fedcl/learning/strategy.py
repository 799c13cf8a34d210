"""What every strategy offers, to the server and to the hospital.

A strategy is one dataclass in one file: its fields are the settings of its YAML, its
methods say what differs from federated fine-tuning, which is what this base class does.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fedcl.arrays import Arrays
from fedcl.data.cases import Samples
from fedcl.learning.step import Activations, Step, joined
from fedcl.models.base import Model
from fedcl.tasks.base import Task
from fedcl.timeline import Timeline

OWN, LARGEST = "own", "largest"
"""Which architecture teaches a site: that of the site, or the largest of the run."""


@dataclass(frozen=True)
class Requirements:
    """What a method needs of a run.

    Attributes:
        task: the kind of task that its formulas are about.
        batch: how many samples a batch must have for its terms to be defined.
        every_update: whether the server reads each site's own update, not their mean alone.
    """

    task: type[Any] = Task
    batch: int = 1
    every_update: bool = False


@dataclass(frozen=True)
class Plan:
    """Who does what in a stage.

    Attributes:
        cohort: the sites that train, in order of arrival.
        evaluated: the sites that are tested after it.
        rehearsing: those of the cohort that train on what they have kept of earlier stages
            alone (`Strategy.buffer`); the others train on all their samples.
    """

    cohort: list[str]
    evaluated: list[str]
    rehearsing: frozenset[str] = frozenset()

    @property
    def learning(self) -> list[str]:
        """Those of the cohort that train on all their samples."""
        return [site for site in self.cohort if site not in self.rehearsing]


@dataclass(frozen=True)
class Teaching:
    """Which model teaches, and where.

    Attributes:
        refresh: the teacher is the global model at the end of the previous "stage", that of the
            previous "round", or "ema", an exponential moving average over rounds.
        decay: share of the old average kept per round ("ema").
        architecture: of the teacher: `OWN`, `LARGEST`, or a name in `models`.
        peers: whether sites of the teacher's own architecture are taught.
        file: a model trained before, which then teaches in all stages, whatever `refresh` says.
        bank: whether the global model of every stage goes on answering for the sites of that
            stage.
        at_server: whether the server alone has the teacher; otherwise hospitals get it.
    """

    refresh: str = "stage"
    decay: float = 0.9
    architecture: str = OWN
    peers: bool = True
    file: Path | None = None
    bank: bool = False
    at_server: bool = False

    @property
    def changes(self) -> str:
        """After what the teacher is another one: "stage", "round", "ema", or "never"."""
        return "never" if self.file is not None else self.refresh

    def of(self, own: str, sizes: Mapping[str, int]) -> str | None:
        """Return the architecture that teaches a site, or None where nobody does.

        Args:
            own: the site's, by name.
            sizes: parameters of each of the run's, where there are several.
        """
        if self.architecture == OWN or (self.architecture == LARGEST and not sizes):
            teacher = own
        elif self.architecture == LARGEST:
            teacher = max(sizes, key=lambda name: sizes[name])
        else:
            teacher = self.architecture
        return teacher if self.peers or teacher != own else None


@dataclass(frozen=True)
class Partition:
    """How the arrays of a network are divided.

    Attributes:
        local: the arrays that stay at the hospital, never sent and never averaged; the same in
            every stage.
        frozen: the parameters that are not trained in this stage.
    """

    local: frozenset[str] = frozenset()
    frozen: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Form:
    """What an array of a hospital's report may be: float32, finite and within bounds.

    Attributes:
        shape: its shape.
        low, high: bounds of its values; beyond them sums would lose their meaning.
    """

    shape: tuple[int, ...]
    low: float = -1e6
    high: float = 1e6

    def problem(self, array: np.ndarray) -> str | None:
        """Return what is wrong with `array`, or None."""
        if array.shape != self.shape:
            return f"has shape {array.shape}, not {self.shape}"
        if array.size and not (self.low <= array.min() and array.max() <= self.high):
            return f"has values outside of [{self.low:g}, {self.high:g}]"
        return None


@dataclass(frozen=True)
class Reporting:
    """What a hospital tells the server of a stage besides weights.

    Attributes:
        forms: of the arrays that it tells, by name; the server takes no others.
        tell: makes them, from the aggregated model in evaluation mode and the site's training
            samples.
    """

    forms: Mapping[str, Form]
    tell: Callable[[nn.Module, Samples], Arrays] = field(compare=False)


@dataclass(frozen=True, kw_only=True)
class StageSummary:
    """What the server has at the end of a stage, to remember the stage by.

    Attributes:
        stage: counted from 0.
        network: the aggregated model, frozen, on the CPU.
        shape: of a sample, (C, H, W) for an image.
        memory: what was remembered before.
        reports: of the sites that trained the network (`Strategy.reporting`), in site order.
        samples: their numbers of training samples.
        rng: source of randomness.
    """

    stage: int
    network: nn.Module
    shape: tuple[int, ...]
    memory: Arrays
    reports: Mapping[str, Arrays]
    samples: Mapping[str, int]
    rng: torch.Generator


@dataclass(frozen=True, kw_only=True)
class RoundSummary:
    """What the server has at the end of a round.

    Attributes:
        task: what is learned.
        network: made for this stage, on the CPU; to be used at will.
        joined: the average of what the sites sent.
        updates: what each of them sent, in site order; empty unless the strategy requires every
            update. These and all sites below are of one architecture.
        teacher: the global weights at the end of the previous stage; none in the first.
        earlier: the sites that arrived in earlier stages.
        lost: those of them that have never delivered anything.
        before: the global weights that the round started from.
        heard: the sites that had delivered in this stage before.
        model: what it was built by.
        rng: source of randomness.
    """

    task: Any
    network: nn.Module
    joined: Arrays
    updates: Mapping[str, Arrays]
    teacher: Arrays
    earlier: Sequence[str]
    lost: Sequence[str]
    before: Arrays
    heard: Sequence[str]
    model: Model
    rng: torch.Generator


@dataclass
class Strategy:
    """Federated fine-tuning, and the hooks by which a method departs from it."""

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
        return step.loss() if step.teacher is None else joined(step.loss(), self.distil(step))

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

    def buffer(self, samples: Samples, rng: torch.Generator) -> Samples | None:
        """Return which training samples the hospital keeps to rehearse in later stages."""
        return None

    def reporting(self, network: nn.Module, shape: Sequence[int]) -> Reporting | None:
        """Return what hospitals tell of a stage besides weights; None, and none is asked.

        Args:
            network: the model.
            shape: of a sample, (C, H, W) for an image.
        """
        return None

    # --- at the server ---------------------------------------------------------------

    def refine(self, summary: RoundSummary) -> Arrays:
        """Return the global weights of a round, given what the sites sent and its average."""
        return summary.joined

    def remember(self, summary: StageSummary) -> Arrays:
        """Return what the server sends along from now on; called at the end of a stage."""
        return summary.memory
