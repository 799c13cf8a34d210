"""Scores of one case (patient), over the whole stack of its slices."""

import math
import warnings

import torch
from monai.metrics import compute_dice, compute_hausdorff_distance, compute_iou
from torch import Tensor
from torch.nn import functional as F

SCORES = ("dice", "iou", "hd95")


def dice(prediction: Tensor, label: Tensor, classes: int) -> float:
    """Return the Dice score 2|P n L| / (|P| + |L|), mean over foreground classes.

    Args:
        prediction: class indices, shape (D, H, W).
        label: likewise.
        classes: number of classes, background included.

    A class empty in both counts as 1, empty in one of them as 0.
    """
    p, l = _onehot(prediction, classes), _onehot(label, classes)
    return float(compute_dice(p, l, include_background=False, ignore_empty=False).mean())


def case_scores(
    prediction: Tensor, label: Tensor, classes: int, spacing: tuple[float, float, float]
) -> dict[str, float]:
    """Return `dice`, `iou` and `hd95` of one case, each the mean over foreground classes.

    Args:
        prediction: class indices, shape (D, H, W).
        label: likewise.
        classes: number of classes, background included.
        spacing: distance between voxels (slice, row, column).

    HD95 is the larger of the two directed 95th percentiles of surface distances, in the
    unit of `spacing`. A class empty in both counts as Dice 1, IoU 1 and HD95 0; empty in
    one of them as Dice 0, IoU 0 and HD95 = the diagonal of the stack.
    """
    p, l = _onehot(prediction, classes), _onehot(label, classes)
    iou = compute_iou(p, l, include_background=False, ignore_empty=False)
    diagonal = math.dist((0, 0, 0), [n * s for n, s in zip(label.shape, spacing, strict=True)])
    distances = []
    for c in range(1, classes):
        there, wanted = bool(p[0, c].any()), bool(l[0, c].any())
        if there and wanted:
            distances.append(_hd95(p[:, c : c + 1], l[:, c : c + 1], spacing))
        else:
            distances.append(diagonal if there or wanted else 0.0)
    return {
        "dice": dice(prediction, label, classes),
        "iou": float(iou.mean()),
        "hd95": sum(distances) / len(distances),
    }


def _onehot(indices: Tensor, classes: int) -> Tensor:
    """Return a one-hot stack, shape (1, classes, D, H, W)."""
    return F.one_hot(indices.long(), classes).movedim(-1, 0).unsqueeze(0).float()


def _hd95(p: Tensor, l: Tensor, spacing: tuple[float, float, float]) -> float:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MONAI warns of a change that does not concern us
        distance = compute_hausdorff_distance(
            p, l, include_background=True, percentile=95, spacing=list(spacing)
        )
    return float(torch.as_tensor(distance).squeeze())
