"""One training step as a strategy sees it, and the passes through networks it may ask for."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fedcl.data.samples import Stacked
from fedcl.errors import RunError
from fedcl.models.base import Model
from fedcl.tasks.base import Task

DRIFT = "drift"
"""The name of the loss that keeps a student near the model that a round began from."""
PARTS = ("encoder", "bottleneck", "decoder", "aside")


@dataclass(frozen=True)
class Activations:
    """What one pass through a network gave, by `Layers`; each list from fine to coarse.

    Attributes:
        outputs: of the network.
        encoder, bottleneck, decoder: of images, shapes (B, F, h, w).
        aside: of layers that run in training alone.
    """

    outputs: Tensor
    encoder: list[Tensor] = field(default_factory=list)
    bottleneck: list[Tensor] = field(default_factory=list)
    decoder: list[Tensor] = field(default_factory=list)
    aside: list[Tensor] = field(default_factory=list)

    @property
    def features(self) -> list[Tensor]:
        """What the way down gave, the bottleneck included."""
        return [*self.encoder, *self.bottleneck]

    @property
    def nbytes(self) -> int:
        """The size of its tensors."""
        layers = (getattr(self, name) for name in PARTS)
        return self.outputs.nbytes + sum(one.nbytes for layer in layers for one in layer)

    def __getitem__(self, index: Tensor) -> "Activations":
        """Return what the inputs of these indices gave."""
        parts = {name: [one[index] for one in getattr(self, name)] for name in PARTS}
        return Activations(self.outputs[index], **parts)

    @classmethod
    def joined(cls, parts: Sequence["Activations"]) -> "Activations":
        """Join what several inputs gave, in order."""
        layers = {
            name: [torch.cat(one) for one in zip(*(getattr(p, name) for p in parts), strict=True)]
            for name in PARTS
        }
        return cls(torch.cat([one.outputs for one in parts]), **layers)


@dataclass(frozen=True)
class Rehearsal:
    """What a teacher says of earlier sites.

    Attributes:
        samples: inputs and the teacher's answers.
        aligned: whether the inputs are those of the site's own samples, in the same order.
        ratio: inputs of earlier sites per input of the sites that now arrive; None where these
            bring no new inputs, only further outputs.
        here: the teacher's answers to the site's own samples, in their order, for outputs that
            the site does not give; NaN where it gives them or nobody knows. None where that is
            everywhere.
    """

    samples: Stacked
    aligned: bool
    ratio: float | None
    here: Tensor | None = None


@dataclass(kw_only=True)
class Lesson:
    """What a hospital brings to a round of training; the same in every step.

    Attributes:
        task: what is learned.
        student: the network being trained.
        model: what it was built by.
        teacher: the frozen teacher, or None where there is none yet.
        teacher_model: what that was built by.
        taught: the sites that the teacher has learned from, as far as that is known.
        answers: gives the teacher's answers to the training samples of some indices.
        views: gives likewise what the teacher's layers make of them.
        past: inputs of earlier sites with a teacher's answers, where such inputs are known
            without their data.
        memory: what the server remembers of earlier stages (`Strategy.remember`).
        auxiliary: the strategy's own trainable module, if it has one.
        start: the student's parameters when the round began.
        before: gives what the student answered to any inputs when the round began; None where
            nobody asks.
        answers_before: gives likewise the answers to training samples of some indices.
        drift: weight of the term that keeps the student near those answers.
        round: counted from 1 over all stages.
    """

    task: Task
    student: nn.Module
    model: Model = field(default_factory=Model)
    teacher: nn.Module | None = None
    teacher_model: Model = field(default_factory=Model)
    taught: Sequence[str] = ()
    answers: Callable[[Tensor], Tensor] | None = None
    views: Callable[[Tensor], Activations] | None = None
    past: Rehearsal | None = None
    memory: Mapping[str, Tensor] = field(default_factory=dict)
    auxiliary: nn.Module | None = None
    start: Mapping[str, Tensor] = field(default_factory=dict)
    before: Callable[[Tensor], Tensor] | None = None
    answers_before: Callable[[Tensor], Tensor] | None = None
    drift: float = 0.0
    round: int = 1


@dataclass(kw_only=True)
class Step(Lesson):
    """One training step as a strategy sees it.

    Attributes:
        inputs: what the network is shown, shape (B, ...); see the task.
        targets: what it should answer, shape (B, ...).
        index: which training samples these are, shape (B,); None outside training.
        number: the step in the round, counted from 1.
        rng: the step's source of randomness.
    """

    inputs: Tensor
    targets: Tensor
    rng: torch.Generator
    index: Tensor | None = None
    number: int = 1

    @cached_property
    def activations(self) -> Activations:
        """What the student makes of the inputs."""
        return watch(self.student, self.model, self.inputs)

    @property
    def outputs(self) -> Tensor:
        """The student's outputs, of images logits of shape (B, K, H, W)."""
        return self.activations.outputs

    def loss(self) -> dict[str, Tensor]:
        """Return the task's loss on these samples, named."""
        return {self.task.term: self.task.loss(self.outputs, self.targets)}

    def model_loss(self) -> dict[str, Tensor]:
        """Return the losses that belong to the model, named; see `Model.terms`."""
        if not self.model.watched(self.student).aside:
            return {}
        return self.model.terms(self.activations.aside, self.inputs, self._judged)

    def drift_loss(self) -> dict[str, Tensor]:
        """Return what keeps the student near the model that the round began from, named."""
        if self.before is None:
            return {}
        if self.answers_before is not None and self.index is not None:
            answers = self.answers_before(self.index)
        else:
            answers = self.before(self.inputs)
        # a method that shows its student other images has seen to it what running statistics see
        shown = "activations" in vars(self)
        outputs = self.outputs if shown else self.probe(self.inputs)
        return {DRIFT: self.drift * self.task.distance(outputs, answers)}

    def _judged(self, outputs: Tensor) -> Tensor:
        """Return the task's loss of other outputs than the network's last."""
        return self.task.loss(outputs, self.task.reduced(self.targets, outputs))

    @cached_property
    def teacher_answers(self) -> Tensor:
        """The teacher's answers, of images class probabilities of shape (B, K, H, W)."""
        if self.answers is not None and self.index is not None:
            return self.answers(self.index)
        with torch.no_grad():
            return self.task.answer(self.teacher_activations.outputs)

    @cached_property
    def teacher_activations(self) -> Activations:
        """What the teacher makes of the inputs, without gradient."""
        if self.views is not None and self.index is not None:
            return self.views(self.index)
        with torch.no_grad():
            return watch(self._taught_by(), self.teacher_model, self.inputs)

    @torch.no_grad()
    def ask_teacher(self, inputs: Tensor) -> Tensor:
        """Return the teacher's answers to any `inputs`, without gradient."""
        return self.task.answer(self._taught_by()(inputs))

    def _taught_by(self) -> nn.Module:
        """Return the teacher.

        Raises:
            RunError: there is none yet, as in the first stage.
        """
        if self.teacher is None:
            raise RunError(
                "there is no teacher in this step, as in the first stage; ask for its answers in "
                "`distil`, or only where step.teacher is not None"
            )
        return self.teacher

    def draw(self, count: int) -> Tensor:
        """Draw as many of `count` things as there are samples in this step, with replacement."""
        size, device = (len(self.inputs),), self.rng.device
        return torch.randint(count, size, generator=self.rng, device=device)

    def probe(self, inputs: Tensor) -> Tensor:
        """Return the student's outputs on synthetic `inputs`.

        Batch normalisation uses the batch's own statistics, as in training, but its
        running statistics are left alone: they must describe images only.
        """
        with held_statistics(self.student):
            return self.student(inputs)

    def probe_features(self, inputs: Tensor) -> list[Tensor]:
        """Return the student's features of synthetic `inputs`; see `probe`."""
        with held_statistics(self.student):
            return watch(self.student, self.model, inputs).features

    def observe(self) -> None:
        """Let batch normalisation record the inputs; for methods that train on others."""
        if any(isinstance(module, _BatchNorm) for module in self.student.modules()):
            with torch.no_grad():
                self.student(self.inputs)

    def noise(self, mean: float, std: float) -> Tensor:
        """Draw Normal(mean, std) noise of the inputs' shape."""
        drawn = torch.randn(self.inputs.shape, generator=self.rng, device=self.rng.device)
        return drawn.mul_(std).add_(mean).to(self.inputs.device)


