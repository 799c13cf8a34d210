"""The training loop: budget, which weights are kept, what stops it."""

import pytest
import torch
from torch import nn

from fedcl.data.cases import Case
from fedcl.data.samples import Stacked
from fedcl.errors import ConfigError, RunError
from fedcl.learning import loop
from fedcl.learning.learner import Learner
from fedcl.learning.step import Lesson, Step, joined
from fedcl.learning.strategy import Strategy
from fedcl.models.base import Layers, Model
from fedcl.registry import STRATEGY
from fedcl.seeding import seeded, torch_rng
from fedcl.settings import parse
from tests.small import TASK

FINETUNE = STRATEGY.make({"name": "finetune"})


def network() -> nn.Module:
    with seeded("net"):
        return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1))


def slices(count: int = 10) -> Stacked:
    rng = torch_rng("slices")
    images = torch.randn(count, 1, 8, 8, generator=rng)
    return Stacked(images, (images > 0.5).long())


def train(student: nn.Module, settings: Learner, **more: object) -> dict[str, float]:
    arguments = {"strategy": FINETUNE, "lr": lambda share: 0.01, "keys": ("train",)} | more
    return loop.train(Lesson(task=TASK, student=student), slices(), settings, **arguments)


class Counted(nn.Module):
    """Counts its training passes."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.passes = network(), 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.passes += self.training
        return self.net(x)


@pytest.mark.parametrize(
    ("settings", "steps"),
    [
        (Learner(batch_size=4, epochs=3), 9),
        (Learner(batch_size=5, epochs=1), 2),
        (Learner(batch_size=4, epochs=3, steps=2), 2),
        (Learner(batch_size=4, epochs=1, steps=7), 7),
    ],
)
def test_budget_in_epochs_or_steps(settings: Learner, steps: int):
    student = Counted()
    train(student, settings)
    assert student.passes == steps


def test_every_epoch_shows_every_slice_once_in_a_new_order():
    drawn = TASK.batches(10, 4, torch_rng("order"))
    first, second = (torch.cat([next(drawn) for _ in range(3)]) for _ in range(2))
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(10))
    assert first.tolist() != second.tolist()


def test_training_learns():
    student = network()
    early = train(student, Learner(epochs=1))["seg"]
    for _ in range(8):
        late = train(student, Learner(epochs=5))["seg"]
    assert late < 0.7 * early


def test_same_seed_same_bits():
    one, two = network(), network()
    train(one, Learner()), train(two, Learner())
    pairs = zip(one.state_dict().values(), two.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_what_a_strategy_draws_leaves_the_order_of_the_samples_alone():
    """Methods that draw and methods that do not are compared on the same batches."""

    def seen(draws: int, *keys: str | int) -> tuple[list[list[int]], list[float]]:
        order: list[list[int]] = []
        drawn: list[float] = []

        class Drawing(type(FINETUNE)):  # type: ignore[misc]
            def objective(self, step: Step) -> dict[str, torch.Tensor]:
                order.append(step.index.tolist())
                drawn.extend(torch.rand(draws, generator=step.rng).tolist())
                return super().objective(step)

        train(network(), Learner(batch_size=4, epochs=2), strategy=Drawing(), keys=keys)
        return order, drawn

    (none, _), (order, drawn) = seen(0, "site", 1), seen(3, "site", 1)
    assert none == order and len({tuple(batch) for batch in order}) == 6
    assert (order, drawn) == seen(3, "site", 1), "same keys, same bits"
    assert drawn == torch.rand(18, generator=torch_rng("drawn", "site", 1)).tolist()
    other, drawn_there = seen(3, "site", 2)
    assert other != order and drawn_there != drawn


@pytest.mark.parametrize(("keep", "kept"), [("last", 2), ("best", 1)])
def test_which_epoch_is_kept(keep: str, kept: int):
    student, states, scores = network(), [], iter([0.2, 0.9, 0.4])

    def validate() -> float:
        states.append({k: v.clone() for k, v in student.state_dict().items()})
        return next(scores)

    train(student, Learner(epochs=3, keep=keep), validate=validate)
    if keep == "last":
        assert states == [], "validation costs nothing where it is not needed"
        return
    assert all(torch.equal(v, states[kept][k]) for k, v in student.state_dict().items())


def test_what_is_trained_beside_the_student_is_of_the_same_epoch():
    class Beside(type(FINETUNE)):  # type: ignore[misc]
        def objective(self, step: Step) -> dict[str, torch.Tensor]:
            weight = step.auxiliary.weight.sum()
            return {"seg": super().objective(step)["seg"] + weight}

    beside, states, scores = torch.nn.Linear(1, 1), [], iter([0.2, 0.9, 0.4])

    def validate() -> float:
        states.append(beside.weight.item())
        return next(scores)

    lesson = Lesson(task=TASK, student=network(), auxiliary=beside)
    settings = Learner(epochs=3, keep="best")
    loop.train(lesson, slices(), settings, Beside(), lambda _: 0.01, ("train",), validate=validate)
    assert beside.weight.item() == states[1] != states[2]


@pytest.mark.parametrize(("clip", "bounded"), [(1e-3, True), (None, False)])
def test_clipping_bounds_the_gradient(clip: float | None, bounded: bool):
    student, norms = network(), []

    class Watched(type(FINETUNE)):  # type: ignore[misc]
        def objective(self, step: object) -> dict[str, torch.Tensor]:
            left = [p.grad for p in student.parameters() if p.grad is not None]  # last step's
            if left:
                norms.append(torch.cat([g.flatten() for g in left]).norm().item())
            return {name: 1e4 * term for name, term in super().objective(step).items()}

    train(student, Learner(epochs=3, clip=clip), strategy=Watched())
    assert len(norms) == 5
    assert all(norm <= 1.001e-3 for norm in norms) == bounded


def test_a_loss_that_is_not_finite_stops_and_names_the_term():
    class Broken(type(FINETUNE)):  # type: ignore[misc]
        losses = ("extra",)

        def objective(self, step: object) -> dict[str, torch.Tensor]:
            return super().objective(step) | {"extra": step.outputs.sum() * float("nan")}

    with pytest.raises(RunError, match=r"not finite.*extra"):
        train(network(), Learner(), strategy=Broken())


def test_learning_rate_per_stage_repeats_the_last():
    assert [Learner(lr=[0.1, 0.01]).rate(stage) for stage in range(4)] == [0.1, 0.01, 0.01, 0.01]
    assert Learner(lr=0.5).rate(7) == 0.5


@pytest.mark.parametrize("rate", [0, -1.0, "fast", [], [0.1, -0.1], True, float("nan")])
def test_bad_learning_rates_are_refused(rate: object):
    with pytest.raises(ConfigError, match=r"learner\.lr: must be"):
        parse(Learner, {"lr": rate}, "learner")


def test_prediction_leaves_the_network_in_evaluation_mode_and_has_the_cases_shape():
    net = network()
    case = Case.of("p", torch.randn(1, 3, 8, 8), torch.zeros(3, 8, 8, dtype=torch.uint8))
    (found,) = TASK.predict(net, case, torch.device("cpu"), amp=True)
    assert found.shape == (2, 3, 8, 8)
    torch.testing.assert_close(found.sum(0), torch.ones(3, 8, 8))
    assert not net.training
    with torch.no_grad():
        expected = net(case.images).softmax(1).movedim(0, 1)
    torch.testing.assert_close(found, expected)


def test_a_loss_is_never_lost_to_another_of_its_name():
    """Neither between strategy and model nor within a strategy."""
    one, two = {"seg": torch.tensor(1.0)}, {"kd": torch.tensor(2.0)}
    assert set(joined(one, two)) == {"seg", "kd"}
    with pytest.raises(RunError, match="two loss terms are called seg; rename one"):
        joined(one, two, {"seg": torch.tensor(3.0)})


def test_a_model_whose_loss_is_called_as_the_strategys_is_refused():
    class Clashing(Model):
        def watched(self, network: nn.Module) -> Layers:
            return Layers(aside=[network])

        def terms(
            self, aside: object, inputs: torch.Tensor, loss: object
        ) -> dict[str, torch.Tensor]:
            return {"seg": inputs.sum()}

    samples = Stacked(torch.randn(4, 1, 8, 8), torch.zeros(4, 1, 8, 8, dtype=torch.int64))
    lesson = Lesson(task=TASK, student=network(), model=Clashing())
    with pytest.raises(RunError, match="two loss terms are called seg"):
        loop.train(lesson, samples, Learner(steps=1), Strategy(), lambda _: 0.01, ("clash",))


def test_a_loss_term_that_is_not_declared_is_refused_where_it_is_made():
    """The server would not take it."""

    class Foreign(type(FINETUNE)):  # type: ignore[misc]
        def objective(self, step: Step) -> dict[str, torch.Tensor]:
            return super().objective(step) | {"extra": step.outputs.sum()}

    with pytest.raises(RunError, match="loss term 'extra' is not declared; name it in `losses`"):
        train(network(), Learner(), strategy=Foreign())


def test_what_is_frozen_has_no_say_in_clipping():
    """A network is used again in later stages: what was learned then may be frozen now."""
    weights = []
    for stale in (None, 1e3):
        student = network()
        frozen = student[0].requires_grad_(False)
        for one in frozen.parameters():
            one.grad = None if stale is None else torch.full_like(one, stale)
        train(student, Learner(batch_size=5, steps=3, clip=0.01))
        weights.append(student[2].weight)
    assert torch.equal(*weights) and not torch.equal(weights[0], network()[2].weight)
