"""What every strategy offers, to the server and to the hospital.

A strategy is one dataclass in one file: its fields are the settings of its YAML, its
methods say what differs from federated fine-tuning, which is what this base class does.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from fedcl.arrays import Arrays
from fedcl.data.cases import Samples
from fedcl.learning.step import Seen, Step, joined
from fedcl.models.base import Model
from fedcl.settings import setting
from fedcl.tasks.base import Task
from fedcl.timeline import Timeline


@dataclass
class Teacher:
    """Which model teaches; from the second stage on.

    Attributes:
        refresh: "stage", the global model at the end of the previous stage; "round", that
            of the previous round; "ema", an exponential moving average over rounds.
        decay: share of the old average kept per round ("ema").
    """

    refresh: str = setting("stage", choices=("stage", "round", "ema"))
    decay: float = setting(0.9, low=0, high=1)


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

    def complaint(self, array: np.ndarray) -> str | None:
        """Return what is wrong with `array`, or None."""
        if array.shape != self.shape:
            return f"has shape {array.shape}, not {self.shape}"
        if array.size and not (self.low <= array.min() and array.max() <= self.high):
            return f"has values outside of [{self.low:g}, {self.high:g}]"
        return None


@dataclass(frozen=True, kw_only=True)
class Past:
    """What the server has at the end of a stage, to remember the stage by.

    Attributes:
        stage: counted from 0.
        network: the aggregated model, frozen, on the CPU.
        shape: of a sample, (C, H, W) for an image.
        memory: what was remembered before.
        reports: of the sites that trained the network (`Strategy.report`), in site order.
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
class Gathered:
    """What the server has at the end of a round.

    Attributes:
        task: what is learned.
        network: made for this stage, on the CPU; to be used at will.
        joined: the average of what the sites sent.
        updates: what each of them sent, in site order; empty unless it `reads_updates`. These
            and all sites below are of one architecture.
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
    """Federated fine-tuning, and the hooks by which a method departs from it.

    Attributes:
        needs: the kind of task that the method's formulas are about.
        sends_teacher: whether hospitals get the teacher; otherwise the server alone has it.
        reads_updates: whether the server needs every site's own update, not their mean alone.
    """

    needs: ClassVar[type] = Task
    sends_teacher: ClassVar[bool] = True
    reads_updates: ClassVar[bool] = False

    @property
    def least_batch(self) -> int:
        """How many samples a batch must have for its terms to be defined."""
        return 1

    # --- at the server ---------------------------------------------------------------

    def cohort(self, timeline: Timeline, stage: int) -> list[str]:
        """Return the sites that train in `stage`."""
        return timeline.participants(stage)

    def learning(self, timeline: Timeline, stage: int) -> list[str]:
        """Return those of the cohort that train on all their samples; others rehearse."""
        return self.cohort(timeline, stage)

    def evaluated(self, timeline: Timeline, stage: int) -> list[str]:
        """Return the sites evaluated after `stage` (-1: before the first): all of them."""
        return timeline.sites

    @property
    def teaching(self) -> Teacher | None:
        """Which model teaches, or None for a method without a teacher."""
        return None

    @property
    def teacher_model(self) -> str | None:
        """The architecture that teaches, by name, where the settings say which."""
        return None

    @property
    def pretrained(self) -> Path | None:
        """The file of a teacher trained before, which then teaches in all stages."""
        return None

    def taught_by(self, own: str, sizes: Mapping[str, int]) -> str | None:
        """Return the architecture that teaches a site, if one does: its own.

        Args:
            own: the site's, by name.
            sizes: parameters of each of the run's, where there are several.
        """
        return own

    def check(self, task: Any, model: Any) -> None:
        """Raise `ConfigError` where the settings do not fit.

        Args:
            task: one that it `needs`.
            model: an architecture of the run.
        """

    def forms(self, network: nn.Module, shape: Sequence[int]) -> dict[str, Form]:
        """Return what a `report` must be made of; nothing, and no site is asked for one.

        Args:
            network: the model.
            shape: of a sample, (C, H, W) for an image.
        """
        return {}

    def remember(self, past: Past) -> Arrays:
        """Return what the server sends along from now on; called at the end of a stage."""
        return past.memory

    # --- at both ---------------------------------------------------------------------

    def local(self, network: nn.Module) -> set[str]:
        """Return the weight arrays of `network` that stay at the hospital, never averaged."""
        return set()

    def refine(self, gathered: Gathered) -> Arrays:
        """Return the global weights of a round, given what the sites sent and its average."""
        return gathered.joined

    # --- at the hospital -------------------------------------------------------------

    def objective(self, step: Step) -> dict[str, Tensor]:
        """Return the named loss terms of one step; their sum is minimised."""
        return step.loss() if step.teacher is None else joined(step.loss(), self.distil(step))

    def distil(self, step: Step) -> dict[str, Tensor]:
        """Return the named, weighted terms that keep the teacher's knowledge."""
        return {}

    def teachers(self, memory: Arrays, stages: int) -> list[Arrays]:
        """Return the weights that answer for the sites of each earlier stage; none: the teacher."""
        return []

    def fixed(self, network: nn.Module, stage: int) -> set[str]:
        """Return the parameters of `network` that are not trained in `stage`."""
        return set()

    def auxiliary(self, student: Seen, teacher: Seen, inputs: Tensor) -> nn.Module | None:
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

    def report(self, network: nn.Module, samples: Samples) -> Arrays:
        """Return what the hospital tells the server of a stage besides weights.

        Args:
            network: the aggregated model, in evaluation mode.
            samples: the site's training samples.
        """
        return {}
