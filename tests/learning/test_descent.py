"""What an optimiser has gathered is taken out of it and given to the next one."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from fedcl.data.samples import Stacked
from fedcl.errors import RunError
from fedcl.learning import loop
from fedcl.learning.descent import descent, moments_of
from fedcl.learning.learner import Learner
from fedcl.learning.step import Lesson
from fedcl.models.base import Model
from fedcl.registry import OPTIMISER, STRATEGY
from fedcl.seeding import seeded, torch_rng
from tests.small import TASK

NAMES = ("adam", "adamw", "sgd", "rmsprop")


class Paced(Model):
    """A model whose last layer learns faster, so that there are two groups of parameters."""

    def rate(self, parameter: str) -> float:
        return 3.0 if parameter.startswith("2.") else 1.0


def lesson() -> Lesson:
    """Return a network of which one parameter is frozen, beside which another one is trained."""
    with seeded("net"):
        student = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 1))
        aside = nn.Linear(3, 1)
    student[0].bias.requires_grad_(False)  # type: ignore[union-attr]
    return Lesson(task=TASK, student=student, model=Paced(), auxiliary=aside)


def weights(taught: Lesson) -> dict[str, torch.Tensor]:
    assert taught.auxiliary is not None
    aside = {f"aside.{key}": value for key, value in taught.auxiliary.state_dict().items()}
    return {key: value.clone() for key, value in (taught.student.state_dict() | aside).items()}


class Followed(type(STRATEGY.make({"name": "finetune"}))):  # type: ignore[misc]
    """Trains what lies beside the student, too."""

    losses = ("aside",)

    def objective(self, step: Any) -> dict[str, torch.Tensor]:
        aside = step.auxiliary(torch.ones(1, 3)).square().sum()
        return {**super().objective(step), "aside": aside}


def train(taught: Lesson, steps: int, made: torch.optim.Optimizer) -> None:
    """Make steps at one rate, with one sample, so that every step is shown the same."""
    image = torch.randn(1, 1, 8, 8, generator=torch_rng("image"))
    samples = Stacked(image, (image > 0.5).long())
    learner = Learner(steps=steps, batch_size=1)
    loop.train(taught, samples, learner, Followed(), lambda _: 0.01, ("d",), optimiser=made)


def carried(made: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """Return its moments as a site's file gives them back: through NumPy, other memory."""
    stored = {key: np.array(value.numpy()) for key, value in moments_of(made).items()}
    return {key: torch.tensor(value) for key, value in stored.items()}


@pytest.mark.parametrize("name", NAMES)
def test_two_rounds_with_moments_carried_are_one_long_round(name: str):
    optimiser = OPTIMISER.make({"name": name, "keep": True})
    whole = lesson()
    train(whole, 7, descent(whole, optimiser))
    parts = {}
    for keeps in (True, False):
        halves = lesson()
        first = descent(halves, optimiser)
        train(halves, 3, first)
        train(halves, 4, descent(halves, optimiser, carried(first) if keeps else None))
        parts[keeps] = weights(halves)
    expected = weights(whole)
    assert all(torch.equal(value, expected[key]) for key, value in parts[True].items())
    trained = [key for key in expected if key != "0.bias"]
    assert not any(torch.equal(parts[False][key], expected[key]) for key in trained)
    assert torch.equal(expected["0.bias"], weights(lesson())["0.bias"]), "it was frozen"


def test_moments_are_named_by_parameter_and_are_those_of_the_formula():
    """After one step from 0, those of Adam are (1 - beta) g and (1 - beta^2) g^2."""
    with seeded("line"):
        student = nn.Linear(2, 1, bias=False)
    taught = Lesson(task=TASK, student=student)
    made = descent(taught, OPTIMISER.make({"name": "adam", "betas": [0.9, 0.99]}))
    for group in made.param_groups:
        group["lr"] = 0.1
    student.weight.grad = torch.tensor([[2.0, -3.0]])
    made.step()
    found = moments_of(made)
    assert set(found) == {"0/step", "0/exp_avg", "0/exp_avg_sq"}
    assert float(found["0/step"]) == 1.0
    torch.testing.assert_close(found["0/exp_avg"], torch.tensor([[0.2, -0.3]]))
    torch.testing.assert_close(found["0/exp_avg_sq"], torch.tensor([[0.04, 0.09]]))


def test_gradient_descent_without_a_momentum_gathers_nothing():
    plain = OPTIMISER.make({"name": "sgd", "momentum": 0.0, "nesterov": False, "keep": True})
    taught = lesson()
    made = descent(taught, plain)
    train(taught, 2, made)
    assert moments_of(made) == {}
    train(taught, 2, descent(taught, plain, moments_of(made)))


@pytest.mark.parametrize("damage", ["shape", "number"])
@pytest.mark.parametrize("name", NAMES)
def test_moments_of_another_network_are_refused(name: str, damage: str):
    optimiser = OPTIMISER.make({"name": name, "keep": True})
    taught = lesson()
    made = descent(taught, optimiser)
    train(taught, 1, made)
    moments = moments_of(made)
    key = next(key for key in moments if not key.endswith("step"))
    if damage == "shape":
        moments[key] = moments[key][..., None]
    else:
        key = f"99/{key.partition('/')[2]}"
        moments[key] = torch.zeros(2)
    with pytest.raises(RunError, match=rf"^optimiser\.keep: {key} that was kept fits no ") as told:
        descent(lesson(), optimiser, moments)
    assert "\n" not in str(told.value)
