"""Harmony, on pictures whose scanners are known."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import nn

from fedcl.app.simulation import simulate
from fedcl.config.hydra import compose
from fedcl.data.labels import IGNORED
from fedcl.data.samples import Stacked
from fedcl.learning.strategy import SiteSummary
from fedcl.tasks.losses import segmentation_loss
from fedcl.tasks.segmentation import Segmentation
from strategies.harmony import Harmony
from strategies.parts.anatomy import reshape
from strategies.parts.appearance import (
    CELLS,
    KNOTS,
    corrected,
    count,
    curves,
    distributions,
    ends,
    fields,
    mapped,
    parts,
    regions,
)
from tests.conftest import TINY
from tests.small import TASK, ce, logits, make, step

SIZE = 48


def patients(seed: int, many: int = 24) -> tuple[torch.Tensor, torch.Tensor]:
    """Return pictures of a body in air, with an organ in it, and labels of the organ."""
    rng = torch.Generator().manual_seed(seed)
    axis = (torch.arange(SIZE) * 2 + 1) / SIZE - 1
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    move = 0.1 * torch.randn(many, 2, 1, 1, generator=rng)
    away = (x - move[:, 0]).square() + (y - move[:, 1]).square()
    images = torch.where(away < 0.7, 0.2 + 0.3 * (y + 1), -1.0)
    images = torch.where(away < 0.08, 1.5, images)
    images = images + 0.05 * torch.randn(images.shape, generator=rng)
    return images[:, None], (away < 0.08).long()[:, None]


def scanner(images: torch.Tensor) -> torch.Tensor:
    """Return what another scanner shows: inverted, bent, and brighter to the right."""
    _, x, *_ = fields(images)
    return (1.2 - images) * (1 + 0.3 * x) + 0.2 * images.square()


def recalled(
    strategy: Harmony, old: Stacked, own: Stacked, teacher: nn.Module | None = None
) -> dict[str, torch.Tensor]:
    """Return what a site has of an earlier hospital."""
    left = strategy.describe(nn.Identity(), old, TASK.classes)
    assert all(np.isfinite(value).all() for value in left.values())
    memory = {f"0/A/{name}": torch.tensor(value) for name, value in left.items()}
    rng = torch.Generator().manual_seed(0)
    given = dict(task=TASK, samples=own, memory=memory, teacher=teacher, taught=[], rng=rng)
    return dict(strategy.recall(SiteSummary(**given)))


def shown(images: torch.Tensor, known: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return all images mapped to the hospital that is remembered."""
    theta, bounds = (
        known[f"0/A/{name}"].expand(len(images), *known[f"0/A/{name}"].shape)
        for name in ("theta", "ends")
    )
    return mapped(images, theta, known["0/A/own"], bounds)


def harmonised(images, labels, old_images, old_labels):
    """Return images as the old hospital's, with all that leaves that hospital."""
    known = recalled(make("harmony"), Stacked(old_images, old_labels), Stacked(images, labels))
    return shown(images, known)


def test_regions_are_cells_bands_and_classes():
    labels = torch.zeros(1, 1, 48, 48, dtype=torch.int64)
    labels[..., 20:30, 20:30] = 1
    labels[..., 24:26, 24:26] = 2
    labels[..., 0, 0] = -1
    found, cells = regions(labels, 3)[0], CELLS**2
    assert count(2, 3) == cells + 4
    assert found[0, 0] == count(2, 3), "nobody knows its class"
    assert [found[47, 47], found[0, 47], found[9, 1]] == [cells - 1, CELLS - 1, CELLS]
    # 3/64 and 8/64 of 48 pixels: two and six from the square.
    assert [found[25, at].item() - cells for at in (31, 32, 35)] == [1, 0, 0]
    assert found[25, 36] < cells
    assert [found[21, 21], found[24, 24]] == [cells + 2, cells + 3]


