"""What segmentation minimises: Dice, in several forms, mostly plus cross-entropy."""

from collections.abc import Callable, Sequence
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from fedcl.data.labels import IGNORED


@lru_cache(maxsize=1)
def _dice_and_cross_entropy() -> Callable[[Tensor, Tensor], Tensor]:
    from monai.losses import DiceCELoss  # takes seconds

    loss: Callable[[Tensor, Tensor], Tensor] = DiceCELoss(
        softmax=True, to_onehot_y=True, smooth_nr=1.0, smooth_dr=1.0
    )
    return loss


def segmentation_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return Dice plus cross-entropy.

    Args:
        outputs: logits, shape (N, K, ...).
        targets: classes, shape (N, 1, ...).
    """
    return _dice_and_cross_entropy()(outputs, targets)


def ignoring_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return `segmentation_loss` over the pixels that count.

    Args:
        outputs: logits, shape (N, K, ...).
        targets: classes or `IGNORED`, shape (N, 1, ...).
    """
    from monai.losses import MaskedDiceLoss  # takes seconds
    from monai.networks import one_hot

    counts = targets != IGNORED
    known = targets.where(counts, 0)
    wanted = one_hot(known, outputs.shape[1])
    overlap = MaskedDiceLoss(smooth_nr=1.0, smooth_dr=1.0)(outputs.softmax(1), wanted, counts)
    apart = F.cross_entropy(outputs, known[:, 0], reduction="none")[:, None]
    return overlap + (apart * counts).sum() / counts.sum().clamp(min=1)


def one_ratio_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return Dice as one ratio over batch and classes, plus binary cross-entropy of every class.

    As in the published code of TED (Zhu et al., Medical Image Analysis 2024). Small images and
    classes have less of a say than in `segmentation_loss`, a mean over samples and classes.

    Args:
        outputs: logits, shape (N, K, ...).
        targets: classes or `IGNORED`, shape (N, 1, ...).
    """
    outputs, wanted, counts = _compared(outputs, targets)
    return _one_ratio(outputs.softmax(1), wanted, counts) + _binary(outputs, wanted, counts)


def foreground_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return Dice as one ratio over the batch and all classes but the background.

    That of the students in the published code of MTMS (Biswas, arXiv 2406.03173).

    Args:
        outputs: logits, shape (N, K, ...).
        targets: classes or `IGNORED`, shape (N, 1, ...).
    """
    outputs, wanted, counts = _compared(outputs, targets)
    return _one_ratio(outputs.softmax(1)[:, 1:], wanted[:, 1:], counts)


def foreground_entropy_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return `foreground_loss` plus binary cross-entropy of every class, that of MTMS's teachers.

    Args:
        outputs: logits, shape (N, K, ...).
        targets: classes or `IGNORED`, shape (N, 1, ...).
    """
    return foreground_loss(outputs, targets) + _binary(*_compared(outputs, targets))


def _compared(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return logits in float32 and truth, (N, K, ...), and which voxels count, (N, 1, ...)."""
    from monai.networks import one_hot  # takes seconds

    counts = targets != IGNORED
    wanted = one_hot(targets.where(counts, 0), outputs.shape[1])
    return outputs.float(), wanted, counts


def _one_ratio(found: Tensor, wanted: Tensor, counts: Tensor) -> Tensor:
    both, sizes = found * wanted * counts, (found + wanted) * counts
    return 1 - (2 * both.sum() + 1) / (sizes.sum() + 1)


def _binary(outputs: Tensor, wanted: Tensor, counts: Tensor) -> Tensor:
    """Return the binary cross-entropy of every class's probability, by its log odds.

    By these it is exact however sure an answer is, where a probability rounds to 1 in float32 and
    its logarithm, and the gradient with it, is a matter of rounding.
    """
    classes = range(outputs.shape[1])
    others = [outputs[:, [one for one in classes if one != own]].logsumexp(1) for own in classes]
    odds = outputs - torch.stack(others, dim=1)
    apart = F.binary_cross_entropy_with_logits(odds, wanted.to(odds), reduction="none")
    return (apart * counts).sum() / (counts.sum() * len(classes)).clamp(min=1)


def marginal_loss(outputs: Tensor, targets: Tensor, sets: Sequence[Sequence[int]]) -> Tensor:
    """Return Dice plus cross-entropy where only candidates are known of some voxels' classes.

    The probability of such a voxel's truth is the sum of its candidates' (Fang and Yan, TMI 2020;
    Shi et al., MedIA 2021): no candidate is pushed away in another's favour. In the Dice of a
    sample its candidates are one class; a voxel that has one of them for its class counts as that,
    too.

    Args:
        outputs: logits, shape (N, K, ...).
        targets: classes, `IGNORED`, or -1, -2, ... for the first, second, ... of `sets`, shape
            (N, 1, ...).
        sets: of candidates, class 0 among them.
    """
    from monai.losses import MaskedDiceLoss  # takes seconds
    from monai.networks import one_hot

    outputs, classes = outputs.float(), outputs.shape[1]
    counts = targets != IGNORED
    known = targets.where(counts & (targets >= 0), 0)
    apart = F.cross_entropy(outputs, known[:, 0], reduction="none")[:, None]
    every = outputs.logsumexp(1, keepdim=True)
    merged = torch.zeros(len(outputs), classes, dtype=torch.bool, device=outputs.device)
    for number, members in enumerate(sets, start=1):
        here = targets == -number
        apart = apart.where(~here, every - outputs[:, list(members)].logsumexp(1, keepdim=True))
        merged[:, list(members)] |= here.flatten(1).any(1, keepdim=True)
    merged[:, 0] = False  # the others join it
    wanted, found = (_joined(one, merged) for one in (one_hot(known, classes), outputs.softmax(1)))
    dice = MaskedDiceLoss(smooth_nr=1.0, smooth_dr=1.0, reduction="none")
    overlap = dice(found, wanted, counts).flatten(1)  # 0 for classes that have joined another
    left = classes - merged.sum(1)
    return (overlap.sum(1) / left).mean() + (apart * counts).sum() / counts.sum().clamp(min=1)


def _joined(shares: Tensor, merged: Tensor) -> Tensor:
    """Return shares of classes, (N, K, ...), those of some, (N, K), added to class 0's."""
    gone = merged.view(*merged.shape, *[1] * (shares.ndim - 2))
    first = shares[:, :1] + (shares * gone).sum(1, keepdim=True)
    return torch.cat([first, (shares * ~gone)[:, 1:]], dim=1)


Loss = Callable[[Tensor, Tensor], Tensor]

LOSSES: dict[str, tuple[Loss, Loss]] = {
    "dice_ce": (segmentation_loss, ignoring_loss),
    "dice_bce": (one_ratio_loss, one_ratio_loss),
    "foreground_dice": (foreground_loss, foreground_loss),
    "foreground_dice_bce": (foreground_entropy_loss, foreground_entropy_loss),
}
"""By its name, each loss where all voxels count, and where some may not."""
