"""Scores of one case (patient), over the whole stack of its slices.

Every score is the mean over foreground classes. A class that is empty in prediction and
label counts as perfect (Dice 1, IoU 1, HD95 0), one that is empty in one of them as the
worst there is (Dice 0, IoU 0, HD95 the diagonal of the stack).
"""

import math
import warnings
from collections.abc import Callable, Sequence
from statistics import fmean

import torch
from monai.metrics import compute_dice, compute_hausdorff_distance, compute_iou
from torch import Tensor
from torch.nn import functional as F

Spacing = tuple[float, float, float]


def dice(prediction: Tensor, label: Tensor, spacing: Spacing) -> float:
    """Return 2|P n L| / (|P| + |L|); arguments as in every score of `SEGMENTATION`.

    Args:
        prediction: one-hot, shape (1, K, D, H, W), class 0 the background.
        label: likewise.
        spacing: distance between voxels (slice, row, column); plays no part here.
    """
    return fmean(
        compute_dice(prediction, label, include_background=False, ignore_empty=False)[0].tolist()
    )


def iou(prediction: Tensor, label: Tensor, spacing: Spacing) -> float:
    """Return |P n L| / |P u L|."""
    return fmean(
        compute_iou(prediction, label, include_background=False, ignore_empty=False)[0].tolist()
    )


def hd95(prediction: Tensor, label: Tensor, spacing: Spacing) -> float:
    """Return the larger of the two directed 95th percentiles of surface distances.

    In the unit of `spacing`. What lies beyond the first and the last slice is taken to be
    like them, so that a stack of one slice has the distances of its outlines.
    """
    corner = [n * s for n, s in zip(label.shape[2:], spacing, strict=True)]
    ends = (0, 0, 0, 0, 1, 1)
    distances = []
    for c in range(1, label.shape[1]):
        there, wanted = bool(prediction[0, c].any()), bool(label[0, c].any())
        if there and wanted:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # MONAI announces a change of no concern here
                distance = compute_hausdorff_distance(
                    F.pad(prediction[:, c : c + 1], ends, mode="replicate"),
                    F.pad(label[:, c : c + 1], ends, mode="replicate"),
                    include_background=True,
                    percentile=95,
                    spacing=list(spacing),
                )
            distances.append(float(torch.as_tensor(distance).squeeze()))
        else:
            distances.append(math.hypot(*corner) if there or wanted else 0.0)
    return fmean(distances)


SEGMENTATION: dict[str, Callable[[Tensor, Tensor, Spacing], float]] = {
    "dice": dice,
    "iou": iou,
    "hd95": hd95,
}


def case_scores(
    prediction: Tensor,
    label: Tensor,
    classes: int,
    spacing: Spacing,
    names: Sequence[str] = tuple(SEGMENTATION),
) -> dict[str, float]:
    """Return the scores `names` of one case.

    Args:
        prediction: class indices, shape (D, H, W).
        label: likewise.
        classes: number of classes, background included.
        spacing: distance between voxels (slice, row, column).
        names: which of `SEGMENTATION`.
    """
    p, l = (F.one_hot(x.long(), classes).movedim(-1, 0)[None].float() for x in (prediction, label))
    return {name: SEGMENTATION[name](p, l, spacing) for name in names}
