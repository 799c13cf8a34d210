"""Baselines and regularisers on tensors small enough to reckon by hand."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from fedcl.data.samples import Stacked
from fedcl.errors import ConfigError
from fedcl.learning.hooks import SiteSummary
from fedcl.learning.step import Step
from fedcl.registry import MODEL
from fedcl.tasks.losses import marginal_loss
from fedcl.tasks.segmentation import Segmentation
from fedcl.timeline import Timeline
from strategies.parts.distillation import as_background, merged
from tests.small import Fixed, Whole, logits, make, step
from tests.summaries import Line, past

TIMELINE = Timeline((("A", "B"), ("C",), ("D",)), rounds=2)


# --- FedProx ---------------------------------------------------------------------------------


def test_fedprox_squares_the_way_from_the_rounds_start():
    here = step(logits(0.8, 0.3), None)
    with torch.no_grad():
        here.student.logits += torch.tensor([0.0, 2.0]).reshape(1, 2, 1, 1)
    terms = make("fedprox", mu=0.3).objective(here)
    assert terms["prox"].item() == pytest.approx(0.3 / 2 * (2**2 + 2**2), rel=1e-5)
    terms["prox"].backward()
    assert here.student.logits.grad.flatten().tolist() == pytest.approx([0, 0, 0.6, 0.6])


# --- FedBN -----------------------------------------------------------------------------------


def test_fedbn_keeps_weights_and_statistics_of_every_normalisation():
    network = nn.Sequential(
        nn.Conv2d(1, 2, 1),
        nn.BatchNorm2d(2),
        nn.GroupNorm(1, 2),
        nn.Sequential(nn.InstanceNorm2d(2, affine=True)),
    )
    statistics = {"running_mean", "running_var", "num_batches_tracked"}
    assert make("fedbn").partition(network, 0).local == (
        {f"1.{name}" for name in {"weight", "bias"} | statistics}
        | {"2.weight", "2.bias", "3.0.weight", "3.0.bias"}
    )


def test_fedbn_says_that_a_model_has_nothing_to_keep():
    with pytest.raises(ConfigError, match=r"model\.norm=batch"):
        make("fedbn").partition(nn.Sequential(nn.Conv2d(1, 2, 1), nn.InstanceNorm2d(2)), 0)


# --- EWC and MAS -----------------------------------------------------------------------------


SLICES = Stacked(torch.tensor([1.0, -2.0]).reshape(2, 1, 1, 1), torch.tensor([[[[1]]], [[[0]]]]))


def test_ewc_fisher_is_the_mean_of_the_squared_gradients_of_each_slice():
    told = make("ewc").importance(Line(), SLICES)
    # d CE / d b = p - y with p = sigmoid(a x): x = 1, y = 1 and x = -2, y = 0
    g = [1 / (1 + math.exp(-0.5)) - 1, 1 / (1 + math.exp(1.0))]
    assert told["b"] == pytest.approx((g[0] ** 2 + g[1] ** 2) / 2, rel=1e-5)
    assert told["a"] == pytest.approx((g[0] ** 2 + (2 * g[1]) ** 2) / 2, rel=1e-5)


def test_mas_importance_is_the_mean_absolute_gradient_of_the_squared_norm():
    told = make("mas").importance(Line(), SLICES)
    # d (a x + b)^2 / d b = 2 (a x + b): 1 and -2; d / d a = 2 (a x + b) x: 1 and 4
    assert (told["b"], told["a"]) == (pytest.approx(1.5), pytest.approx(2.5))


@pytest.mark.parametrize("name", ["ewc", "mas"])
def test_importance_is_averaged_by_slices_scaled_to_mean_1_and_summed(name: str):
    reports = {"A": {"w": np.float32([1, 3])}, "B": {"w": np.float32([4, 0])}}
    told = past(Line(), reports=reports, samples={"A": 1, "B": 2}, memory={"w": np.float32([5, 7])})
    mean = np.array([(1 + 8) / 3, 3 / 3])
    np.testing.assert_allclose(
        make(name).remember(told)["w"], [5, 7] + mean / mean.mean(), rtol=1e-6
    )


@pytest.mark.parametrize("name", ["ewc", "mas"])
def test_the_penalty_weighs_the_way_from_the_anchor(name: str):
    student, anchor = Line(1.0, 2.0), Line(0.5, -1.0)
    memory = {"a": torch.tensor(4.0), "b": torch.tensor(2.0)}
    here = step(logits(0.5), logits(0.5), student=student, teacher=anchor, memory=memory)
    value = make(name, weight=3.0).distil(here)["penalty"]
    assert value.item() == pytest.approx(3 / 2 * (4 * 0.5**2 + 2 * 3**2))


# --- PLOP ------------------------------------------------------------------------------------


def test_plop_embeds_row_and_column_means_of_every_window():
    feature = torch.tensor([[1.0, 2.0], [3.0, 6.0]]).reshape(1, 1, 2, 2)
    whole = [1.5, 4.5, 2.0, 4.0]  # over columns, one per row; over rows, one per column
    halves = [1.0, 2.0, 3.0, 6.0] * 2  # two windows of one column, then of one row
    embedded = make("plop", windows=[1, 2]).embed(feature)[0]
    expected = torch.tensor(whole + halves)
    torch.testing.assert_close(embedded, expected / expected.norm())


def test_plop_is_the_squared_distance_of_the_embeddings():
    student, teacher = Fixed(logits(0.8, 0.3)), Fixed(logits(0.9, 0.4))
    here = step(
        logits(0.8, 0.3),
        logits(0.9, 0.4),
        student=student,
        teacher=teacher,
        model=Whole(),
        teacher_model=Whole(),
    )
    plop = make("plop", pod=2.0, windows=[1])
    a, b = plop.embed(student.logits), plop.embed(teacher.logits)
    terms = plop.objective(here)
    assert terms["pod"].item() == pytest.approx(2 * ((a - b) ** 2).sum().item(), rel=1e-5)
    terms["pod"].backward()
    assert torch.isfinite(student.logits.grad).all() and student.logits.grad.abs().sum() > 0


def test_plop_leaves_labels_alone_where_all_classes_are_marked():
    here = step(logits(0.5, 0.5), logits(0.99, 0.99))
    assert make("plop").pseudo_labels(here) is here.targets


# --- MiB -------------------------------------------------------------------------------------


THREE = torch.log(torch.tensor([0.5, 0.3, 0.2])).reshape(1, 3, 1, 1)


def test_mib_background_takes_over_the_probability_of_classes():
    p = as_background(THREE, [2]).softmax(1).flatten().tolist()
    assert p == pytest.approx([0.7, 0.3, 0.0], abs=1e-6)


def test_an_answer_counts_as_background_of_classes_that_the_teacher_does_not_know():
    knows = merged(torch.tensor([0.5, 0.3, 0.2]).reshape(1, 3, 1, 1), [2])
    assert knows.flatten().tolist() == pytest.approx([0.7, 0.3, 0.0])


def partly(teacher: torch.Tensor | None, *targets: int, **more: object) -> Step:
    """Return a step at a site of which class 1 is marked and class 2 is not, or the reverse."""
    task = Segmentation(1, 3, unmarked={"A": (2,), "B": (1,)}, candidates=((0, 1), (0, 2)), **more)
    labels = torch.tensor(targets).reshape(1, 1, 1, -1)
    return step(THREE.expand(-1, -1, -1, len(targets)), teacher, task=task, targets=labels)


@pytest.mark.parametrize("naive", [False, True])
def test_mib_takes_from_the_scenario_what_is_not_marked(naive: bool):
    q = torch.log(torch.tensor([0.6, 0.3, 0.1])).reshape(1, 3, 1, 1).expand(-1, -1, -1, 2)
    here = replace(partly(q, -1, 2, naive=naive), taught=["A"])  # B trains, A has taught
    terms = make("mib", kd=2.0).objective(here)
    kd = -(0.7 * math.log(0.7) + 0.3 * math.log(0.3))  # of class 2 the teacher knows nothing
    assert terms["kd"].item() == pytest.approx(2 * kd, rel=1e-4)
    seg = marginal_loss(here.outputs, here.targets, here.task.candidates)
    assert terms["seg"].item() == seg.item(), "whatever the other methods take background for"
    both = make("mib", kd=2.0).objective(replace(here, taught=["A", "B"]))
    kd = -(0.6 * math.log(0.5) + 0.3 * math.log(0.3) + 0.1 * math.log(0.2))
    assert both["kd"].item() == pytest.approx(2 * kd, rel=1e-4)
    for term in terms.values():
        here.student.zero_grad()
        term.backward(retain_graph=True)
        assert torch.isfinite(here.student.logits.grad).all()


def test_plop_fills_in_what_a_site_does_not_mark():
    of = {0: [1.0, 1e-9, 1e-9], 1: [1e-9, 1.0, 1e-9], 2: [1e-9, 1e-9, 1.0]}
    q = torch.tensor([of[1], of[2], of[0], [0.5, 0.3, 0.2], of[1], of[1]]).T[None, :, None].log()
    here = partly(q, -1, -1, -1, -1, -2, 2)  # -1: background or class 1; -2: or class 2
    here = replace(here, memory={"doubt": torch.full((3,), 0.1)})
    found = make("plop").pseudo_labels(here)
    assert found.flatten().tolist() == [1, -1, 0, -1, -2, 2]


@pytest.mark.parametrize(("surest", "entropy"), [(0.5, 0.001), (0.2, 0.001), (0.5, 0.8), (0, 0)])
def test_plop_is_as_sure_of_a_class_as_the_teachers_median(surest: float, entropy: float):
    rng = torch.Generator().manual_seed(0)
    images = 2 * torch.randn(5, 3, 40, 40, generator=rng)  # the teacher gives them as logits
    images[:, 2] -= 100 * (images[:, 2] < images.amax(1)) + 100  # and never answers class 2
    task = Segmentation(3, 3, unmarked={"A": (2,), "B": (1,)}, candidates=((0, 1), (0, 2)))
    labels = torch.full((5, 1, 40, 40), -1)
    labels[:, :, :5] = 2  # what is marked is not looked at
    summary = SiteSummary(
        task=task, samples=Stacked(images, labels), memory={}, teacher=nn.Identity(), taught=["A"],
        rng=rng,
    )  # fmt: skip
    found = make("plop", surest=surest, entropy=entropy).recall(summary)["doubt"]
    p = images[:, :, 5:].softmax(1).movedim(1, -1).reshape(-1, 3).double().numpy()
    doubts = -(p * np.log(p.clip(1e-12))).sum(1) / math.log(3)
    for number in (0, 1):
        own = np.quantile(doubts[p.argmax(1) == number], surest) if surest else 0
        assert found[number] == pytest.approx(max(own, entropy), abs=0.003)
    assert found[2] == pytest.approx(entropy), "which the teacher never answers"
    assert dict(make("plop").recall(replace(summary, teacher=None))) == {}
    unsure = replace(summary, samples=Stacked(images / 50, labels))
    assert not make("plop", surest=0, entropy=0).recall(unsure)["doubt"].any()


@pytest.mark.parametrize("name", ["mib", "plop"])
def test_what_corrects_the_last_outputs_takes_no_coarser_ones(name: str):
    """Deep supervision would judge those by the labels as they are, and unlearn what is old."""
    task = partly(None, 0).task
    deep, plain = (MODEL.make({"name": "dynunet", "supervised": n}) for n in (1, 0))
    make(name).check(task, plain)
    make(name).check(Segmentation(1, 3), deep)
    with pytest.raises(ConfigError, match=r"model\.supervised"):
        make(name).check(task, deep)
    if name == "mib":
        with pytest.raises(ConfigError, match=r"scenario\.loss: there is no unbiased dice_bce"):
            make(name).check(replace(task, form="dice_bce"), plain)


def test_mib_is_lwf_where_all_classes_are_marked():
    one = make("mib", kd=0.7).objective(step(logits(0.8, 0.1), logits(0.9, 0.2)))
    two = make("lwf", kd=0.7).objective(step(logits(0.8, 0.1), logits(0.9, 0.2)))
    assert {k: v.item() for k, v in one.items()} == {k: v.item() for k, v in two.items()}


# --- replay ----------------------------------------------------------------------------------


def test_replay_calls_everyone_back_but_only_new_sites_learn():
    replay = make("replay")
    assert replay.plan(TIMELINE, 1).cohort == ["A", "B", "C"]
    assert replay.plan(TIMELINE, 1).learning == ["C"]


@pytest.mark.parametrize(("limit", "kept"), [(3, 3), (50, 10)])
def test_replay_keeps_at_most_its_bound(limit: int, kept: int):
    images = torch.arange(10.0).reshape(10, 1, 1, 1)
    slices = Stacked(images, images.long())
    buffer = make("replay", slices=limit).buffer(slices, torch.Generator().manual_seed(1))
    values = buffer.inputs.flatten().tolist()
    assert len(set(values)) == kept and values == sorted(values)
    assert buffer.targets.flatten().tolist() == values
