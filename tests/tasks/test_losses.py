"""The losses of segmentation against numbers worked out by hand, and in numpy."""

import math

import numpy as np
import pytest
import torch

from fedcl.data.labels import IGNORED
from fedcl.tasks.losses import ignoring_loss, marginal_loss, segmentation_loss
from fedcl.tasks.segmentation import Segmentation

SETS = ((0, 2), (0, 1, 3))


def of_probabilities(*rows: list[float]) -> torch.Tensor:
    """Return logits, (1, K, 1, voxels), of voxels with these probabilities."""
    return torch.log(torch.tensor(rows)).T[None, :, None]


def drawn(classes: int, *shape: int) -> torch.Tensor:
    """Return random logits that can be trained."""
    rng = torch.Generator().manual_seed(0)
    return torch.randn(shape[0], classes, *shape[1:], generator=rng).requires_grad_()


def worked_out(logits: np.ndarray, targets: np.ndarray, sets: tuple[tuple[int, ...], ...]) -> float:
    """Return the marginal loss, sample by sample and voxel by voxel."""
    chances = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    apart, overlaps = [], []
    for p, labels in zip(chances, targets[:, 0], strict=True):
        open_ = {c for n, one in enumerate(sets, 1) if (labels == -n).any() for c in one}
        groups = [open_ or {0}, *({c} for c in range(1, len(p)) if c not in open_)]
        counts = labels != IGNORED
        for at in zip(*np.nonzero(counts), strict=True):
            label = labels[at]
            may = sets[-label - 1] if label < 0 else (label,)
            apart.append(-math.log(sum(p[(c, *at)] for c in may)))
        dices = []
        for number, group in enumerate(groups):
            true = np.isin(labels, [*group]) | ((labels < 0) if number == 0 else False)
            true, found = true & counts, sum(p[c] for c in group) * counts
            dices.append(1 - (2 * (true * found).sum() + 1) / (true.sum() + found.sum() + 1))
        overlaps.append(np.mean(dices))
    return float(np.mean(overlaps) + np.mean(apart))


def test_candidates_are_one_class_to_the_loss():
    logits = of_probabilities([0.5, 0.3, 0.2], [0.1, 0.8, 0.1])
    found = marginal_loss(logits, torch.tensor([[[[-1, 1]]]]), SETS[:1])
    # Background or class 2: 0.7 where it is, 0.2 where class 1 is. Class 1: 0.3 and 0.8.
    dice = (1 - 2.4 / (1 + 0.9 + 1) + 1 - 2.6 / (1 + 1.1 + 1)) / 2
    assert found.item() == pytest.approx(dice - (math.log(0.7) + math.log(0.8)) / 2, rel=1e-5)


@pytest.mark.parametrize("shape", [(6, 5, 4), (6, 3, 4, 2)])
def test_every_sample_has_the_candidates_of_its_own_masks(shape: tuple[int, ...]):
    logits, rng = drawn(4, *shape), np.random.default_rng(1)
    choices = [[-1, 1, 3], [-2, 2], [0, 1, 2, 3], [-1, IGNORED], [-1, -2, 2], [-2, 0, 1, IGNORED]]
    targets = np.stack([rng.choice(one, (1, *shape[1:])) for one in choices])
    found = marginal_loss(logits, torch.from_numpy(targets), SETS)
    assert found.item() == pytest.approx(
        worked_out(logits.detach().numpy().astype(float), targets, SETS), rel=1e-5
    )


def test_without_candidates_it_is_the_loss_of_known_classes():
    logits, rng = drawn(3, 4, 6, 6), torch.Generator().manual_seed(1)
    targets = torch.randint(3, (4, 1, 6, 6), generator=rng)
    torch.testing.assert_close(
        marginal_loss(logits, targets, SETS[:1]), segmentation_loss(logits, targets)
    )
    targets[torch.rand(targets.shape, generator=rng) < 0.3] = IGNORED
    torch.testing.assert_close(
        marginal_loss(logits, targets, SETS[:1]), ignoring_loss(logits, targets)
    )
    nothing = torch.full_like(targets, IGNORED)
    assert marginal_loss(logits, nothing, SETS[:1]).isfinite()


def test_no_candidate_is_pushed_away():
    logits = drawn(3, 2, 5, 5)
    marginal_loss(logits, torch.full((2, 1, 5, 5), -1), SETS[:1]).backward()
    assert logits.grad is not None
    assert (logits.grad[:, [0, 2]] < 0).all(), "a step raises both that it may be"
    assert (logits.grad[:, 1] > 0).all(), "and lowers the one that it is not"


def test_a_task_takes_unknown_voxels_for_background_where_that_is_asked():
    logits, rng = drawn(3, 2, 5, 5), torch.Generator().manual_seed(1)
    targets = torch.randint(-1, 2, (2, 1, 5, 5), generator=rng)
    naive = Segmentation(1, 3, candidates=SETS[:1], naive=True)
    assert naive.loss(logits, targets).equal(segmentation_loss(logits, targets.clamp(min=0)))
    aware = Segmentation(1, 3, candidates=SETS[:1])
    assert aware.loss(logits, targets).equal(marginal_loss(logits, targets, SETS[:1]))
    known = targets.abs()
    assert Segmentation(1, 3).loss(logits, known).equal(segmentation_loss(logits, known))