def test_distributions_are_numpys_means_of_hats_times_positions():
    images, labels = patients(0, 3)
    span = torch.tensor([[-1.0], [1.0]])
    found, share = distributions(Stacked(images, labels), 2, span)
    where = regions(labels, 2).numpy()
    powers = fields(images).numpy()
    knots = np.linspace(-1, 1, KNOTS)
    hats = [np.interp(images[:, 0].clamp(-1, 1), knots, np.eye(KNOTS)[k]) for k in range(KNOTS)]
    for region in (0, 3, CELLS**2 + 1, CELLS**2 + 2):
        here = where == region
        assert share[region] == pytest.approx(here.mean())
        for knot, power in ((0, 0), (5, 1), (7, 4), (10, 5)):
            expected = (hats[knot] * powers[power])[here].mean()
            assert found[0, region, knot, power] == pytest.approx(expected, abs=1e-6)


def test_an_inverted_scanner_with_a_coil_is_found_from_means_alone():
    old, labels = patients(1)
    images, own = patients(2)
    wanted = scanner(images)
    found = harmonised(images, own, scanner(old), labels)
    before = (images - wanted).square().mean().sqrt()
    after = (found - wanted).square().mean().sqrt()
    assert before > 1.0 and after < 0.1 * before
    organ = own > 0
    assert found[organ].mean() == pytest.approx(float(wanted[organ].mean()), abs=0.05)


def test_the_same_images_stay_as_they_are_and_the_same_scanner_changes_little():
    images, own = patients(2)
    span = ends(Stacked(images, own))
    inside = (images > span[0]) & (images < span[1])
    same = harmonised(images, own, images, own)
    assert (same - images)[inside].abs().max() < 1e-4
    alike = harmonised(images, own, *patients(3))
    assert (alike - images)[inside].abs().mean() < 0.2 * images.std()


def test_the_map_solves_the_penalised_least_squares_of_scipy():
    rng = np.random.default_rng(0)
    own = torch.from_numpy(rng.random((7, 4, 2)))
    level, weight = torch.from_numpy(rng.random(7)), torch.from_numpy(rng.random(7))
    theta = curves(own, torch.tensor([0.0, 3.0]), level, weight).double().numpy()

    def loss(flat: np.ndarray) -> float:
        one = flat.reshape(4, 2)
        fit = weight.numpy() * (np.tensordot(own.numpy(), one, 2) - level.numpy()) ** 2
        bend = 2e-4 * (np.diff(one, n=2, axis=0) ** 2).sum()
        start = np.stack([np.arange(4.0), np.zeros(4)], axis=1)
        return fit.sum() + bend + 3e-5 * (one[:, 1] ** 2).sum() + 1e-4 * ((one - start) ** 2).sum()

    best = minimize(loss, np.zeros(8), method="BFGS", options={"gtol": 1e-9})
    np.testing.assert_allclose(theta.ravel(), best.x, atol=1e-4)


class Bright(nn.Module):
    """A teacher that takes what is brighter than 2 for an organ."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.cat([torch.zeros_like(images), 8 * (images - 2)], dim=1)


PARTIAL = replace(TASK, classes=3, unmarked={"A": (2,), "B": (1,)}, candidates=((0, 1), (0, 2)))
"""A marks class 1 alone, B class 2."""


class Three(Bright):
    """A teacher of three classes, the last of which is what is dark."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.cat([super().forward(images), -8 * images], dim=1)


def test_the_teacher_is_not_asked_for_what_it_has_never_learned():
    images, _ = patients(2)
    samples = Stacked(images, torch.full_like(images, 2).long())
    own, theta = ends(samples), torch.randn(2, 1, 11, 6)
    bounds, rng = own.expand(2, *own.shape), torch.Generator().manual_seed(0)
    given = dict(samples=samples, memory={}, teacher=Three(), rng=rng)
    for task in (PARTIAL, replace(PARTIAL, naive=True)):
        one, both = (SiteSummary(task=task, **given, taught=t) for t in (["A"], ["A", "B"]))
        assert corrected(theta, own, bounds, 3, one).equal(theta)
        assert not corrected(theta, own, bounds, 3, both).equal(theta)


