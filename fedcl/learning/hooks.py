"""What the hooks of a strategy are given and what they return, and how that is checked."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from fedcl.arrays import Arrays, mismatch
from fedcl.contracts import Check
from fedcl.data.samples import Samples, Stacked
from fedcl.models.base import Model
from fedcl.seeding import Key
from fedcl.tasks.base import Task
from fedcl.timeline import Timeline

OWN, LARGEST = "own", "largest"
"""Which architecture teaches a site: that of the site, or the largest of the run."""
REFRESH = ("stage", "round", "ema")
"""When the teacher becomes another one."""


@dataclass(frozen=True)
class Requirements:
    """What a method needs of a run.

    Attributes:
        task: the kind of task that its formulas are about.
        batch: how many samples a batch must have for its terms to be defined.
        features: whether its terms are about the layers that a model names (`Model.watched`).
        every_update: whether the server reads each site's own update, not their mean alone.
    """

    task: type[Any] = Task
    batch: int = 1
    features: bool = False
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
        drift: weight of a second teacher, the global model that a round begins from, on the site's
            own samples, from the second round on; 0 for none.
    """

    refresh: str = "stage"
    decay: float = 0.9
    architecture: str = OWN
    peers: bool = True
    file: Path | None = None
    bank: bool = False
    at_server: bool = False
    drift: float = 0.0

    def __post_init__(self) -> None:
        """Raise `ValueError` for what no teacher can be."""
        if self.refresh not in REFRESH:
            raise ValueError(f"refresh must be one of {', '.join(REFRESH)}, not {self.refresh!r}")
        if not 0 <= self.decay <= 1:
            raise ValueError(f"decay must be from 0 to 1, not {self.decay!r}")
        if self.file is not None and not isinstance(self.file, Path):
            raise ValueError(f"file must be a pathlib.Path, not {self.file!r}")

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
        task: what is learned.
        stage: counted from 0.
        network: the aggregated model, frozen, on the CPU.
        shape: of a sample, (C, H, W) or (C, D, H, W) for an image.
        memory: what was remembered before.
        reports: of the sites that trained the network (`Strategy.reporting`), in site order.
        samples: their numbers of training samples.
        rng: source of randomness.
    """

    task: Any
    stage: int
    network: nn.Module
    shape: tuple[int, ...]
    memory: Arrays
    reports: Mapping[str, Arrays]
    samples: Mapping[str, int]
    rng: torch.Generator


@dataclass(frozen=True, kw_only=True)
class SiteSummary:
    """What a site has before it trains in a stage, to recall what others have left behind.

    Attributes:
        task: what is learned.
        samples: those that it trains on.
        memory: as the server sent it (`Strategy.remember`), on the device; empty where it
            remembers nothing.
        teacher: the frozen teacher, in evaluation mode; None where nobody teaches.
        taught: the sites that it has learned from, as far as that is known.
        rng: source of randomness.
    """

    task: Any
    samples: Samples
    memory: Mapping[str, torch.Tensor]
    teacher: nn.Module | None
    taught: Sequence[str]
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
        teacher: the global weights at the end of the previous stage; empty in the first.
        earlier: the sites that arrived in earlier stages.
        lost: those of them that have never delivered anything.
        before: the global weights that the round started from.
        heard: the sites that had delivered in this stage before.
        model: what it was built by.
        keys: what randomness comes from.
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
    keys: Sequence[Key]


def of_kind(kind: type, optional: bool = False) -> Check:
    """Return a check that a hook returned a value of one kind, or None where it may."""

    def check(result: Any, *arguments: Any, **named: Any) -> str | None:
        if isinstance(result, kind) or (optional and result is None):
            return None
        wanted = f"{kind.__name__} or None" if optional else kind.__name__
        return f"must return {wanted}, it returned {result!r:.60}"

    return check


def _plan(result: Any, timeline: Timeline, stage: int) -> str | None:
    """Check who is to do what in a stage."""
    if not isinstance(result, Plan):
        return of_kind(Plan)(result)
    there = set(timeline.seen(stage)) if stage >= 0 else set(timeline.sites)
    for name, whole in (("cohort", there), ("evaluated", set(timeline.sites))):
        sites = getattr(result, name)
        if not isinstance(sites, list) or len({*sites}) < len(sites):
            return f"must return a {name} that is a list of sites, each once, it is {sites!r:.60}"
        if not whole.issuperset(sites):
            wrong = sorted(set(sites) - whole)
            return f"names in its {name} of stage {stage + 1} who is not there: {wrong!r:.60}"
    if not result.evaluated and stage >= 0:
        return f"evaluates nobody after stage {stage + 1}"
    if not result.rehearsing <= set(result.cohort):
        return f"has sites rehearse in stage {stage + 1} that are not in its cohort"
    return None


def _partition(result: Any, network: nn.Module, stage: int) -> str | None:
    """Check that the arrays that stay or are frozen are some of the network's."""
    if not isinstance(result, Partition):
        return of_kind(Partition)(result)
    parameters = {name for name, _ in network.named_parameters()}
    wrong = (result.local - set(network.state_dict())) | (result.frozen - parameters)
    return f"names arrays that the network has not: {sorted(wrong)!r:.60}" if wrong else None


def _refined(result: Any, summary: RoundSummary) -> str | None:
    """Check that what is to be the global model is one."""
    if not isinstance(result, Mapping):
        return of_kind(Mapping)(result)
    problem = mismatch(result, summary.joined)
    return problem and f"must return the model's arrays: {problem}"


def _remembered(result: Any, summary: StageSummary) -> str | None:
    """Check that what is remembered can be kept and sent."""
    if not isinstance(result, Mapping):
        return of_kind(Mapping)(result)
    for name, array in result.items():
        kept = isinstance(array, np.ndarray) and array.dtype.kind in "iufb"
        if not isinstance(name, str) or not kept or not np.isfinite(array).all():
            return f"must return finite NumPy arrays by name; {name!r:.40} is none"
    return None


def _recalled(result: Any, *arguments: Any) -> str | None:
    """Check that what a site makes of a memory can be given to steps."""
    if not isinstance(result, Mapping):
        return of_kind(Mapping)(result)
    wrong = [name for name, value in result.items() if not isinstance(value, torch.Tensor)]
    return f"must return tensors by name; {wrong[0]!r:.40} is none" if wrong else None


def _terms(result: Any, step: Any) -> str | None:
    """Check that a loss has its terms by name; what they are is checked where they are summed."""
    if isinstance(result, Mapping):
        return None
    return f"must return a dict of named loss terms, it returned {type(result).__name__}"


CHECKS: dict[str, Check] = {
    "requirements": of_kind(Requirements),
    "teaching": of_kind(Teaching, optional=True),
    "plan": _plan,
    "partition": _partition,
    "auxiliary": of_kind(nn.Module, optional=True),
    "answering": of_kind(nn.Module),
    "buffer": of_kind(Stacked, optional=True),
    "reporting": of_kind(Reporting, optional=True),
    "refine": _refined,
    "remember": _remembered,
    "recall": _recalled,
    "check": of_kind(type(None)),
    "objective": _terms,
    "distil": _terms,
}
"""What is wrong with what a hook returned, given that and its arguments."""
EARLY = ("requirements", "teaching", "check", "plan", "partition")
"""The hooks that are asked before a run."""
