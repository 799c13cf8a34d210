"""What segmentation minimises: Dice plus cross-entropy."""

from collections.abc import Callable
from functools import lru_cache

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
