"""The one local training loop."""

import copy
import math
import operator
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from functools import reduce
from itertools import islice, tee

import torch
from torch import Tensor, nn

from fedcl.data.samples import Change, Samples
from fedcl.errors import RunError
from fedcl.learning.descent import descent
from fedcl.learning.learner import Learner
from fedcl.learning.step import Lesson, Step, joined, named
from fedcl.learning.strategy import Strategy, declared
from fedcl.optimisers.adam import Adam
from fedcl.seeding import Key, torch_rng
from fedcl.tasks.base import half


def device_of(learner: Learner) -> torch.device:
    """Return the device to compute on.

    Raises:
        RunError: CUDA was asked for and there is none.
    """
    there = torch.cuda.is_available()
    if learner.device == "cuda" and not there:
        raise RunError("learner.device: cuda was asked for, but no CUDA device is there")
    return torch.device("cuda" if there and learner.device != "cpu" else "cpu")


def train(
    lesson: Lesson,
    samples: Samples,
    learner: Learner,
    strategy: Strategy,
    lr: Callable[[float], float],
    keys: Sequence[Key],
    validate: Callable[[], float] | None = None,
    change: Change | None = None,
    optimiser: torch.optim.Optimizer | None = None,
) -> dict[str, float]:
    """Train the lesson's student in place on one site's samples, for one round.

    Args:
        lesson: the student, holding the weights to start from, and whatever helps it.
        samples: the site's training samples.
        learner: budget, batch size, clipping and which epoch to keep.
        strategy: gives the loss terms of each step.
        lr: the learning rate, given the share of the round that is done.
        keys: what the order of the samples, and whatever is drawn, depends on.
        validate: scores the student as it is; needed to keep the best epoch.
        change: made to every sample, which student and teacher then both see.
        optimiser: of all that the lesson trains, see `descent`; None for Adam.

    Returns:
        The mean of each loss term over the steps.

    Raises:
        RunError: a loss became NaN or infinite; names the terms.
    """
    device, student, task = samples.device, lesson.student, lesson.task
    trained = nn.ModuleList([m for m in (student, lesson.auxiliary) if m is not None])
    optimiser = optimiser or descent(lesson, Adam())
    order, rng = (task.generator(torch_rng(what, *keys), device) for what in ("batches", "drawn"))
    per_epoch = math.ceil(len(samples) / learner.batch_size)
    total = learner.steps or learner.epochs * per_epoch
    known = declared(task, strategy, lesson.model)
    best = _Best(trained, validate) if learner.keep == "best" and validate else None
    new: dict[str, list[Tensor]] = defaultdict(list)  # losses since they were last summed up
    sums: dict[str, float] = defaultdict(float)
    counts: dict[str, int] = defaultdict(int)

    trained.train()
    indices, ahead = tee(islice(task.batches(len(samples), learner.batch_size, order), total))
    batches = samples.batches(ahead, keys, change, learner.loaders)
    fixed = samples.fixed and change is None
    for number, (index, batch) in enumerate(zip(indices, batches, strict=True), start=1):
        for group in optimiser.param_groups:
            group["lr"] = group["factor"] * lr((number - 1) / total)
        step = Step(
            **vars(lesson),
            inputs=batch.inputs,
            targets=batch.targets,
            index=index.to(device) if fixed else None,
            number=number,
            rng=rng,
        )
        with half(learner.amp, device):
            own = named("objective", strategy.objective(step))
            terms = joined(own, step.model_loss(), step.drift_loss())
        _check_declared(terms, known)
        optimiser.zero_grad(set_to_none=True)
        reduce(operator.add, terms.values()).backward()
        if learner.clip is not None:
            # what is frozen may hold a gradient of an earlier stage, which counts nowhere
            learned = (one for group in optimiser.param_groups for one in group["params"])
            nn.utils.clip_grad_norm_(learned, learner.clip)
        optimiser.step()
        for name, value in terms.items():
            new[name].append(value.detach())
        if number % per_epoch == 0 or number == total:
            for name, values in new.items():
                sums[name] += float(torch.stack(values).sum())
                counts[name] += len(values)
            new.clear()
            _check_finite(sums)
            if best:
                best.offer()
                student.train()
    if best:
        best.restore()
    return {name: value / counts[name] for name, value in sums.items()}


class _Best:
    """Keeps the weights of the epoch that validated best; the earlier one on a tie."""

    def __init__(self, network: nn.Module, validate: Callable[[], float]) -> None:
        self.network, self.validate = network, validate
        self.score, self.weights = -math.inf, copy.deepcopy(network.state_dict())

    def offer(self) -> None:
        score = self.validate()
        if score > self.score:
            self.score, self.weights = score, copy.deepcopy(self.network.state_dict())

    def restore(self) -> None:
        self.network.load_state_dict(self.weights)


def _check_declared(terms: Collection[str], known: Collection[str]) -> None:
    """Raise `RunError` for a loss term that the server would not take."""
    foreign = sorted(set(terms) - set(known))
    if foreign:
        raise RunError(
            f"the loss term {foreign[0]!r} is not declared; name it in `losses` of the strategy or "
            "the model that gives it"
        )


def _check_finite(sums: dict[str, float]) -> None:
    bad = [name for name, value in sums.items() if not math.isfinite(value)]
    if bad:
        raise RunError(f"the loss is not finite ({', '.join(sorted(bad))})")
