"""What follows the gradients of a round, and the moments that it may begin with."""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fedcl.errors import RunError
from fedcl.learning.step import Lesson
from fedcl.optimisers.base import Optimiser


def descent(
    lesson: Lesson, optimiser: Optimiser, moments: Mapping[str, Tensor] | None = None
) -> torch.optim.Optimizer:
    """Return torch's optimiser of all that a lesson trains; its learning rate is the loop's.

    Args:
        lesson: the student, and what the strategy trains beside it.
        optimiser: which one.
        moments: those of the round before, as `moments_of` gave them; none, and it begins anew.

    Raises:
        RunError: the moments are those of another network.
    """
    made = optimiser.make(_groups(lesson), 1.0)
    if not moments:
        return made
    trained = [one for group in made.param_groups for one in group["params"]]
    state: dict[int, dict[str, Tensor]] = defaultdict(dict)
    for key, value in moments.items():
        number, _, name = key.partition("/")
        state[int(number)][name] = value
        if int(number) >= len(trained) or value.shape not in ((), trained[int(number)].shape):
            raise RunError(f"optimiser.keep: {key} that was kept fits no parameter of the network")
    made.load_state_dict({"state": state, "param_groups": made.state_dict()["param_groups"]})
    return made


def moments_of(made: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return what an optimiser has gathered, by "number of the parameter/name"."""
    state: dict[int, dict[str, Any]] = made.state_dict()["state"]
    return {
        f"{number}/{name}": value
        for number, own in state.items()
        for name, value in own.items()
        if isinstance(value, Tensor)
    }


def _groups(lesson: Lesson) -> list[dict[str, Any]]:
    """Return what is trained, by the factor on its learning rate."""
    groups: dict[float, list[nn.Parameter]] = defaultdict(list)
    for name, parameter in lesson.student.named_parameters():
        if parameter.requires_grad:
            groups[lesson.model.rate(name)].append(parameter)
    if lesson.auxiliary is not None:
        groups[1.0] += (p for p in lesson.auxiliary.parameters() if p.requires_grad)
    return [{"params": members, "factor": factor} for factor, members in groups.items()]