def named(hook: str, terms: Any) -> Mapping[str, Tensor]:
    """Return the loss terms that a hook gave.

    Raises:
        RunError: they are no named numbers; names the hook.
    """
    wanted = "a dict of named loss terms, each a tensor of one number"
    if not isinstance(terms, Mapping):
        raise RunError(f"{hook} must return {wanted}; it returned {type(terms).__name__}")
    for name, value in terms.items():
        if not isinstance(name, str) or not isinstance(value, Tensor) or value.numel() != 1:
            what = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)
            raise RunError(f"{hook} must return {wanted}; {name!r} is {what[:60]}")
    return terms


def joined(*parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return loss terms of several origins in one mapping.

    Raises:
        RunError: two have one name, so that one of them would be lost.
    """
    terms: dict[str, Tensor] = {}
    for part in parts:
        twice = terms.keys() & part.keys()
        if twice:
            raise RunError(
                f"two loss terms are called {', '.join(sorted(twice))}; rename one of them in the "
                "strategy or the model"
            )
        terms |= part
    return terms


def watch(network: nn.Module, model: Model, inputs: Tensor) -> Activations:
    """Pass `inputs` through a network that `model` has built, and keep what its layers give."""
    kept: dict[nn.Module, Tensor] = {}

    def keep(module: nn.Module, arguments: Any, output: Tensor) -> None:
        kept[module] = output

    layers = model.watched(network)
    with ExitStack() as hooks:
        for layer in chain.from_iterable(getattr(layers, name) for name in PARTS):
            hooks.callback(layer.register_forward_hook(keep).remove)
        outputs = network(inputs)
    # Layers that run in training alone give nothing otherwise.
    given = {name: [kept[one] for one in getattr(layers, name) if one in kept] for name in PARTS}
    return Activations(outputs, **given)


@contextmanager
def held_statistics(network: nn.Module) -> Iterator[None]:
    """Let batch-normalisation layers normalise by the batch without recording it."""
    layers = [m for m in network.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    for layer in layers:
        layer.track_running_stats = False
    try:
        yield
    finally:
        for layer in layers:
            layer.track_running_stats = True
