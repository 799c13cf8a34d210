"""Scores of one volume, over the whole stack of its slices, or of one picture.

Every score is the mean over foreground classes. A class that is empty in prediction and
label counts as perfect (Dice 1, IoU 1, HD95 0), one that is empty in one of them as the
worst there is (Dice 0, IoU 0, HD95 the diagonal of the stack).
"""

import math
from collections.abc import Callable, Sequence
from statistics import fmean

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from fedcl.data.labels import IGNORED

Spacing = tuple[float, float, float]
Array = NDArray[np.bool_]


def dice(prediction: Tensor, label: Tensor, spacing: Spacing) -> float:
    """Return 2|P n L| / (|P| + |L|); arguments as in every score of `SEGMENTATION`.

    Args:
        prediction: one-hot, shape (1, K, D, H, W), class 0 the background.
        label: likewise.
        spacing: distance between voxels (slice, row, column); plays no part here.
    """
    from monai.metrics import compute_dice  # takes seconds

    return fmean(
        compute_dice(prediction, label, include_background=False, ignore_empty=False)[0].tolist()
    )


def iou(prediction: Tensor, label: Tensor, spacing: Spacing) -> float:
    """Return |P n L| / |P u L|."""
    from monai.metrics import compute_iou  # takes seconds

    return fmean(
        compute_iou(prediction, label, include_background=False, ignore_empty=False)[0].tolist()
    )


def hd95(prediction: Tensor, label: Tensor, spacing: Spacing) -> float:
    """Return the larger of the two directed 95th percentiles of surface distances.

    In the unit of `spacing`. A surface are the voxels with a neighbour outside, along an axis.
    What lies beyond an image's edge is outside, as MONAI and medpy take it, but what lies beyond
    the first and the last slice is like them: a stack that ends within an organ does not cut it,
    and a stack of one slice has the distances of its outlines.
    """
    corner = [n * s for n, s in zip(label.shape[2:], spacing, strict=True)]
    distances = []
    for c in range(1, label.shape[1]):
        found, wanted = (x[0, c].numpy() > 0 for x in (prediction, label))
        if found.any() and wanted.any():
            distances.append(_apart(found, wanted, spacing))
        else:
            distances.append(math.hypot(*corner) if found.any() or wanted.any() else 0.0)
    return fmean(distances)


def _apart(one: Array, other: Array, spacing: Spacing) -> float:
    """Return the 95 % Hausdorff distance of two masks, (D, H, W), neither of them empty."""
    from scipy.ndimage import distance_transform_edt

    slices, *plane = (
        slice(int(axis.min()), int(axis.max()) + 1) for axis in np.nonzero(one | other)
    )
    # One slice more on each side, where there is one: whole end slices are no surface.
    box = (slice(max(slices.start - 1, 0), slices.stop + 1), *plane)
    surfaces = [_surface(mask[box]) for mask in (one, other)]
    away = [distance_transform_edt(~surface, sampling=spacing) for surface in surfaces]
    there, back = away[1][surfaces[0]], away[0][surfaces[1]]
    return float(max(np.percentile(there, 95), np.percentile(back, 95)))


def _surface(mask: Array) -> Array:
    """Return the voxels of a mask, (D, H, W), with a neighbour outside; see `hd95`."""
    from scipy.ndimage import binary_erosion

    longer = np.pad(mask, ((1, 1), (0, 0), (0, 0)), mode="edge")
    inner: Array = mask & ~binary_erosion(longer)[1:-1]
    return inner


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
        label: likewise, or `IGNORED` where the prediction is not looked at either.
        classes: number of classes, background included.
        spacing: distance between voxels (slice, row, column).
        names: which of `SEGMENTATION`.
    """
    counts = label != IGNORED
    prediction, label = (x.where(counts, 0) for x in (prediction, label))
    p, l = (F.one_hot(x.long(), classes).movedim(-1, 0)[None].float() for x in (prediction, label))
    return {name: SEGMENTATION[name](p, l, spacing) for name in names}
