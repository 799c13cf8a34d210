"""Optimisers and schedules: what they are by their formulas, and that runs use them."""

import math
from typing import Any

import pytest
import torch

from fedcl.errors import ConfigError
from fedcl.registry import OPTIMISER, SCHEDULE
from tests.conftest import TINY, read


def one_step(name: str, gradient: float, **settings: Any) -> float:
    """Return where a weight of 1 is after a step at rate 0.1."""
    weight = torch.nn.Parameter(torch.tensor([1.0]))
    made = OPTIMISER.make({"name": name, **settings}).make([{"params": [weight]}], 0.1)
    weight.grad = torch.tensor([gradient])
    made.step()
    return float(weight.detach())


def test_first_steps_by_hand():
    assert one_step("adam", 5.0) == pytest.approx(1 - 0.1, abs=1e-6)
    assert one_step("adamw", 5.0, weight_decay=0.2) == pytest.approx(1 - 0.1 * 0.2 - 0.1, abs=1e-6)
    gradient = 5.0 + 0.5 * 1.0
    ahead = gradient + 0.9 * gradient  # Nesterov: the gradient and the momentum that it has made
    moved = one_step("sgd", 5.0, momentum=0.9, weight_decay=0.5)
    assert moved == pytest.approx(1 - 0.1 * ahead, abs=1e-6)
    plain = one_step("sgd", 5.0, momentum=0.0, nesterov=False, weight_decay=0.0)
    assert plain == pytest.approx(0.5)
    over_root = 5.0 / math.sqrt((1 - 0.75) * 5.0**2)
    assert one_step("rmsprop", 5.0, alpha=0.75) == pytest.approx(1 - 0.1 * over_root, abs=1e-6)


@pytest.mark.parametrize(
    ("values", "points"),
    [
        ({"name": "exponential"}, {0: 1, 0.5: 1, 1: 1}),
        ({"name": "exponential", "decay": 0.01}, {0: 1, 0.5: 0.1, 1: 0.01}),
        (
            {"name": "step", "steps": 4, "gamma": 0.5},
            {0: 1, 0.24: 1, 0.25: 0.5, 0.8: 1 / 8, 1: 1 / 8},
        ),
        ({"name": "poly", "power": 0.9}, {0: 1, 0.5: 0.5**0.9, 1: 0}),
        ({"name": "cosine"}, {0: 1, 0.25: (1 + math.sqrt(0.5)) / 2, 0.5: 0.5, 1: 0}),
        ({"name": "cosine", "least": 0.2}, {0: 1, 0.5: 0.6, 1: 0.2}),
    ],
)
def test_schedules_by_their_formulas(values: dict[str, Any], points: dict[float, float]):
    schedule = SCHEDULE.make(values)
    for done, factor in points.items():
        assert schedule.factor(done) == pytest.approx(factor, abs=1e-12)
        assert 0 <= schedule.factor(done) <= 1


@pytest.mark.parametrize(
    ("kind", "values", "said"),
    [
        (OPTIMISER, {"name": "adam", "betas": [0.9]}, "optimiser.betas: two numbers"),
        (OPTIMISER, {"name": "sgd", "momentum": 0.0}, "optimiser.nesterov: needs a momentum"),
        (SCHEDULE, {"name": "poly", "power": 0}, "schedule.power: must be greater than 0"),
        (SCHEDULE, {"name": "none"}, "schedule: there is no 'none'"),
    ],
)
def test_what_cannot_be_is_refused(kind: Any, values: dict[str, Any], said: str):
    with pytest.raises(ConfigError, match=said):
        kind.make(values)


def test_a_run_follows_what_is_asked_for(cli, tmp_path):
    """Each choice gives other weights; a rate that stays is that of no schedule."""
    ways = [[], ["schedule.decay=1.0"], ["optimiser=sgd"], ["optimiser=adamw"], ["schedule=poly"],
            ["schedule=cosine"], ["schedule.decay=0.1"]]  # fmt: skip
    shas = []
    for number, way in enumerate(ways):
        folder = tmp_path / str(number)
        asked = ["strategy=finetune", "timeline.stages=[[A]]", "timeline.rounds=2", *way]
        assert cli(*TINY, *asked, f"run.dir={folder}") == 0
        shas.append(read(folder)["weights_sha256"])
    assert shas[0] == shas[1] and len(set(shas)) == len(shas) - 1
