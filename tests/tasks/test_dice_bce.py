"""Dice as one ratio plus binary cross-entropy, against values of TED's published code.

`dice_bce.npz`: logits and labels drawn from a seed (3 images of 16 x 16, two and three classes),
and what the code of the paper gives on them, with its gradients.
"""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from fedcl.data.labels import IGNORED
from fedcl.tasks.losses import LOSSES, one_ratio_loss
from fedcl.tasks.segmentation import Segmentation
from tests.images import folder

RECORDED = np.load(Path(__file__).parent / "dice_bce.npz")


def recorded(classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return logits and targets."""
    logits = torch.from_numpy(RECORDED[f"k{classes}/student"]).requires_grad_()
    return logits, torch.from_numpy(RECORDED[f"k{classes}/labels"]).long()[:, None]


@pytest.mark.parametrize("classes", [2, 3])
def test_parity_of_the_loss_and_its_gradient(classes: int):
    logits, targets = recorded(classes)
    loss = one_ratio_loss(logits, targets)
    expected = sum(float(RECORDED[f"k{classes}/value/{term}"]) for term in ("dice", "bce"))
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    (gradient,) = torch.autograd.grad(loss, logits)
    wanted = sum(RECORDED[f"k{classes}/gradient/{term}"] for term in ("dice", "bce"))
    np.testing.assert_allclose(gradient.numpy(), wanted, rtol=1e-3, atol=1e-8)


def test_what_is_ignored_has_no_say_in_the_ratio():
    """As if the ignored rows were not there."""
    logits, targets = recorded(3)
    masked = targets.clone()
    masked[:, :, :4] = IGNORED
    found = one_ratio_loss(logits, masked)
    assert found.item() == pytest.approx(one_ratio_loss(logits[:, :, 4:], targets[:, :, 4:]).item())
    assert not torch.autograd.grad(found, logits)[0][:, :, :4].any()


@pytest.mark.parametrize("gap", [1.0, 16.5, 17.0, 25.0, 80.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_surer_a_wrong_answer_the_larger_its_loss_and_its_gradient_never_explodes(
    gap: float, dtype: torch.dtype
):
    """One voxel, two classes: both have log odds of `gap` for what is wrong."""
    logits = torch.tensor([[[[gap]], [[0.0]]]], dtype=dtype, requires_grad=True)
    wrong = torch.ones(1, 1, 1, 1, dtype=torch.int64)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
        loss = one_ratio_loss(logits, wrong)
    sure = 1 / (1 + math.exp(-gap))
    dice = 1 - (2 * (1 - sure) + 1) / (2 + 1)
    assert loss.item() == pytest.approx(dice + math.log1p(math.exp(gap)), rel=0.01)
    loss.backward()
    assert logits.grad[0, 0].item() == pytest.approx(sure, abs=0.2)


def test_the_ratio_without_background_by_hand():
    """Two images of two voxels; of class 1 they say 0.8 and 0.4, 0.5 and 0.1, and have one each."""
    p = torch.tensor([[0.8, 0.4], [0.5, 0.1]])
    logits = torch.stack([(1 - p).log(), p.log()], dim=1)
    targets = torch.tensor([[[1, 0]], [[0, 1]]])
    dice = 1 - (2 * (0.8 + 0.1) + 1) / (1.8 + 2 + 1)
    assert LOSSES["foreground_dice"][0](logits, targets).item() == pytest.approx(dice)
    entropy = -(math.log(0.8) + math.log(0.6) + math.log(0.5) + math.log(0.1)) / 4
    both = LOSSES["foreground_dice_bce"][0](logits, targets)
    assert both.item() == pytest.approx(dice + entropy)


@pytest.mark.parametrize("ignore", [[], [9]])
def test_the_loss_is_a_setting(ignore: list[int]):
    logits, targets = recorded(2)
    task = folder(loss="dice_bce", ignore=ignore).task
    assert torch.equal(task.loss(logits, targets), one_ratio_loss(logits, targets))
    other = Segmentation(1, 2).loss(logits, targets)
    assert abs(task.loss(logits, targets) - other) > 0.05