@pytest.mark.parametrize(("task", "moved"), [(TASK, True), (PARTIAL, False)])
def test_organs_are_not_moved_where_sites_mark_other_ones(task: Segmentation, moved: bool):
    images, labels = patients(2)
    memory = recalled(make("harmony", look=False), *[Stacked(images, labels)] * 2)
    answers = torch.zeros(1, task.classes, SIZE, SIZE)
    here = step(answers, answers, inputs=images, targets=labels, memory=memory, task=task)
    make("harmony", look=False).distil(here)
    assert here.teacher.shown[-1].equal(images) != moved


def test_maps_are_corrected_where_the_teacher_is_wrong_about_them():
    old, labels = patients(1)
    images, own = patients(2)
    # What leaves the old hospital is wrong about its organs: they are as bright as the body.
    left = torch.where(labels > 0, 0.5, 2 * old)
    sides = Stacked(left, labels), Stacked(images, own)
    loss = {
        steps: float(TASK.loss(Bright()(shown(images, known)), own))
        for steps in (0, 10, 40)
        if (known := recalled(make("harmony", correct=steps), *sides, Bright()))
    }
    assert loss[40] < loss[10] < loss[0]


def test_terms_and_switches():
    images, labels = patients(4, 2)
    strategy = make("harmony", kd=3.0, seg=2.0, shape=False)
    memory = recalled(strategy, Stacked(scanner(images), labels), Stacked(images, labels))
    p, q = torch.full((SIZE * SIZE,), 0.8), torch.full((SIZE * SIZE,), 0.9)
    answers = [logits(*one.tolist()).reshape(1, 2, SIZE, SIZE) for one in (p, q)]
    given = dict(inputs=images, targets=labels, memory=memory)
    here = step(*answers, **given)
    terms = strategy.objective(here)
    assert set(terms) == {"seg", "kd", "harmonised"}
    assert terms["kd"].item() == pytest.approx(3 * ce(0.9, 0.8), rel=1e-4)
    expected = 2 * segmentation_loss(answers[0].expand(2, -1, -1, -1), labels).item()
    assert terms["harmonised"].item() == pytest.approx(expected, rel=1e-4)
    assert here.student.shown[-1].equal(here.teacher.shown[-1])
    assert (here.student.shown[-1] - images).abs().mean() > 0.5
    plain = step(*answers, **given)
    assert set(make("harmony", seg=0.0, look=False, shape=False).objective(plain)) == {"seg", "kd"}
    assert plain.student.shown[-1].equal(images)


def test_what_the_old_model_was_never_taught_counts_as_background():
    task = Segmentation(1, 3, unmarked={"A": (2,), "B": (1,)}, candidates=((0, 1), (0, 2)))
    p, q = (
        torch.tensor(one).log().reshape(1, 3, 1, 1).expand(-1, -1, 4, 4)
        for one in ([0.5, 0.3, 0.2], [0.6, 0.3, 0.1])
    )
    given = dict(inputs=torch.zeros(1, 1, 4, 4), targets=torch.full((1, 1, 4, 4), -1), task=task)
    here = step(p, q, **given, memory={"0/A/left": torch.zeros(1)})
    strategy = make("harmony", kd=2.0, look=False)
    new = strategy.distil(replace(here, taught=["A"]))["kd"].item()
    assert new == pytest.approx(-2 * (0.7 * np.log(0.7) + 0.3 * np.log(0.3)), rel=1e-4)
    known = strategy.distil(replace(here, taught=["A", "B"]))["kd"].item()
    whole = 0.6 * np.log(0.5) + 0.3 * np.log(0.3) + 0.1 * np.log(0.2)
    assert known == pytest.approx(-2 * whole, rel=1e-4)


