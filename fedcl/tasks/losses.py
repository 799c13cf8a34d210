"""What segmentation minimises: Dice plus cross-entropy, in two forms."""

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


SURE = 1e-8
"""How far from 0 and 1 probabilities stay in `one_ratio_loss`."""


def one_ratio_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return Dice as one ratio over batch and classes, plus binary cross-entropy of every class.

    As in the published code of TED (Zhu et al., Medical Image Analysis 2024). Small images and
    classes have less of a say than in `segmentation_loss`, a mean over samples and classes.

    Args:
        outputs: logits, shape (N, K, ...).
        targets: classes or `IGNORED`, shape (N, 1, ...).
    """
    from monai.networks import one_hot  # takes seconds

    counts = targets != IGNORED
    wanted = one_hot(targets.where(counts, 0), outputs.shape[1])
    found = outputs.float().softmax(1).clamp(SURE, 1 - SURE)
    apart = F.binary_cross_entropy(found, wanted, reduction="none")
    voxels = (counts.sum() * outputs.shape[1]).clamp(min=1)
    both, sizes = found * wanted * counts, (found + wanted) * counts
    overlap = 1 - (2 * both.sum() + 1) / (sizes.sum() + 1)
    return overlap + (apart * counts).sum() / voxels


Loss = Callable[[Tensor, Tensor], Tensor]

LOSSES: dict[str, tuple[Loss, Loss]] = {
    "dice_ce": (segmentation_loss, ignoring_loss),
    "dice_bce": (one_ratio_loss, one_ratio_loss),
}
"""By its name, each loss where all voxels count, and where some may not."""