@pytest.mark.parametrize("labels", [0, 1, -1])
@pytest.mark.parametrize("shape", [(2, 1, 8, 8), (2, 2, 4, 6, 8)])
def test_what_tells_nothing_is_borne(shape: tuple[int, ...], labels: int):
    images, marks = torch.zeros(shape), torch.full((2, 1, *shape[2:]), labels)
    strategy, own = make("harmony"), Stacked(images, marks)
    memory = recalled(strategy, own, own)
    assert torch.isfinite(shown(images, memory)).all()


def test_what_leaves_is_a_few_means_and_no_sum_depends_on_unknown_classes():
    images, labels = patients(5, 8)
    strategy = make("harmony")
    forms = strategy.reporting(nn.Identity(), TASK, (1, SIZE, SIZE)).forms
    assert sum(int(np.prod(form.shape)) for form in forms.values()) < 100
    unknown = labels.clone()
    unknown[:, :, :10] = -1
    left = strategy.describe(nn.Identity(), Stacked(images, unknown), TASK.classes)
    images[:, :, :10] = 1e3
    again = strategy.describe(nn.Identity(), Stacked(images, unknown), TASK.classes)
    known = left["share"] > 0
    assert not left["share"][:CELLS].any() and known.sum() > 20
    np.testing.assert_allclose(left["share"], again["share"])


def test_what_counts_nowhere_is_no_organ_and_no_class():
    images, labels = patients(7, 6)
    labels[:, :, :6] = IGNORED
    samples, strategy = Stacked(images, labels), make("harmony")
    found = regions(labels, TASK.classes)
    assert (found[:, :6] == count(2, TASK.classes)).all() and (found[:, 6:] < CELLS**2 + 3).all()
    left = strategy.describe(nn.Identity(), samples, TASK.classes)
    unknown = Stacked(images, labels.where(labels != IGNORED, -1))
    same = strategy.describe(nn.Identity(), unknown, TASK.classes)
    assert all(np.array_equal(value, same[name]) for name, value in left.items())
    place = torch.tensor(left["place"]).expand(6, 2, 4)
    known, (rng, other) = torch.ones(6) > 0, [torch.Generator().manual_seed(1) for _ in "ab"]
    moved, marks = reshape(images, labels, place, known, rng)
    again, others = reshape(images, unknown.targets, place, known, other)
    assert moved.equal(again) and marks.where(marks != IGNORED, -1).equal(others)


@pytest.mark.parametrize(
    ("size", "expected"),
    [((160, 160), [10] * 2), ((64, 64, 64), [1] * 20), ((16, 64, 64), [4] * 5)],
)
def test_volumes_are_summed_few_at_a_time(size: tuple[int, ...], expected: list[int]):
    samples = Stacked(torch.zeros(1, 1, *size).expand(20, 1, *size), torch.zeros(20, 1, 1, 1))
    assert [len(images) for images, _ in parts(samples)] == expected


def test_noise_on_a_report_neither_counts_regions_negatively_nor_turns_images_into_one_value():
    images, labels = patients(6, 8)
    samples, strategy = Stacked(images, labels), make("harmony")
    left = strategy.describe(nn.Identity(), samples, TASK.classes)
    forms = strategy.reporting(nn.Identity(), TASK, (1, SIZE, SIZE)).forms
    assert all(form.problem(left[name]) is None for name, form in forms.items())
    for name, wrong in (("share", -left["share"]), ("organ", left["organ"] * 0 + 1.5)):
        assert "outside of [0, 1]" in str(forms[name].problem(wrong))
    known = recalled(strategy, samples, samples)
    right = shown(images, known)
    assert shown(images, known | {"0/A/ends": known["0/A/ends"].flip(0)}).equal(right)
    assert right.std() > 0.5


def test_however_many_hospitals_a_process_answers_for_each_recalls_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    asked, recall = [], Harmony.recall
    monkeypatch.setattr(
        Harmony, "recall", lambda self, summary: asked.append(summary) or recall(self, summary)
    )
    more = ["strategy=harmony", "strategy.correct=0"]
    simulate(compose([*TINY, *more, "timeline.stages=[[A],[B,C,D,E,F]]"]), tmp_path / "run")
    assert len(asked) == 5, "of two rounds each"
